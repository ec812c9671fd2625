"""Two files of results: what became faster, what slower, and what only looks so.

    python -m benchmarks.compare BEFORE.jsonl AFTER.jsonl

Lines that measured the same on the same hardware are compared, each model of
`small_models` and each point of `scaling` for itself: `ratio` is AFTER over BEFORE in
speed, from medians, with a 95 % interval of a bootstrap over runs and over the times of
each. Where both took turns with another side, PyTorch say, it is the speed over that
side's which is compared, as what the machine did meanwhile met both. A verdict needs an
interval that ends more than --noise from 1, and three runs of each side to know how
runs differ. With fewer, unless turns were taken within a run, it needs --lone_noise:
medians of six runs of one program differed by a factor of 1.6 on two cores of an AMD
EPYC on which four others were at work. `not_compared` are lines without times.
"""

import itertools
from typing import Any

import numpy as np
from absl import flags

from benchmarks import command, results
from benchmarks.results import Line
from tljax.errors import ConfigError, DataError

FILES = ("before", "after")
RESAMPLES = 2000
# Runs of a side that tell how runs differ.
ENOUGH = 3
PERCENTILES = (2.5, 97.5)


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this command."""
    for name in FILES:
        flags.DEFINE_string(name, "", "file of results", flag_values=values)
    for name, default, doc in (
        ("noise", 0.05, "differences below are none"),
        ("lone_noise", 0.6, "the same where a side has fewer than three runs"),
    ):
        flags.DEFINE_float(name, default, doc, 0.0, flag_values=values)


def times_of(lines: list[Line]) -> list[np.ndarray]:
    """Returns the times of each run, those of the other side for a unit where all took
    turns with one; none at all where a line has no times.
    """
    name = "ratios" if took_turns(lines) else "times_ms"
    try:
        runs = [np.ravel(np.asarray(line.get(name, ()), float)) for line in lines]
    except (TypeError, ValueError):
        return []
    if not all(run.size and ((run > 0) & (run < np.inf)).all() for run in runs):
        return []
    return [1 / run for run in runs] if name == "ratios" else runs


def took_turns(lines: list[Line]) -> bool:
    """Returns whether all lines compare two sides that took turns."""
    return all("ratios" in line for line in lines)


def medians(runs: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Returns the median time of RESAMPLES resamples: runs first, then their times."""
    found = np.empty(RESAMPLES)
    for resample in range(RESAMPLES):
        chosen = (runs[place] for place in rng.integers(0, len(runs), len(runs)))
        drawn = [run[rng.integers(0, run.size, run.size)] for run in chosen]
        found[resample] = np.median([np.median(times) for times in drawn])
    return found


def middle(runs: list[np.ndarray]) -> float:
    """Returns the median over runs of their median time."""
    return float(np.median([np.median(run) for run in runs]))


def compare(
    before: list[Line], after: list[Line], noise: float, lone_noise: float
) -> dict[str, Any] | None:
    """Returns ratio, interval and verdict for lines of one measurement.

    None where one of them has no times.
    """
    both = before + after
    if min(len(before), len(after)) < ENOUGH and not took_turns(both):
        noise = max(noise, lone_noise)
    times = times_of(both)
    if not times:
        return None
    old, new = times[: len(before)], times[len(before) :]
    rng = np.random.default_rng(0)
    low, high = np.percentile(medians(old, rng) / medians(new, rng), PERCENTILES)
    return {
        "what": results.label_of(after[-1]),
        "ratio": round(middle(old) / middle(new), 3),
        "ratio_low": round(float(low), 3),
        "ratio_high": round(float(high), 3),
        "runs": [len(before), len(after)],
        "verdict": verdict(low, high, noise),
    }


def verdict(low: float, high: float, noise: float) -> str:
    """Returns what an interval of the ratio of speeds says."""
    if low > 1 + noise:
        return "faster"
    if high < 1 / (1 + noise):
        return "slower"
    return "no difference seen"


def by_key(lines: list[Line]) -> dict[Any, list[Line]]:
    """Returns the lines of each measurement."""
    found: dict[Any, list[Line]] = {}
    for line in itertools.chain.from_iterable(map(results.parts, lines)):
        found.setdefault(results.key_of(line), []).append(line)
    return found


def run(argv: list[str]) -> None:
    """Compares the files that the command line names; raises RunError."""
    values = command.parse(argv, __doc__, define, files=FILES)
    if values is None:
        return
    paths = values.before, values.after
    if not all(paths):
        raise ConfigError("two files are needed: benchmarks.compare BEFORE AFTER")
    before, after = (by_key(results.read([path])) for path in paths)
    common = [key for key in after if key in before]
    if not common:
        raise ConfigError(
            f"{paths[0]} and {paths[1]} measured nothing in common on the same hardware"
        )
    noise = values.noise, values.lone_noise
    found = {key: compare(before[key], after[key], *noise) for key in common}
    rows = [row for row in found.values() if row]
    without = [results.label_of(after[key][-1]) for key in common if not found[key]]
    if not rows:
        raise DataError(f"no line has `times_ms` or `ratios`: {'; '.join(without)}")
    table = results.markdown(
        ("what", "after / before", "95 %", "runs", "verdict"),
        (
            (row["what"], row["ratio"], f"{row['ratio_low']} to {row['ratio_high']}",
             "{} and {}".format(*row["runs"]), row["verdict"])
            for row in rows
        ),
    )  # fmt: skip
    print(table)
    if without:
        print(f"\n{len(without)} without times: {'; '.join(without)}")
    # The worst of them: what a change is judged by.
    worst = min(rows, key=lambda row: row["ratio"])
    ends = {name: worst[name] for name in ("ratio", "ratio_low", "ratio_high")}
    only = len(after) + len(before) - 2 * len(common)
    result = {"benchmark": "compare", **ends, "rows": rows, "only_in_one": only}
    command.finish(result | {"not_compared": without}, values.output)


if __name__ == "__main__":
    command.main(run)
