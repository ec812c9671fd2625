"""How time is taken: medians of many, sides that take turns, ratios with a spread."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np

# Makes so many calls and waits for the last.
Take = Callable[[int], None]


def time_calls(
    take: Take, repeats: int, *, warmup: int = 2, await_every: int = 1
) -> list[float]:
    """Returns the milliseconds of a call, `repeats` times, after a warm-up.

    Each is the mean of `await_every` calls made without waiting between them.
    """
    take(warmup * await_every)
    return [1000 * seconds(take, await_every) / await_every for _ in range(repeats)]


def seconds(take: Take, count: int) -> float:
    """Returns the seconds that so many calls take."""
    start = time.perf_counter()
    take(count)
    return time.perf_counter() - start


def spread(values: list[float]) -> dict[str, float]:
    """Returns median, 10th and 90th percentile and number of values."""
    low, middle, high = np.percentile(values, (10, 50, 90))
    return {
        "median": significant(middle),
        "p10": significant(low),
        "p90": significant(high),
        "n": len(values),
    }


def significant(value: float, digits: int = 4) -> float:
    """Returns a number rounded to so many significant digits."""
    return float(f"{value:.{digits}g}")


def order(names: Iterable[str], turn: int) -> list[str]:
    """Returns the sides as they come in a turn: another is first in each."""
    names = list(names)
    first = turn % len(names)
    return names[first:] + names[:first]


def repeated(call: Callable[[], object]) -> Take:
    """Returns the function that makes so many of such calls."""

    def take(count: int) -> None:
        for _ in range(count):
            call()

    return take


def take_turns(
    sides: Mapping[str, Take],
    turns: int,
    calls: int,
    *,
    warmup: int = 1,
    await_every: int = 1,
) -> dict[str, list[float]]:
    """Returns the median milliseconds of a call in each turn of each side.

    The sides take turns, another first each time. A first call of a turn is not
    counted: it finds the caches of another side, and threads asleep.
    """
    found = {name: [] for name in sides}
    for turn in range(turns):
        for name in order(sides, turn):
            take = sides[name]
            times = time_calls(take, calls, warmup=warmup, await_every=await_every)
            found[name].append(statistics.median(times))
    return found


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Returns how much faster we are, turn by turn: the median and both ends.

    `ours` and `theirs` are times, one a turn.
    """
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "ratios": [round(value, 3) for value in ratios],
        "ratio": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
    }
