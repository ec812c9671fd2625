"""Losses and measures of reconstructions against direct computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoencoders import make_config
from scipy import integrate, stats

from tljax.data.transforms import Transform
from tljax.models.decoder import Reconstruction
from tljax.tasks import corruption, reconstruction


def test_the_loss_of_a_masked_model_is_of_hidden_pixels(key):
    images, others = (jax.random.normal(k, (3, 8, 8, 2)) for k in jax.random.split(key))
    visible = corruption.draw_visible(key, 3, (8, 8, 2), 3, 0.5)
    config = make_config("resnet_autoencoder", mask_ratio=0.5)
    found = Reconstruction(others, images)
    losses = reconstruction.image_losses(found, images, visible, {}, config)
    squares = np.mean(np.square(others - images), axis=-1)
    hidden = np.asarray(visible)[..., 0] == 0
    expected = [
        each[chosen].mean() for each, chosen in zip(squares, hidden, strict=True)
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    plain = reconstruction.image_losses(found, images, None, {}, config)
    np.testing.assert_allclose(plain, squares.mean(axis=(1, 2)), rtol=1e-5)


def test_the_divergence_is_that_of_the_two_densities():
    rng = np.random.default_rng(0)
    mean, log_variance = rng.normal(size=(2, 3, 2))

    def divergence(place):
        ours = stats.norm(mean[place], np.exp(log_variance[place] / 2))
        integrand = lambda x: ours.pdf(x) * (ours.logpdf(x) - stats.norm.logpdf(x))  # noqa: E731
        return integrate.quad(integrand, -20, 20)[0]

    each = [divergence(place) for place in np.ndindex(mean.shape)]
    expected = np.reshape(each, mean.shape).sum(axis=1)
    found = reconstruction.kl_divergence(jnp.array(mean), jnp.array(log_variance))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    images = jnp.zeros((3, 4, 5, 2))
    found = Reconstruction(images + 2, jnp.array(mean), jnp.array(log_variance))
    config = make_config(kl_weight=0.7)
    losses = reconstruction.image_losses(found, images, None, {}, config)
    np.testing.assert_allclose(losses, 4 + 0.7 * expected / 40, rtol=1e-5)


def direct_ssim(x, y, size):
    """Returns SSIM of two images [h, w, c] by equations 13 to 15 of Wang et al."""
    offsets = np.arange(size) - size // 2
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for row, column, channel in np.ndindex(
        x.shape[0] - size + 1, x.shape[1] - size + 1, x.shape[2]
    ):
        there = slice(row, row + size), slice(column, column + size), channel
        a, b = x[there], y[there]
        mean_a, mean_b = np.sum(window * a), np.sum(window * b)
        var_a = np.sum(window * (a - mean_a) ** 2)
        var_b = np.sum(window * (b - mean_b) ** 2)
        both = np.sum(window * (a - mean_a) * (b - mean_b))
        values.append(
            (2 * mean_a * mean_b + 0.01**2)
            * (2 * both + 0.03**2)
            / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))
        )
    return np.mean(values)


@pytest.mark.parametrize(
    "shape, size", [((14, 12, 3), 11), ((8, 8, 1), 7), ((9, 10, 2), 9)]
)
def test_ssim_is_the_formula(shape, size):
    rng = np.random.default_rng(0)
    x = rng.random((3, *shape))
    noise = np.array([0.0, 0.1, 1.0]).reshape(3, 1, 1, 1)
    y = np.clip(x + noise * rng.normal(size=x.shape), 0, 1)
    expected = [direct_ssim(a, b, size) for a, b in zip(x, y, strict=True)]
    found = reconstruction.ssim(jnp.array(x, jnp.float32), jnp.array(y, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert expected[0] == 1 and expected[2] < 0.5


def test_measures_are_of_levels_between_black_and_white():
    rng = np.random.default_rng(0)
    levels = rng.random((2, 8, 8, 3)).astype(np.float32)
    others = levels + rng.normal(0, 0.3, levels.shape).astype(np.float32)
    transform = Transform(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    images, reconstructions = (
        (each - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
        for each in (levels, others)
    )
    found = reconstruction.measures(reconstructions, images, None, transform)
    clipped = np.clip(others, 0, 1)
    mse = np.mean((clipped - levels) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(found["mse"], mse, rtol=1e-4)
    expected = reconstruction.ssim(clipped, levels)
    np.testing.assert_allclose(found["ssim"], expected, rtol=1e-5)
    # What was visible counts as it was.
    visible = jnp.asarray(rng.random((2, 8, 8, 1)) < 0.5, jnp.float32)
    found = reconstruction.measures(reconstructions, images, visible, transform)
    hidden = np.broadcast_to(visible == 0, levels.shape)
    mse = np.sum((clipped - levels) ** 2 * hidden, axis=(1, 2, 3))
    np.testing.assert_allclose(found["mse"], mse / hidden.sum((1, 2, 3)), rtol=1e-4)
    filled = np.where(hidden, clipped, levels)
    expected = reconstruction.ssim(jnp.asarray(filled), levels)
    np.testing.assert_allclose(found["ssim"], expected, rtol=1e-4)
