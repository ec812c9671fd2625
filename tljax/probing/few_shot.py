"""What a backbone is worth with few labels: logistic regression on drawn images."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from tljax.errors import ConfigError
from tljax.probing import logistic
from tljax.probing.features import Features
from tljax.probing.logistic import Fits


class Draws(NamedTuple):
    """Images drawn from each class, some times over.

    Attributes:
      places: int [draws, classes * largest], class after class.
      ranks: int [classes * largest], of each its number among those of its class: the
        draw of k images a class is what has a rank below k.
    """

    places: np.ndarray
    ranks: np.ndarray


def most(labels: np.ndarray, class_names: Sequence[str]) -> int:
    """Returns the number of images that every class has."""
    return int(np.bincount(labels, minlength=len(class_names)).min())


def check(shots: Sequence[int], labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Raises ConfigError where a class has fewer images than are to be drawn."""
    counts = np.bincount(labels, minlength=len(class_names))
    rarest = int(counts.argmin())
    if shots and max(shots) > counts[rarest]:
        raise ConfigError(
            f"--shots = {max(shots)} images a class cannot be drawn: class "
            f"{class_names[rarest]!r} has {counts[rarest]} training images; "
            f"take {counts[rarest]} at most"
        )


def draw(labels: np.ndarray, largest: int, draws: int, seed: int) -> Draws:
    """Returns `draws` draws of `largest` images of each class; functions of the seed.

    Fewer images of a draw are its first ones: what one image a class gives is of images
    that five a class have among them.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    places = [
        [rng.permutation(those)[:largest] for those in members]
        for rng in (np.random.default_rng((seed, number)) for number in range(draws))
    ]
    ranks = np.tile(np.arange(largest), len(members))
    return Draws(np.array(places).reshape(draws, -1), ranks)


def protocol(
    splits: dict[str, Features],
    tested: Features,
    shots: Sequence[int],
    draws: Draws,
    *,
    num_classes: int,
    max_iterations: int,
    at_once: int,
) -> list[dict[str, Any]]:
    """Returns a row for each number of images a class.

    Each number has one penalty, that of the highest validation accuracy, the mean of
    all draws: a draw is too small to hold some of it back, and one number chosen by
    all draws tells little of the validation labels. `tested` is looked at with that one
    alone. Images of a draw that a smaller number does not have get the weight 0, so
    that one program serves all numbers.
    """
    train, val = splits["train"], splits["val"]
    penalties = logistic.PENALTIES.astype(np.float32)
    fit = jax.jit(
        functools.partial(
            fit_draws,
            num_classes=num_classes,
            max_iterations=max_iterations,
            at_once=at_once,
        )
    )
    values, labels = train.values[draws.places], train.labels[draws.places]
    judge = jax.jit(jax.vmap(logistic.judge, in_axes=(0, None, None)))
    rows = []
    for shot in shots:
        chosen_images = draws.ranks < shot
        weights = chosen_images.astype(np.float32)
        fits = fit(values, labels, weights, penalties)
        val_right, losses = judge(fits, val.values, val.labels)
        means = np.mean(np.asarray(val_right) / len(val.labels), axis=0)
        best = logistic.choose(means, np.mean(np.asarray(losses), axis=0))
        chosen = jax.tree.map(lambda leaf, best=best: leaf[:, best : best + 1], fits)
        right, _ = judge(chosen, tested.values, tested.labels)
        accuracies = np.asarray(right)[:, 0] / len(tested.labels)
        drawn = np.sort(draws.places[:, chosen_images], axis=1)
        rows.append(
            {
                "shots": int(shot),
                "penalty": float(logistic.PENALTIES[best]),
                "converged": logistic.converged(chosen)[:, 0].tolist(),
                "val_accuracy": float(means[best]),
                **interval_of(accuracies, len(np.unique(drawn, axis=0))),
                "path": [
                    {"penalty": float(penalty), "val_accuracy": float(accuracy)}
                    for penalty, accuracy in zip(logistic.PENALTIES, means, strict=True)
                ],
            }
        )
    return rows


def fit_draws(
    values: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    penalties: jax.Array,
    **settings: Any,
) -> Fits:
    """Returns the fits [draws, p] to features [draws, n, d] with labels [draws, n]."""

    def fit_draw(pair):
        return logistic.fit(*pair, weights, penalties, **settings)

    return jax.lax.map(fit_draw, (values, labels))


def interval_of(accuracies: np.ndarray, different: int) -> dict[str, Any]:
    """Returns the mean over draws and its 95 % interval, by Student's t, in [0, 1].

    The ends are None where no two draws are `different`.
    """
    number, mean = len(accuracies), float(accuracies.mean())
    low = high = None
    if different > 1:
        error = accuracies.std(ddof=1) / np.sqrt(number)
        reach = float(stats.t.ppf(0.975, number - 1) * error)
        low, high = max(mean - reach, 0.0), min(mean + reach, 1.0)
    return {
        "accuracy": mean,
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracies": accuracies.tolist(),
    }
