"""Spectral normalisation and the gradient penalty equal torch's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")

from tljax.models import spectral  # noqa: E402
from tljax.tasks import adversarial  # noqa: E402


def test_a_spectral_norm_and_its_slope_are_torchs():
    """Once the vectors have converged; torch's own begin at random."""
    rng = np.random.default_rng(0)
    kernel, images = rng.normal(size=(3, 3, 4, 5)), rng.normal(size=(2, 6, 6, 4))
    conv = torch.nn.Conv2d(4, 5, 3, bias=False, dtype=torch.float64)
    conv.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    torch.nn.utils.parametrizations.spectral_norm(conv, n_power_iterations=500)
    expected = conv(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    (expected**2).sum().backward()
    slope = conv.parametrizations.weight.original.grad.numpy().transpose(2, 3, 1, 0)
    with jax.enable_x64(True):
        params = {"kernel": jnp.asarray(kernel)}
        vectors = spectral.create_vectors(jax.random.key(0), params, iterations=500)

        def outputs(params):
            return jax.lax.conv_general_dilated(
                jnp.asarray(images), spectral.normalize(params, vectors)["kernel"],
                (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip

        found = outputs(params)
        grads = jax.grad(lambda params: jnp.sum(outputs(params) ** 2))(params)
    theirs = expected.detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, theirs, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(grads["kernel"], slope, rtol=1e-8, atol=1e-10)


def test_a_gradient_penalty_and_its_slope_are_torchs():
    """Of a discriminator of two layers, trained by the gradient of a gradient."""
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(12, 7)), rng.normal(size=7)
    real, fake = rng.normal(size=(2, 5, 2, 2, 3))
    key = jax.random.key(3)
    with jax.enable_x64(True):
        share = np.array(jax.random.uniform(key, (5, 1, 1, 1), jnp.float64))

        def penalty(first):
            def discriminate(images):
                return jnp.tanh(images.reshape(5, 12) @ first) @ jnp.asarray(last)

            return adversarial.gradient_penalty(
                key, discriminate, jnp.asarray(real), jnp.asarray(fake)
            )

        found, slope = jax.value_and_grad(penalty)(jnp.asarray(first))
    weights = torch.from_numpy(first).requires_grad_()
    between = torch.from_numpy(share * real + (1 - share) * fake).requires_grad_()
    logits = torch.tanh(between.reshape(5, 12) @ weights) @ torch.from_numpy(last)
    (slopes,) = torch.autograd.grad(logits.sum(), between, create_graph=True)
    expected = ((slopes.reshape(5, -1).norm(dim=1) - 1) ** 2).mean()
    expected.backward()
    np.testing.assert_allclose(found, expected.item(), rtol=1e-12)
    np.testing.assert_allclose(slope, weights.grad.numpy(), rtol=1e-10, atol=1e-13)
