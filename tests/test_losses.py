"""Training losses against formulas in float64, their gradients, and soft targets."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.utils.class_weight import compute_class_weight

from tljax.config import Config, Loss
from tljax.errors import ConfigError
from tljax.tasks import losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0, 0.0, 1.0])])
def test_the_loss_is_pytorchs(smoothing, weights):
    """torch's cross_entropy(weight=..., label_smoothing=...), written out."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 4)), np.array([0, 3, 1, 1, 2])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    each = np.ones(4) if weights is None else weights
    right = -(each[labels] * log_p[np.arange(5), labels]).sum()
    spread = -(each * log_p).sum()
    expected = ((1 - smoothing) * right + smoothing / 4 * spread) / each[labels].sum()

    targets = jax.nn.one_hot(labels, 4)
    smooth = optax.smooth_labels(targets, smoothing)
    each = losses.weighted_cross_entropy(
        jnp.asarray(logits, jnp.float32), smooth, weights
    )
    found = jnp.sum(each) / losses.total_weight(targets, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_balanced_class_weights_are_scikit_learns():
    labels = np.array([0, 0, 0, 2, 2, 3])
    classes = np.array([0, 2, 3])
    expected = compute_class_weight("balanced", classes=classes, y=labels)
    found = losses.find_class_weights(
        Config(loss=Loss(balanced=True)), labels, num_classes=4
    )
    np.testing.assert_allclose(found[classes], expected)
    assert found[1] == 0
    given = Config(loss=Loss(class_weights=(1.0, 2.0)))
    np.testing.assert_array_equal(
        losses.find_class_weights(given, labels % 2, 2), [1, 2]
    )
    with pytest.raises(ConfigError, match="has 2 values; there are 4 classes"):
        losses.find_class_weights(given, labels, 4)
    assert losses.find_class_weights(Config(), labels, 4) is None
