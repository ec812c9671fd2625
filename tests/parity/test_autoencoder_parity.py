"""Losses of autoencoders and their gradients equal torch's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")

from tljax import models  # noqa: E402
from tljax.tasks import reconstruction  # noqa: E402


def test_the_divergence_is_torchs():
    mean, log_variance = np.random.default_rng(0).normal(size=(2, 5, 7))
    ours = torch.distributions.Normal(
        torch.from_numpy(mean), torch.from_numpy(np.exp(log_variance / 2))
    )
    prior = torch.distributions.Normal(torch.zeros(7).double(), torch.ones(7).double())
    expected = torch.distributions.kl_divergence(ours, prior).sum(dim=1)
    with jax.enable_x64(True):
        found = reconstruction.kl_divergence(jnp.array(mean), jnp.array(log_variance))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "activation", ["sigmoid", "tanh", "relu", "elu", "gelu", "softplus"]
)
def test_the_tied_loss_and_its_gradient_are_torchs(activation):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 2, 3, 1))
    shapes = {"encoder_0": (6, 5), "encoder_1": (5, 3)}
    params = {
        name: {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[1])}
        for name, shape in shapes.items()
    }
    model = models.AUTOENCODERS["tied_autoencoder"](
        (2, 3, 1), hidden=(5, 3), activation=activation
    )

    def loss(params):
        found = model.apply({"params": params}, jnp.asarray(images))
        return reconstruction.tied_loss(params, found.images, images, 0.3)

    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    theirs = jax.tree.map(lambda leaf: torch.tensor(leaf, requires_grad=True), params)
    (first, first_bias), (second, second_bias) = (
        (theirs[name]["kernel"], theirs[name]["bias"]) for name in shapes
    )
    functional = torch.nn.functional
    f = getattr(functional, activation, None) or getattr(torch, activation)
    x = torch.from_numpy(images).reshape(4, 6)
    code = f(f(x @ first + first_bias) @ second + second_bias)
    back = f(code @ second.T) @ first.T
    expected = ((x - back) ** 2).sum() / 2 + 0.3 * (
        (first**2).sum() + (second**2).sum()
    )
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
    jax.tree.map(
        lambda ours, leaf: np.testing.assert_allclose(
            ours, leaf.grad, rtol=1e-9, atol=1e-12
        ),
        gradient, theirs,
    )  # fmt: skip
