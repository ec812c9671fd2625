"""Classification: cross-entropy on labels, sums that are exact for any batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from tljax import models
from tljax.data import augment
from tljax.data.transforms import Transform
from tljax.state import TrainState

PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16}


def create_model(config, num_classes: int) -> nn.Module:
    """Returns the model of `config` (a whole Config) for `num_classes` classes."""
    return models.create(
        config.model.name,
        num_classes=num_classes,
        width=config.model.width,
        stem=config.model.stem,
        frozen_statistics=config.transfer.batch_norm != "train",
        dtype=PRECISIONS[config.precision],
    )


def create_state(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
) -> TrainState:
    """Returns the state before the first step, initialised from `key`."""
    init_key, run_key = jax.random.split(key)
    variables = model.init(init_key, jnp.zeros((1, *image_shape)), train=False)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        key=run_key,
    )


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    transform: Transform,
    config,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state one step on, and scalars of the step in the loss's dtype.

    `batch` is {"image": uint8 [b, h, w, c], "label": int32 [b]}. The metric `finite` is
    1 where loss, gradients, parameters and statistics all are numbers.
    """
    images = augment.normalize(batch["image"], transform.mean, transform.std)

    def loss_fn(params):
        logits, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        losses = cross_entropy(logits, batch["label"], config.loss.label_smoothing)
        return jnp.mean(losses), (logits, updated["batch_stats"])

    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, batch_stats)), grads = value_and_grad(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)

    grad_norm = optax.tree.norm(grads)
    state_norm = optax.tree.norm((params, batch_stats))
    metrics = {
        "loss": loss,
        "accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == batch["label"]),
        "learning_rate": schedule(state.step // config.optim.accumulate_steps),
        "grad_norm": grad_norm,
        "finite": jnp.isfinite(loss + grad_norm + state_norm),
    }
    metrics = jax.tree.map(functools.partial(jnp.asarray, dtype=loss.dtype), metrics)
    state = state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    return state, metrics


def eval_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    transform: Transform,
) -> dict[str, jax.Array]:
    """Returns sums over the examples whose mask is 1.

    `batch` has a "mask" float32 [b] beside image and label. The sums are "loss" and
    "confusion" [num_classes, num_classes]: row the label, column the prediction.
    """
    images = augment.normalize(batch["image"], transform.mean, transform.std)
    logits = model.apply(state.variables, images, train=False)
    losses = cross_entropy(logits, batch["label"])
    num_classes = logits.shape[-1]
    labels = jax.nn.one_hot(batch["label"], num_classes) * batch["mask"][:, None]
    predictions = jax.nn.one_hot(jnp.argmax(logits, axis=-1), num_classes)
    # A float32 product would be rounded on TPUs, and with TF32 on GPUs, by default.
    confusion = jnp.matmul(labels.T, predictions, precision=jax.lax.Precision.HIGHEST)
    return {"loss": jnp.sum(losses * batch["mask"]), "confusion": confusion}


def cross_entropy(
    logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """Returns the cross-entropy [b] of logits [b, classes] with smoothed labels.

    As torch's `label_smoothing`: the target keeps 1 - s and every class gets s / n.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    targets = optax.smooth_labels(targets, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def summarize(sums: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the metrics that follow from the sums of `eval_step` over a split.

    Precision, recall and F1 are macro averages over the classes that occur among the
    labels or the predictions, 0 where a denominator is 0: scikit-learn's numbers with
    `zero_division=0`.
    """
    confusion = np.rint(sums["confusion"]).astype(np.int64)
    total = confusion.sum()
    correct = np.diag(confusion)
    labelled, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = labelled + predicted > 0
    return {
        "num_examples": int(total),
        "loss": float(sums["loss"] / total),
        "accuracy": float(correct.sum() / total),
        "precision_macro": float(np.mean(ratio(correct, predicted)[occurs])),
        "recall_macro": float(np.mean(ratio(correct, labelled)[occurs])),
        "f1_macro": float(np.mean(ratio(2 * correct, labelled + predicted)[occurs])),
        "confusion_matrix": confusion.tolist(),
    }


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns numerator / denominator, 0 where the denominator is 0."""
    return numerator / np.maximum(denominator, 1)
