"""Training losses and their gradients equal torch's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")

from tljax.config import Loss  # noqa: E402
from tljax.tasks import losses  # noqa: E402

LABELS = np.array([0, 3, 1, 1, 2, 4])
WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0, 3.0])


def torch_cross_entropy(logits, smoothing, weights):
    return torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(LABELS), weights, label_smoothing=smoothing
    )


def torch_binary_cross_entropy(logits, smoothing, weights):
    targets = (1 - smoothing) * np.eye(5)[LABELS] + smoothing / 5
    return torch.nn.BCEWithLogitsLoss(weights)(logits, torch.from_numpy(targets))


THEIRS = {
    "cross_entropy": torch_cross_entropy,
    "binary_cross_entropy": torch_binary_cross_entropy,
}


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", THEIRS)
def test_a_loss_is_torchs(name, smoothing, weights):
    logits = 5 * np.random.default_rng(0).normal(size=(len(LABELS), 5))
    theirs = torch.from_numpy(logits.copy()).requires_grad_()
    given = None if weights is None else torch.from_numpy(weights)
    expected = THEIRS[name](theirs, smoothing, given)
    expected.backward()
    with jax.enable_x64(True):
        loss, gradient = jax.value_and_grad(losses.LOSSES[name])(
            jnp.asarray(logits), jnp.eye(5)[LABELS], Loss(label_smoothing=smoothing),
            weights,
        )  # fmt: skip
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-10, atol=1e-14)
