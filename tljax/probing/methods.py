"""Each way of judging features, with its setting chosen on validation."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from sklearn.preprocessing import StandardScaler

from tljax.errors import NonFiniteError
from tljax.evaluation import bootstrap
from tljax.probing import few_shot, head, logistic, neighbours
from tljax.probing.features import Features

Splits = dict[str, Features]


def judged(val: np.ndarray, tested: np.ndarray) -> dict[str, float]:
    """Returns the share of validation and of tested images that are right.

    The latter with the ends of its bootstrap 95 % interval. Both are bool [n].
    """
    right = tested.astype(np.float64)
    drawn = [
        right @ counts / len(right)
        for counts in bootstrap.draw(len(right), bootstrap.RESAMPLES, seed=0)
    ]
    return {
        "val_accuracy": float(val.mean()),
        "accuracy": float(right.mean()),
        **bootstrap.as_intervals({"accuracy": np.concatenate(drawn)}),
    }


def nearest_neighbours(splits: Splits, tested: str, num_classes: int) -> dict[str, Any]:
    """Returns what k nearest neighbours get right, k the best on validation."""
    bank, val = splits["train"], splits["val"]
    counts = neighbours.counts_for(len(bank.values))
    found = neighbours.predict(bank, val.values, counts, num_classes) == val.labels
    accuracies = found.mean(axis=1)
    best = int(accuracies.argmax())
    judge = splits[tested]
    predictions = neighbours.predict(
        bank, judge.values, counts[best : best + 1], num_classes
    )
    return {
        "k": counts[best],
        "temperature": neighbours.TEMPERATURE,
        **judged(found[best], predictions[0] == judge.labels),
        "path": [
            {"k": count, "val_accuracy": float(accuracy)}
            for count, accuracy in zip(counts, accuracies, strict=True)
        ],
    }


def standardize(splits: Splits) -> Splits:
    """Returns features less their mean, over their deviation, in the training images.

    A feature that is the same in all of them is left at 0.
    """
    scaler = StandardScaler().fit(splits["train"].values)
    return {
        name: split._replace(values=scaler.transform(split.values))
        for name, split in splits.items()
    }


def logistic_regression(
    splits: Splits, tested: str, num_classes: int, max_iterations: int, platform: str
) -> dict[str, Any]:
    """Returns what logistic regression gets right, the penalty the best on validation.

    `splits` are standardised.
    """
    train, val, judge = splits["train"], splits["val"], splits[tested]
    penalties = logistic.PENALTIES.astype(np.float32)
    at_once = logistic.fits_at_once(
        *train.values.shape, num_classes, len(penalties), platform
    )
    fit = functools.partial(
        logistic.fit,
        num_classes=num_classes,
        max_iterations=max_iterations,
        at_once=at_once,
    )
    weights = np.ones(len(train.labels), np.float32)
    fits = jax.jit(fit)(train.values, train.labels, weights, penalties)
    judge_all = jax.jit(logistic.judge)
    train_right, _ = judge_all(fits, train.values, train.labels)
    val_right, losses = judge_all(fits, val.values, val.labels)
    accuracies, losses = np.asarray(val_right) / len(val.labels), np.asarray(losses)
    best, converged = logistic.choose(accuracies, losses), logistic.converged(fits)
    right = {
        name: logistic.predict(fits.kernel[best], fits.bias[best], split.values)
        == split.labels
        for name, split in (("val", val), ("tested", judge))
    }
    columns = {
        "penalty": logistic.PENALTIES,
        "train_accuracy": np.asarray(train_right) / len(train.labels),
        "val_accuracy": accuracies,
        "val_log_loss": losses,
        "iterations": fits.iterations,
        "gradient": fits.gradient,
        "converged": converged,
    }
    lists = [np.asarray(column).tolist() for column in columns.values()]
    return {
        "penalty": float(logistic.PENALTIES[best]),
        "converged": bool(converged[best]),
        **judged(right["val"], right["tested"]),
        "path": [
            dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)
        ],
    }


def trained_head(
    splits: Splits,
    tested: str,
    copies: int,
    initial: head.Head,
    batch_size: int,
    class_weights: np.ndarray | None,
    config,
) -> dict[str, Any]:
    """Returns what a head trained by the recipe of a config gets right.

    Raises NonFiniteError where its loss or its weights cease to be numbers.
    """
    train, val, judge = splits["train"], splits["val"], splits[tested]
    rows = head.rows_of_steps(train.labels, copies, batch_size, config)
    found, losses = head.train(initial, train, rows, class_weights, config)
    finite = [*np.isfinite(losses), np.isfinite(optax.tree.norm(found))]
    if not all(finite):
        raise NonFiniteError(
            f"head: loss or weights are not finite after step {finite.index(False)}; "
            "try a lower optim.learning_rate, or optim.clip_norm"
        )
    return {
        "optimizer": config.optim.name,
        "learning_rate": config.optim.learning_rate,
        "num_steps": config.num_steps,
        "batch_size": batch_size,
        "train_loss": float(losses[-1]),
        **judged(
            head.predict(found, val.values) == val.labels,
            head.predict(found, judge.values) == judge.labels,
        ),
    }


def few_labels(
    splits: Splits,
    tested: str,
    copies: int,
    shots: Sequence[int],
    draws: int,
    class_names: Sequence[str],
    seed: int,
    max_iterations: int,
    platform: str,
) -> list[dict[str, Any]]:
    """Returns a row for each number of labelled images a class, `shots`.

    `splits` are standardised; images are drawn from the first copy. Raises ConfigError
    where a class has too few that can be used.
    """
    if not shots:
        return []
    train = splits["train"]
    number = len(train.labels) // copies
    first = Features(train.values[:number], train.labels[:number])
    few_shot.check(shots, first.labels, class_names)
    drawn = few_shot.draw(first.labels, max(shots), draws, seed)
    at_once = logistic.fits_at_once(
        drawn.places.shape[1],
        first.values.shape[1],
        len(class_names),
        len(logistic.PENALTIES),
        platform,
    )
    return few_shot.protocol(
        splits | {"train": first},
        splits[tested],
        shots,
        drawn,
        num_classes=len(class_names),
        max_iterations=max_iterations,
        at_once=at_once,
    )
