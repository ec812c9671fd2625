"""Means over seeds with their intervals."""

import numpy as np
from scipy import stats


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Returns the mean of two or more, and its 95 % interval by Student's t."""
    mean, error = np.mean(values), stats.sem(values)
    half = stats.t.ppf(0.975, len(values) - 1) * error
    return mean, mean - half, mean + half


def with_ends(name: str, numbers: tuple[float, float, float]) -> dict[str, float]:
    """Returns a number and the ends of its interval under their names."""
    ends = ("", "_low", "_high")
    return {
        f"{name}{end}": round(float(number), 4)
        for end, number in zip(ends, numbers, strict=True)
    }
