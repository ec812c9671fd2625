"""A linear head trained on features, by the optimiser and schedule of a config."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax import optim
from tljax.data.order import Order
from tljax.probing.features import Features
from tljax.tasks.losses import LOSSES

Head = dict[str, jax.Array]


def rows_of_steps(
    labels: np.ndarray, copies: int, batch_size: int, config
) -> np.ndarray:
    """Returns the rows of the features that each step takes, int32 [steps, b].

    `labels` are of all rows, copy after copy. The order is that of training, and each
    epoch takes the next copy.
    """
    number = len(labels) // copies
    order = Order(config.seed, labels[:number], config.data.balanced)
    places = np.arange(config.num_steps * batch_size)
    rows = places // number % copies * number + order.examples(0, len(places))
    return rows.reshape(config.num_steps, batch_size).astype(np.int32)


def train(
    head: Head,
    features: Features,
    rows: np.ndarray,
    class_weights: np.ndarray | None,
    config,
) -> tuple[Head, np.ndarray]:
    """Returns the head {"kernel", "bias"} after all steps, and the loss of each.

    The steps are those of fine-tuning that trains the head alone, with BatchNorm by its
    running statistics; all of them are one compiled program. `config` is a whole Config
    whose `num_steps` is that of `rows` [steps, b]. No average of weights is kept.
    """
    schedule = optim.create_schedule(config.optim, config.num_steps)
    tx = optax.with_extra_args_support(optim.create_optimizer(config.optim, schedule))
    loss_of = LOSSES[config.loss.name]

    @jax.jit
    def take_steps(head, values, labels, rows):
        def step(carry, step_rows):
            head, opt_state, key = carry
            key, dropout_key = jax.random.split(key)
            seen = drop(dropout_key, values[step_rows], config.model.dropout)
            targets = jax.nn.one_hot(labels[step_rows], head["bias"].shape[0])

            def loss_fn(head):
                logits = logits_of(head, seen)
                return loss_of(logits, targets, config.loss, class_weights)

            value_and_grad = jax.value_and_grad(loss_fn)
            loss, grads = value_and_grad(head)
            updates, opt_state = tx.update(
                grads,
                opt_state,
                head,
                grad_fn=lambda there, _: value_and_grad(there)[1],  # SAM takes another.
            )
            return (optax.apply_updates(head, updates), opt_state, key), loss

        carry = head, tx.init(head), jax.random.key(config.seed)
        (head, _, _), losses = jax.lax.scan(step, carry, rows)
        return head, losses

    head, losses = take_steps(head, features.values, features.labels, rows)
    return head, np.asarray(losses)


def drop(key: jax.Array, values: jax.Array, rate: float) -> jax.Array:
    """Returns features of which a share `rate` is 0, the others divided by the rest."""
    if not rate:
        return values
    kept = jax.random.bernoulli(key, 1 - rate, values.shape)
    return jnp.where(kept, values / (1 - rate), 0)


def logits_of(head: Head, values: jax.Array) -> jax.Array:
    """Returns logits [n, classes] of features [n, d]."""
    return values @ head["kernel"] + head["bias"][None, :]


def predict(head: Head, values: np.ndarray) -> np.ndarray:
    """Returns the class of each row of the features [n, d]."""
    return np.asarray(jnp.argmax(jax.jit(logits_of)(head, values), axis=1))
