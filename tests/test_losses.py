"""Training losses against formulas in float64, their gradients, and soft targets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from tljax.config import Config, CutMix, Loss, Mixup
from tljax.data.pixels import mixing
from tljax.errors import ConfigError
from tljax.tasks import losses

WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0])
HARD = np.eye(4, dtype=np.float32)[[0, 3, 1, 1, 2]]
# As a mixture of two images of other classes, and of the same class, leaves them.
SOFT = np.array(
    [[0.7, 0.3, 0, 0], [0, 0, 0.4, 0.6], [0, 1, 0, 0], [0, 0.1, 0.9, 0]], np.float32
)


def draw_logits(targets, scale=2.0):
    return scale * np.random.default_rng(0).normal(size=targets.shape)


def formula(logits, targets, config, weights):
    """Returns the loss as papers and torch's manual write it, in float64."""
    weights = np.ones(logits.shape[1]) if weights is None else weights
    share = config.label_smoothing
    smooth = (1 - share) * targets.astype(np.float64) + share / logits.shape[1]
    if config.name == "binary_cross_entropy":
        p = 1 / (1 + np.exp(-logits))
        each = -weights * (smooth * np.log(p) + (1 - smooth) * np.log(1 - p))
        return each.mean()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    each = -weights * smooth * np.log(p)
    if config.name == "focal":
        each = each * (1 - p) ** config.focal_gamma
    return each.sum() / (targets * weights).sum()


@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_loss_is_its_formula(name, smoothing, weights, targets):
    config = Loss(name=name, label_smoothing=smoothing, focal_gamma=1.5)
    logits = draw_logits(targets)
    found = losses.LOSSES[name](jnp.asarray(logits), targets, config, weights)
    assert found.shape == () and found.dtype == jnp.float32
    expected = formula(logits, targets, config, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("mixture", [Mixup(), CutMix()], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_mixture_counts_as_its_two_images_do(name, mixture, key):
    """A loss is a sum over the target's classes, each times its share."""
    images = jnp.zeros((4, 6, 6, 1))
    targets = jnp.eye(4)
    _, mixed = jax.jit(mixing.mix, static_argnums=3)(key, images, targets, (mixture,))
    assert np.count_nonzero((mixed > 0) & (mixed < 1)) >= 4
    loss = functools.partial(losses.LOSSES[name], config=Loss(), class_weights=None)
    logits = jnp.asarray(draw_logits(targets))
    each = np.array(
        [
            [loss(logits[row : row + 1], targets[k : k + 1]) for k in range(4)]
            for row in range(4)
        ]
    )
    expected = np.mean(np.sum(mixed * each, axis=1))
    np.testing.assert_allclose(loss(logits, mixed), expected, rtol=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_focal_without_focus_is_cross_entropy(weights):
    config = Loss(focal_gamma=0.0, label_smoothing=0.1)
    logits = jnp.asarray(draw_logits(SOFT, scale=30.0))
    for function in (lambda loss: loss, jax.grad):
        focal, cross_entropy = (
            function(loss)(logits, SOFT, config, weights)
            for loss in (losses.focal, losses.cross_entropy)
        )
        np.testing.assert_array_equal(focal, cross_entropy)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("name", ["binary_cross_entropy", "focal"])
def test_gradients_are_differences_of_the_formula(name, gamma):
    config = Loss(name=name, focal_gamma=gamma, label_smoothing=0.1)
    logits = draw_logits(SOFT)
    expected = np.zeros_like(logits)
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-5
        above, below = (
            formula(logits + side * step, SOFT, config, WEIGHTS) for side in (1, -1)
        )
        expected[place] = (above - below) / 2e-5
    gradient = jax.grad(losses.LOSSES[name])(jnp.asarray(logits), SOFT, config, WEIGHTS)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [17.0, 100.0, 1e30])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 50.0])
def test_focal_is_finite_where_the_network_is_sure(gamma, size):
    """Right, wrong and of two minds; p is 1 in float32."""
    config = Loss(focal_gamma=gamma)
    logits = jnp.array([[size, 0.0, 0.0]] * 3)
    targets = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    for row in range(3):
        loss, gradient = jax.value_and_grad(losses.focal)(
            logits[row : row + 1], targets[row : row + 1], config, None
        )
        wrong = 1 - targets[row, 0]
        np.testing.assert_allclose(loss, wrong * size, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(
            gradient[0], wrong * jnp.array([1.0, -1.0, 0.0]), atol=0.01
        )


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


def test_a_batch_of_classes_that_weigh_nothing_has_no_loss():
    logits = jnp.array([[1.0, 2.0], [0.5, -1.0]])
    targets = jnp.array([[0.0, 1.0], [0.0, 1.0]])
    weights = np.array([1.0, 0.0])
    for name in ("cross_entropy", "focal"):
        found = losses.LOSSES[name](logits, targets, Loss(name=name), weights)
        assert found == 0
