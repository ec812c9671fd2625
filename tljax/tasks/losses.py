"""Training losses of classification by name, and the weights of classes in them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.errors import ConfigError
from tljax.models import devices

# Every loss takes logits [b, classes], soft targets [b, classes] before smoothing,
# `config.loss` and the weights of the classes [classes] or None. It returns a scalar.


def cross_entropy(
    logits: jax.Array, targets: jax.Array, config, class_weights: np.ndarray | None
) -> jax.Array:
    """Returns the softmax cross-entropy, a mean over what the batch weighs.

    torch's `cross_entropy` with `weight` and `label_smoothing`.
    """
    smooth = smoothed(logits, targets, config)
    losses = weighted_cross_entropy(logits, smooth, class_weights)
    return jnp.sum(losses) / total_weight(targets, class_weights)


def binary_cross_entropy(
    logits: jax.Array, targets: jax.Array, config, class_weights: np.ndarray | None
) -> jax.Array:
    """Returns the sigmoid cross-entropy of each class against the rest, a mean.

    The mean is over batch and classes, as timm's. torch's `BCEWithLogitsLoss(weight)`:
    the weight of a class is that of its output in every image, and nothing is divided
    by the sum of weights.
    """
    smooth = smoothed(logits, targets, config)
    losses = optax.sigmoid_binary_cross_entropy(logits, smooth)
    if class_weights is not None:
        losses = losses * jnp.asarray(class_weights, losses.dtype)[None, :]
    return jnp.mean(losses)


def focal(
    logits: jax.Array, targets: jax.Array, config, class_weights: np.ndarray | None
) -> jax.Array:
    """Returns the focal loss: the cross-entropy of class k times (1 - p_k)^gamma.

    Lin et al. 2017 (arXiv 1708.02002), with the softmax for the sigmoid. Smoothing and
    class weights are those of `cross_entropy`, which gamma 0 is.
    """
    smooth = smoothed(logits, targets, config)
    log_p = jax.nn.log_softmax(logits)
    # Where p rounds to 1, the slope of (1 - p)^gamma would be infinite below gamma 1.
    rest = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).eps)
    losses = weighted_cross_entropy(
        logits, smooth * rest**config.focal_gamma, class_weights
    )
    return jnp.sum(losses) / total_weight(targets, class_weights)


def smoothed(logits: jax.Array, targets: jax.Array, config) -> jax.Array:
    """Returns targets [b, classes] in the logits' dtype, a share spread evenly."""
    return optax.smooth_labels(targets.astype(logits.dtype), config.label_smoothing)


def weighted_cross_entropy(
    logits: jax.Array, targets: jax.Array, class_weights: np.ndarray | None
) -> jax.Array:
    """Returns the cross-entropy [b] of logits [b, classes] with soft targets.

    The term of each class is multiplied by its weight, as torch's `weight` does.
    """
    if class_weights is not None:
        targets = targets * jnp.asarray(class_weights, targets.dtype)[None, :]
    return optax.softmax_cross_entropy(logits, targets)


def total_weight(targets: jax.Array, class_weights: np.ndarray | None) -> jax.Array:
    """Returns what a batch weighs: the sum of the weights of its classes.

    Of the targets before smoothing, as torch divides by it. It is never 0: a batch of
    classes that weigh nothing has the loss 0.
    """
    if class_weights is None:
        return jnp.asarray(targets.shape[0], targets.dtype)
    total = jnp.sum(targets @ jnp.asarray(class_weights, targets.dtype))
    total = devices.mean(total)  # The mean of losses is taken over devices too.
    return jnp.maximum(total, jnp.finfo(total.dtype).tiny)


def find_class_weights(config, labels: np.ndarray, num_classes: int):
    """Returns the weight of each class in the loss [num_classes], None for equal ones.

    Balanced weights are n / (classes that occur * n_class), scikit-learn's; a class
    without examples has 0. Raises ConfigError for a wrong number of weights.
    """
    weights = config.loss.class_weights
    if weights and len(weights) != num_classes:
        raise ConfigError(
            f"config.loss.class_weights has {len(weights)} values; there are "
            f"{num_classes} classes"
        )
    if weights:
        return np.array(weights)
    if not config.loss.balanced:
        return None
    counts = np.bincount(labels, minlength=num_classes)
    share = len(labels) / np.sum(counts > 0)
    return np.where(counts > 0, share / np.maximum(counts, 1), 0)


LOSSES = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "focal": focal,
}
