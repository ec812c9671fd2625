"""Classification: a loss on labels, sums that are exact for any batch."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from tljax import models, optim
from tljax.data import augment, views
from tljax.data.operations import Operation, RandomResizedCrop
from tljax.data.transforms import Transform
from tljax.initial import create_variables
from tljax.models import devices
from tljax.plan import Phase
from tljax.state import TrainState, begin
from tljax.tasks.losses import LOSSES, find_class_weights
from tljax.tasks.update import descend

PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16}


# The metric that the best checkpoint has most of.
SCORE = ("accuracy", 1)


def create_model(config, num_classes: int, image_shape=None) -> nn.Module:
    """Returns the model of `config` (a whole Config) for `num_classes` classes.

    It takes images of any shape.
    """
    return models.create(
        config.model.name,
        num_classes=num_classes,
        width=config.model.width,
        stem=config.model.stem,
        dropout=config.model.dropout,
        stochastic_depth=config.model.stochastic_depth,
        remat=config.model.remat,
        dtype=PRECISIONS[config.precision],
    )


def create_optimizer(
    config, schedule: optax.Schedule, rows
) -> optax.GradientTransformation:
    """Returns the optimiser of a plan's rows."""
    return optim.create_optimizer(config.optim, schedule, rows)


def know_labels(config, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    """Returns the arguments of `train_step` that follow from the training labels."""
    return {"class_weights": find_class_weights(config, labels, num_classes)}


def warn(step: int, metrics: dict[str, float], config) -> str:
    """Returns a warning of what the metrics of a step tell, "" where they are well."""
    return ""


def create_state(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    phase: Phase,
    config,
) -> TrainState:
    """Returns the state before the first step, initialised from `key`."""
    init_key, run_key = jax.random.split(key)
    variables = create_variables(model, init_key, image_shape)
    keeps = config.optim.ema_decay > 0
    return begin(variables, run_key, phase, tx, keeps_average=keeps)


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    phase: Phase,
    transform: Transform,
    config,
    class_weights: np.ndarray | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state one step on, and scalars of the step (see `descend`).

    `batch` is {"image": uint8 [b, h, w, c], "label": int32 [b]}, with an "extent" where
    photographs differ in shape.
    """
    key = devices.own(jax.random.fold_in(state.key, state.step))
    num_classes = model.num_classes
    images, targets = see(key, batch, num_classes, transform, config.data.augment)
    # `see` splits the key in two, which are its folds 0 and 1.
    dropout_key = jax.random.fold_in(key, 2)
    loss_of = LOSSES[config.loss.name]
    model = model.clone(frozen_statistics=phase.frozen_statistics)

    def loss_fn(params):
        logits, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        loss = loss_of(logits, targets, config.loss, class_weights)
        right = jnp.argmax(logits, axis=-1) == jnp.argmax(targets, axis=-1)
        return loss, (updated["batch_stats"], {"accuracy": jnp.mean(right)})

    return descend(state, loss_fn, tx=tx, schedule=schedule, phase=phase, config=config)


def see(
    key: jax.Array,
    batch: dict[str, jax.Array],
    num_classes: int,
    transform: Transform,
    operations: tuple[Operation, ...],
) -> tuple[jax.Array, jax.Array]:
    """Returns what the network sees in training, and what it is to say.

    Images [b, crop, crop, c] augmented and normalised, and targets [b, num_classes].
    """
    view_key, key = jax.random.split(key)
    if operations and isinstance(operations[0], RandomResizedCrop):
        size = transform.crop
        images = views.random_resized(view_key, batch, operations[0], size)
    else:
        images = views.center(batch, transform.crop)
    targets = jax.nn.one_hot(batch["label"], num_classes)
    if operations:
        fill = tuple(255 * level for level in transform.mean)
        images, targets = augment.apply(key, images, targets, operations, fill)
    return augment.normalize(images, transform.mean, transform.std), targets


def eval_step(
    variables: Any,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    transform: Transform,
    config,
) -> dict[str, jax.Array]:
    """Returns sums over the examples whose mask is 1.

    `batch` has a "mask" float32 [b] beside image and label. The sums are "loss" and
    "confusion" [num_classes, num_classes]: row the label, column the prediction.
    """
    log_probabilities = predict(variables, batch, model, transform, config)
    num_classes = log_probabilities.shape[-1]
    targets = jax.nn.one_hot(batch["label"], num_classes, dtype=log_probabilities.dtype)
    losses = -jnp.sum(targets * log_probabilities, axis=-1)
    labels = jax.nn.one_hot(batch["label"], num_classes) * batch["mask"][:, None]
    predictions = jax.nn.one_hot(jnp.argmax(log_probabilities, axis=-1), num_classes)
    # A float32 product would be rounded on TPUs, and with TF32 on GPUs, by default.
    confusion = jnp.matmul(labels.T, predictions, precision=jax.lax.Precision.HIGHEST)
    sums = {"loss": jnp.sum(losses * batch["mask"]), "confusion": confusion}
    return devices.total(sums)


def predict(
    variables: Any, batch: dict[str, jax.Array], model: nn.Module, transform, config
) -> jax.Array:
    """Returns log-probabilities [b, num_classes].

    Where an image is looked at in several views, it is of the mean probability.
    """
    seen = views.EVAL_VIEWS[config.data.eval_views](batch, transform.crop)
    found = []
    for images in seen:
        images = augment.normalize(images, transform.mean, transform.std)
        logits = model.apply(variables, images, train=False)
        found.append(jax.nn.log_softmax(logits))
    if len(found) == 1:
        return found[0]
    return jax.nn.logsumexp(jnp.stack(found), axis=0) - math.log(len(found))


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
