"""Logistic regression for many penalties, by L-BFGS in one compiled program."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.errors import NonFiniteError

# The penalties of Kornblith et al. 2019 (arXiv 1805.08974).
PENALTIES = np.geomspace(1e-6, 1e5, 45)
# Largest component of the gradient at which a fit has converged.
TOLERANCE = 1e-5
# Pairs of steps and gradients that L-BFGS remembers.
MEMORY = 10
# Bytes that fits made at once may take on an accelerator, about.
AT_ONCE = 2**30
# The share of a class without any image, so that it has a logarithm.
NEVER = 1e-7


class Fits(NamedTuple):
    """A linear classifier for each penalty, and how far its optimisation came.

    Attributes:
      kernel: [p, d, classes].
      bias: [p, classes].
      iterations: int32 [p].
      gradient: [p], the largest component of the gradient at the end.
    """

    kernel: jax.Array
    bias: jax.Array
    iterations: jax.Array
    gradient: jax.Array


def penalised_loss(
    kernel: jax.Array,
    bias: jax.Array,
    features: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    penalty: jax.Array,
) -> jax.Array:
    """Returns mean log-loss + penalty / 2 * |kernel|^2; the bias is not penalised.

    With n examples that is what scikit-learn's LogisticRegression(C=1 / (n * penalty))
    minimises. `targets` [n, classes] are one-hot; `weights` [n] add up to 1, and an
    example of weight 0 is not there.
    """
    losses = optax.softmax_cross_entropy(scores(kernel, bias, features), targets)
    return jnp.sum(weights * losses) + penalty / 2 * jnp.sum(kernel**2)


def scores(kernel: jax.Array, bias: jax.Array, features: jax.Array) -> jax.Array:
    """Returns logits [n, classes]; TPUs and GPUs would round the product by default."""
    product = jnp.matmul(features, kernel, precision=jax.lax.Precision.HIGHEST)
    return product + bias[None, :]


def fit_one(
    penalty: jax.Array,
    features: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    max_iterations: int,
) -> Fits:
    """Returns the fit for one penalty, without the axis of penalties.

    It starts where an endless penalty would end: no kernel, the logarithms of how often
    classes occur. The kernel is optimised in units of 1 / sqrt(1 + penalty), in which
    its curvature is about that of the bias: in plain units a large penalty takes
    hundreds of steps, and in float32 does not converge.
    """
    unit = 1 / jnp.sqrt(1 + penalty)

    def value_of(params):
        kernel, bias = params["kernel"] * unit, params["bias"]
        return penalised_loss(kernel, bias, features, targets, weights, penalty)

    def largest(grads):
        plain = grads | {"kernel": grads["kernel"] / unit}
        return optax.tree.norm(plain, ord=jnp.inf)

    line_search = optax.scale_by_zoom_linesearch(
        max_linesearch_steps=20, initial_guess_strategy="one"
    )
    tx = optax.lbfgs(memory_size=MEMORY, linesearch=line_search)
    value_and_grad = optax.value_and_grad_from_state(value_of)

    def goes_on(carry):
        _, _, iteration, gradient = carry
        return (iteration < max_iterations) & (gradient > TOLERANCE)

    def iterate(carry):
        params, state, iteration, _ = carry
        value, grads = value_and_grad(params, state=state)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=value_of
        )
        params = optax.apply_updates(params, updates)
        # The line search leaves the gradient of the place it has come to.
        return params, state, iteration + 1, largest(optax.tree.get(state, "grad"))

    shape = features.shape[1], targets.shape[1]
    occurs = jnp.sum(weights[:, None] * targets, axis=0)
    params = {
        "kernel": jnp.zeros(shape, features.dtype),
        "bias": jnp.log(jnp.maximum(occurs, NEVER)),
    }
    start = params, tx.init(params), jnp.int32(0), jnp.asarray(jnp.inf, features.dtype)
    params, _, iterations, gradient = jax.lax.while_loop(goes_on, iterate, start)
    return Fits(params["kernel"] * unit, params["bias"], iterations, gradient)


def fit(
    features: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    penalties: jax.Array,
    *,
    num_classes: int,
    max_iterations: int,
    at_once: int,
) -> Fits:
    """Returns the fits of all penalties [p] to features [n, d] with labels [n].

    `at_once` of them are made together. `weights` [n] say how much each example counts.
    """
    targets = jax.nn.one_hot(labels, num_classes, dtype=features.dtype)
    one = functools.partial(
        fit_one,
        features=features,
        targets=targets,
        weights=weights / jnp.sum(weights),
        max_iterations=max_iterations,
    )
    if at_once == 1:
        return jax.lax.map(one, penalties)
    return jax.lax.map(one, penalties, batch_size=at_once)


def fits_at_once(
    number: int, dimension: int, num_classes: int, count: int, platform: str
) -> int:
    """Returns how many of `count` fits to make together.

    All that memory allows; but one after the other on a CPU, where nothing is gained
    and all would wait for the slowest.
    """
    if platform == "cpu":
        return 1
    numbers = (4 * number + (2 * MEMORY + 8) * dimension) * num_classes
    return min(max(AT_ONCE // (4 * numbers), 1), count)


def converged(fits: Fits) -> np.ndarray:
    """Returns which fits have reached the tolerance; raises NonFiniteError for NaN."""
    gradient = np.asarray(fits.gradient)
    if not np.isfinite(gradient).all():
        raise NonFiniteError("logistic regression: a gradient is not a finite number")
    return gradient <= TOLERANCE


def judge(
    fits: Fits, features: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns how many labelled features are right [p], and their mean log-loss [p]."""

    def one(pair):
        logits = scores(*pair, features)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(jnp.argmax(logits, axis=1) == labels), jnp.mean(losses)

    return jax.lax.map(one, (fits.kernel, fits.bias))


def predict(kernel: jax.Array, bias: jax.Array, features: np.ndarray) -> np.ndarray:
    """Returns the class of each row of features [n, d]."""
    return np.asarray(jnp.argmax(jax.jit(scores)(kernel, bias, features), axis=1))


def choose(accuracies: np.ndarray, losses: np.ndarray) -> int:
    """Returns the place of the highest accuracy; among equals, of the lowest loss."""
    return int(np.lexsort((losses, -accuracies))[0])
