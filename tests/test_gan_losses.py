"""Losses, penalties and augmentations of GANs against formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from tljax.data.transforms import Transform
from tljax.tasks import adversarial, diff_augment
from tljax.tasks.adversarial import LOSSES

# Images in [-1, 1].
ONE = diff_augment.unit_of(Transform())
REAL = np.array([-40.0, -1.5, -0.2, 0.0, 0.7, 3.0, 40.0])
FAKE = np.array([40.0, 2.5, 0.3, 0.0, -0.6, -2.0, -40.0])


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def value(real, fake):
    """V(D, G) of Goodfellow et al. 2014, equation 1, as written."""
    return np.mean(np.log(sigmoid(real))) + np.mean(np.log(1 - sigmoid(fake)))


def hinge(x):
    return np.maximum(0, x)


# name -> (the discriminator's, the generator's) loss of logits of real and generated.
EXPECTED = {
    "minimax": (
        lambda r, f: -value(r, f),
        lambda f: np.mean(np.log(1 - sigmoid(f))),
    ),
    "non_saturating": (
        lambda r, f: -value(r, f),
        lambda f: -np.mean(np.log(sigmoid(f))),
    ),
    "hinge": (
        lambda r, f: np.mean(hinge(1 - r)) + np.mean(hinge(1 + f)),
        lambda f: -np.mean(f),
    ),
    "wasserstein": (
        lambda r, f: np.mean(f) - np.mean(r),
        lambda f: -np.mean(f),
    ),
    "least_squares": (
        lambda r, f: np.mean((r - 1) ** 2) / 2 + np.mean(f**2) / 2,
        lambda f: np.mean((f - 1) ** 2) / 2,
    ),
}


def test_every_loss_has_a_formula_here():
    assert set(EXPECTED) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_formula(name):
    of_discriminator, of_generator = EXPECTED[name]
    # 1 - sigmoid(40) is 0 in float64: the formula as written cannot go there.
    real, fake = REAL[1:-1], FAKE[1:-1]
    with jax.enable_x64(True):
        found = adversarial.discriminator_loss(
            LOSSES[name], jnp.asarray(real), jnp.asarray(fake)
        )
        generated = adversarial.generator_loss(LOSSES[name], jnp.asarray(fake))
    np.testing.assert_allclose(found, of_discriminator(real, fake), rtol=1e-12)
    np.testing.assert_allclose(generated, of_generator(fake), rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_slopes_stay_finite(name):
    """At logits where log(1 - sigmoid) itself would be minus infinity."""
    real, fake = jnp.asarray(REAL, jnp.float32), jnp.asarray(FAKE, jnp.float32)
    found = jax.value_and_grad(adversarial.discriminator_loss, argnums=(1, 2))(
        LOSSES[name], 10 * real, 10 * fake
    )
    generated = jax.value_and_grad(adversarial.generator_loss, argnums=1)(
        LOSSES[name], 10 * fake
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found, generated)))


def test_minimax_of_a_discriminator_that_cannot_tell_is_minus_log_4():
    """Goodfellow et al. 2014, theorem 1: D = 1/2 everywhere."""
    loss, zeros = LOSSES["minimax"], jnp.zeros(5)
    found = -adversarial.discriminator_loss(loss, zeros, zeros)
    np.testing.assert_allclose(found, -np.log(4), rtol=1e-6)
    # The generator minimises the same value.
    generated = adversarial.generator_loss(loss, jnp.asarray([0.3, -2.0]))
    real = jnp.mean(loss.real(zeros))
    np.testing.assert_allclose(
        generated - real, value(np.zeros(5), np.array([0.3, -2.0])), rtol=1e-6
    )


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].bound == 0])
def test_the_bound_of_a_loss_is_reached(name):
    """By logits far apart; for least squares, by the values it asks for."""
    real, fake = (1.0, 0.0) if name == "least_squares" else (50.0, -50.0)
    logits = jnp.full(3, real), jnp.full(3, fake)
    found = adversarial.discriminator_loss(LOSSES[name], *logits)
    np.testing.assert_allclose(found, 0, atol=1e-12)


def quadratic(images, weights):
    """A discriminator of known gradient, 2 w x for each image: [b, h, w, c] -> [b]."""
    return jnp.sum(weights[None] * images**2, axis=(1, 2, 3))


def draw_images(seed, size=4):
    return np.random.default_rng(seed).normal(size=(size, 3, 3, 2))


def test_gradient_penalty_of_a_linear_discriminator_is_that_of_its_norm():
    weights = draw_images(1, 1)[0]
    with jax.enable_x64(True):
        found = adversarial.gradient_penalty(
            jax.random.key(0),
            lambda x: jnp.sum(jnp.asarray(weights)[None] * x, axis=(1, 2, 3)),
            jnp.asarray(draw_images(2)),
            jnp.asarray(draw_images(3)),
        )
    np.testing.assert_allclose(found, (np.linalg.norm(weights) - 1) ** 2, rtol=1e-12)


def test_penalties_are_their_formulas():
    """The gradient of each image, at the points between; and at the real ones."""
    weights, real, fake = draw_images(1, 1)[0], draw_images(2), draw_images(3)
    key = jax.random.key(7)
    with jax.enable_x64(True):
        share = np.asarray(jax.random.uniform(key, (4, 1, 1, 1), jnp.float64))

        def discriminate(images):
            return quadratic(images, jnp.asarray(weights))

        found = adversarial.gradient_penalty(
            key, discriminate, jnp.asarray(real), jnp.asarray(fake)
        )
        r1 = adversarial.r1_penalty(discriminate, jnp.asarray(real))
    slopes = 2 * weights * (share * real + (1 - share) * fake)
    norms = np.sqrt((slopes**2).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(found, np.mean((norms - 1) ** 2), rtol=1e-12)
    expected = np.mean(((2 * weights * real) ** 2).sum(axis=(1, 2, 3))) / 2
    np.testing.assert_allclose(r1, expected, rtol=1e-12)
    assert len(np.unique(share)) == 4


def test_the_slope_of_a_penalty_is_that_of_finite_differences():
    """The discriminator is trained by the gradient of a gradient."""
    real, fake, key = draw_images(2), draw_images(3), jax.random.key(7)
    with jax.enable_x64(True):
        weights = jnp.asarray(draw_images(1, 1)[0])

        def penalties(weights):
            def discriminate(images):
                return jnp.tanh(quadratic(images, weights))

            between = adversarial.gradient_penalty(
                key, discriminate, jnp.asarray(real), jnp.asarray(fake)
            )
            return between + adversarial.r1_penalty(discriminate, jnp.asarray(real))

        check_grads(penalties, (weights,), order=1, modes="rev")


def test_a_discriminator_without_slope_has_a_penalty_with_finite_slope():
    images = jnp.asarray(draw_images(1), jnp.float32)

    def penalty(scale):
        return adversarial.gradient_penalty(
            jax.random.key(0),
            lambda x: scale * jnp.sum(x, axis=(1, 2, 3)),
            images,
            images,
        )

    found, slope = jax.value_and_grad(penalty)(0.0)
    assert found == 1 and slope == 0


def test_spread_is_the_distance_of_pairs():
    images = draw_images(0, 5)
    flat = images.reshape(5, -1)
    squares = [
        np.sum((flat[i] - flat[j]) ** 2) for i in range(5) for j in range(5) if i != j
    ]
    found = adversarial.spread(jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(found, np.sqrt(np.mean(squares)), rtol=1e-5)
    assert adversarial.spread(jnp.ones((4, 2, 2, 1))) == 0
    assert adversarial.spread(jnp.ones((1, 2, 2, 1))) == 0


def test_share_told_apart_counts_pairs():
    real, fake = jnp.asarray([1.0, 3.0]), jnp.asarray([0.0, 1.0, 2.0])
    # 1 is above 0 and ties with 1; 3 is above all.
    found = adversarial.share_told_apart(real, fake)
    np.testing.assert_allclose(found, (1.5 + 3) / 6, rtol=1e-6)


def test_augmentation_stays_within_the_papers_amounts(key):
    """Of images of one bright pixel, 16 px, against the ranges written out."""
    size = 16
    images = jnp.zeros((400, size, size, 1)).at[:, 8, 8].set(1.0)
    moved = np.asarray(jax.jit(diff_augment.translation)(key, images, ONE))
    rows, columns = np.nonzero(moved.sum(axis=(0, 3)))
    assert set(rows) == set(columns) == set(range(6, 11))
    images = jnp.ones_like(images)
    shown = np.asarray(jax.jit(diff_augment.cutout)(key, images, ONE))[..., 0]
    hidden = (shown == 0).sum(axis=(1, 2))
    # A square of 8x8, cut off by the border down to 4x4 where its middle is a corner.
    assert hidden.max() == 64 and hidden.min() == 16
    inside = (shown == 0)[hidden == 64]
    assert {tuple(np.ptp(np.nonzero(each), axis=1)) for each in inside} == {(7, 7)}


@pytest.mark.parametrize("std", [(0.5,), (0.25, 0.25, 0.25)])
def test_colors_keep_what_the_paper_keeps(key, std):
    """Brightness moves the mean; contrast and saturation stretch around it."""
    unit = diff_augment.unit_of(Transform(std=std))
    images = jax.random.normal(key, (300, 4, 4, 3))
    changed = np.asarray(jax.jit(diff_augment.color)(key, images, unit))
    images = np.asarray(images)
    shifts = (changed.mean(axis=(1, 2, 3)) - images.mean(axis=(1, 2, 3))) / unit[0]
    assert -0.5 <= shifts.min() < -0.4 and 0.4 < shifts.max() <= 0.5
    # Within a pixel: saturation times contrast; between pixels, contrast alone.
    grey = np.std(changed.mean(axis=3), axis=(1, 2))
    contrasts = grey / np.std(images.mean(axis=3), axis=(1, 2))
    assert 0.5 <= contrasts.min() < 0.6 and 1.4 < contrasts.max() <= 1.5
    within = np.std(changed - changed.mean(axis=3, keepdims=True), axis=(1, 2, 3))
    before = np.std(images - images.mean(axis=3, keepdims=True), axis=(1, 2, 3))
    saturations = within / before / contrasts
    assert 0 <= saturations.min() < 0.1 and 1.9 < saturations.max() <= 2


def test_augmentation_is_differentiated_through(key):
    """Each policy passes the slope of what is still seen."""
    images = jax.random.normal(key, (5, 8, 8, 3))

    def slope(images, name):
        def total(images):
            return diff_augment.augment(key, images, (name,), ONE).sum()

        return jax.grad(total)(images)

    for name in diff_augment.POLICIES:
        found = jax.jit(slope, static_argnums=1)(images, name)
        assert np.abs(np.asarray(found)).sum() > 0, name
    same = diff_augment.augment(key, images, (), ONE)
    np.testing.assert_array_equal(same, images)
