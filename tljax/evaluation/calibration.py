"""Whether probabilities can be believed, and the temperature that makes them so."""

from typing import NamedTuple

import numpy as np
from scipy import optimize

from tljax.evaluation import probabilities

NUM_BINS = 15
# The best temperature, where another beyond would be better still: without a mistake.
COLDEST, HOTTEST = 0.01, 100.0


class Reliability(NamedTuple):
    """Examples by the confidence of their prediction, in bins (i / 15, (i + 1) / 15].

    Attributes:
      count: examples in each bin [15].
      confidence: their mean confidence, NaN in an empty bin.
      accuracy: the share of them that is right, NaN in an empty bin.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    def error(self) -> float:
        """Returns the expected calibration error (Guo et al., 2017), from 0 to 1."""
        gaps = np.abs(np.nan_to_num(self.accuracy - self.confidence))
        return float(np.sum(self.count * gaps) / np.sum(self.count))


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """Returns the bin of each confidence [n], from 0 to 14."""
    inner = np.linspace(0, 1, NUM_BINS + 1)[1:-1]
    return np.searchsorted(inner, confidence, side="left")


def surplus(labels: np.ndarray, log_probabilities: np.ndarray) -> np.ndarray:
    """Returns what each example adds to the gap of each bin [n, 15].

    That is right (1 or 0) less confidence in its own bin; the calibration error is the
    sum of the absolute sums of the columns, divided by n.
    """
    confidence = np.exp(log_probabilities.max(axis=1))
    right = log_probabilities.argmax(axis=1) == labels
    found = np.zeros((len(labels), NUM_BINS))
    found[np.arange(len(labels)), bins_of(confidence)] = right - confidence
    return found


def reliability(labels: np.ndarray, log_probabilities: np.ndarray) -> Reliability:
    """Returns how right predictions are at each confidence."""
    confidence = np.exp(log_probabilities.max(axis=1))
    right = log_probabilities.argmax(axis=1) == labels
    places = bins_of(confidence)
    count, confident, correct = (
        np.bincount(places, values, NUM_BINS)
        for values in (np.ones(len(labels)), confidence, right)
    )
    filled = np.where(count > 0, count, np.nan)
    return Reliability(count.astype(int), confident / filled, correct / filled)


def fit_temperature(labels: np.ndarray, log_probabilities: np.ndarray) -> float:
    """Returns the temperature of the least log-loss, from 0.01 to 100.

    The log-loss is convex in 1 / temperature, so that its slope has one zero. 1 where
    all temperatures are equally good.
    """

    def slope(log_temperature: float) -> float:
        return float(slopes(labels, log_probabilities, np.exp(log_temperature)).mean())

    coldest, hottest = np.log(COLDEST), np.log(HOTTEST)
    if slope(coldest) == slope(hottest) == 0:
        return 1.0
    if slope(coldest) <= 0:  # Without a mistake, more confidence is always better.
        return COLDEST
    if slope(hottest) >= 0:  # Worse than knowing nothing.
        return HOTTEST
    return float(np.exp(optimize.brentq(slope, coldest, hottest, xtol=1e-12)))


def slopes(
    labels: np.ndarray, log_probabilities: np.ndarray, temperature: float
) -> np.ndarray:
    """Returns the derivative of each example's log-loss by 1 / temperature [n]."""
    weights = np.exp(probabilities.at_temperature(log_probabilities, temperature))
    expected = np.sum(weights * log_probabilities, axis=1)
    return expected - probabilities.of_labels(labels, log_probabilities)
