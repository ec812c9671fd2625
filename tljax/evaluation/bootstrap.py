"""95 % intervals: the metrics of a thousand resamples, all of them at once.

A resample draws n of n examples with replacement. Every metric is a function of how
often each example was drawn, and so a product of matrices, or of sorted sums, serves
many resamples together. A class that a resample does not have is treated as `numbers`
treats an absent class; a resample in which a metric has no value is left out of it.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from tljax.evaluation import calibration, probabilities, ranking
from tljax.evaluation.numbers import AVERAGES

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
# Counts held at once, and examples times classes times resamples that are sorted sums:
# for ImageNet's 50,000 x 1,000 there are 100 resamples of ROC-AUC, not 1,000.
CHUNK = 2**24
WORK = 2 * 10**9
FEWEST = 100
# Temperatures at which a resample's slope is known, around the best one.
GRID = np.geomspace(1 / 4, 4, 41)


def draw(num_examples: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields how often each example is drawn, float64 [n, some of the resamples]."""
    rng = np.random.default_rng(seed)
    at_once = max(CHUNK // num_examples, 1)
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = rng.integers(0, num_examples, (size, num_examples))
        drawn += num_examples * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_examples)
        yield counts.reshape(size, num_examples).T.astype(np.float64)


def intervals(
    labels: np.ndarray,
    log_probabilities: np.ndarray,
    temperature: float,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, float]:
    """Returns NAME_low and NAME_high of the metrics of `numbers.scalars`."""
    return as_intervals(
        resampled(labels, log_probabilities, temperature, seed, resamples)
    )


def as_intervals(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the percentiles of the values of each metric, NaN where it has none."""
    found = {}
    for name, drawn in values.items():
        drawn = drawn[~np.isnan(drawn)]
        ends = np.percentile(drawn, PERCENTILES) if len(drawn) else (np.nan, np.nan)
        found[f"{name}_low"], found[f"{name}_high"] = map(float, ends)
    return found


def resampled(
    labels: np.ndarray,
    log_probabilities: np.ndarray,
    temperature: float,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, np.ndarray]:
    """Returns each metric of `numbers.scalars` in every resample [resamples]."""
    sums = columns(labels, log_probabilities, temperature)
    classes = memberships(labels, log_probabilities)
    enough = max(WORK // log_probabilities.size, FEWEST)
    parts, done = [], 0
    for counts in draw(len(labels), resamples, seed):
        part = means(sums, counts) | reports(classes, counts)
        ranked = counts[:, : max(enough - done, 0)]
        part |= rankings(labels, log_probabilities, ranked)
        done += counts.shape[1]
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def columns(
    labels: np.ndarray, log_probabilities: np.ndarray, temperature: float
) -> dict[str, np.ndarray]:
    """Returns what each example adds to the metrics that are means: [n, k] each."""
    cooled = probabilities.at_temperature(log_probabilities, temperature)
    singles = {
        "accuracy": log_probabilities.argmax(axis=1) == labels,
        "top5": probabilities.in_top(labels, log_probabilities),
        "log_loss": -probabilities.of_labels(labels, log_probabilities),
        "brier": probabilities.brier(labels, log_probabilities),
    }
    return {name: values[:, None] for name, values in singles.items()} | {
        "ece": calibration.surplus(labels, log_probabilities),
        "ece_calibrated": calibration.surplus(labels, cooled),
    }


def means(sums: dict[str, np.ndarray], counts: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the metrics that are means, or sums of absolute means, of examples."""
    size = counts.shape[0]
    return {
        name: np.abs(values.T.astype(np.float64) @ counts).sum(axis=0) / size
        for name, values in sums.items()
    }


def memberships(
    labels: np.ndarray, log_probabilities: np.ndarray
) -> tuple[sparse.csr_array, ...]:
    """Returns which examples are correct, labelled and predicted as each class.

    Each is 0 or 1, [classes, n].
    """
    predictions = log_probabilities.argmax(axis=1)
    places = np.arange(len(labels))
    shape = (log_probabilities.shape[1], len(labels))

    def rows(classes: np.ndarray, chosen: np.ndarray) -> sparse.csr_array:
        ones = np.ones(len(chosen))
        return sparse.csr_array((ones, (classes[chosen], chosen)), shape=shape)

    correct = np.flatnonzero(labels == predictions)
    return rows(labels, correct), rows(labels, places), rows(predictions, places)


def reports(
    classes: tuple[sparse.csr_array, ...], counts: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns precision, recall and F1 by each average."""
    correct, labelled, predicted = (rows @ counts for rows in classes)
    weights = {
        "macro": (labelled + predicted > 0).astype(np.float64),
        "weighted": labelled,
    }
    ratios = {
        "precision": (correct, predicted),
        "recall": (correct, labelled),
        "f1": (2 * correct, labelled + predicted),
    }
    found = {}
    for average in AVERAGES:
        for name, (above, below) in ratios.items():
            if average == "micro":
                value = ratio(above.sum(axis=0), below.sum(axis=0))
            else:
                weight = weights[average]
                value = (weight * ratio(above, below)).sum(axis=0) / weight.sum(axis=0)
            found[f"{name}_{average}"] = value
    return found


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Returns above / below, 0 where there is nothing below."""
    return above / np.maximum(below, 1)


def rankings(
    labels: np.ndarray, log_probabilities: np.ndarray, counts: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns macro ROC-AUC and average precision, NaN where no class has any."""
    sums = np.zeros((2, counts.shape[1]))
    defined = np.zeros(counts.shape[1])
    for label in np.unique(labels):
        pair = ranking.auc_and_precision(
            labels == label, np.exp(log_probabilities[:, label]), counts
        )
        sums += np.nan_to_num(pair)
        defined += ~np.isnan(pair[0])
    with np.errstate(invalid="ignore"):
        auc, precision = sums / defined
    return {"roc_auc": auc, "average_precision": precision}


def temperatures(
    labels: np.ndarray,
    log_probabilities: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """Returns the temperature of the least log-loss in every resample [resamples].

    Between the temperatures of a grid the slope of the log-loss is taken as linear;
    those beyond it end at 1/4 and 4 times the best of all examples.
    """
    best = calibration.fit_temperature(labels, log_probabilities)
    grid = np.clip(best * GRID, calibration.COLDEST, calibration.HOTTEST)
    slopes = np.stack(
        [calibration.slopes(labels, log_probabilities, value) for value in grid]
    )
    found = [
        zeros(np.log(grid), slopes @ counts)
        for counts in draw(len(labels), resamples, seed)
    ]
    return np.exp(np.concatenate(found))


def zeros(places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns where falling columns [k, r] cross 0, an end where they do not."""
    last = np.clip(np.sum(values > 0, axis=0), 1, len(places) - 1)
    column = np.arange(values.shape[1])
    above, below = values[last - 1, column], values[last, column]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.clip(np.nan_to_num(above / (above - below)), 0, 1)
    return places[last - 1] + share * (places[last] - places[last - 1])
