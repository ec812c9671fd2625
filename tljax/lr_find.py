"""The command `python -m tljax.lr_find`: a learning rate to begin with.

The range test of Smith 2015 (arXiv 1506.01186): the rate grows from step to step, as
a geometric series, until the loss runs away. Where it falls fastest is a good rate.
"""

import dataclasses
import math
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from absl import flags

from tljax import command_line, plan_table, workdirs
from tljax.batches import open_splits, stored_images, train_batches
from tljax.config import Config
from tljax.entry import run_command
from tljax.errors import ConfigError
from tljax.evaluation import plots
from tljax.programs import compile_train_step
from tljax.recalibrate import recalibrate
from tljax.run import Run, prepare
from tljax.start import begin
from tljax.terminal import Terminal, print_line, track
from tljax.train import with_pretraining
from tljax.versions import versions

USAGE = (
    "python -m tljax.lr_find --config=FILE.py [--workdir=DIR] [--low=1e-6 --high=10] "
    "[--config.FIELD=VALUE ...]"
)

HELP = f"""{USAGE}

Trains for some steps at a learning rate that grows with each, and shows where the loss
falls fastest; nothing of it is kept.

  --config=FILE.py        the config of the run, as for python -m tljax.main
  --config.FIELD=VALUE    any field of it; python -m tljax.main --help lists them
  --workdir=DIR           where to write; lr_find
  --low=1e-6 --high=10    the first rate and the last
  --updates=100           updates from the one to the other

Optimiser, decay, batch, augmentation and plan are those of the config; of a plan with
several phases it is the first. A run to start from (config.pretrain) is made first, in
DIR/pretrain. Written are lr_find.png, lr_find.csv and lr_find.json.
"""

# Weight of the past in the smoothed loss, and how far it may rise above its minimum.
SMOOTHING, DIVERGED = 0.8, 4.0


class Curve(NamedTuple):
    """The losses of a range test: float64 [n] each."""

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray


def run(argv: list[str]) -> None:
    """Runs what the command line asks for; raises RunError."""
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print_line(HELP)
        return
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "lr_find", "where to write", flag_values=values)
    flags.DEFINE_float("low", 1e-6, "the first rate", flag_values=values)
    flags.DEFINE_float("high", 10.0, "the last rate", flag_values=values)
    flags.DEFINE_integer("updates", 100, "of the test", 10, flag_values=values)
    config = command_line.parse_config(argv, values, USAGE)
    if not 0 < values.low < values.high < math.inf:
        raise ConfigError(
            f"--low={values.low:g} must be above 0 and below --high={values.high:g}"
        )
    workdir = workdirs.as_path(values.workdir)
    find(config, workdir, values.low, values.high, values.updates)


def find(
    config: Config, workdir: Path, low: float, high: float, updates: int
) -> dict[str, Any]:
    """Runs the test, writes and prints what it shows, and returns it."""
    make_folder(workdir)
    parts = with_pretraining(prepare(config), workdir)
    terminal = Terminal("lr_find", updates, parts.batch_size)
    terminal.say(parts.describe())
    for line in plan_table.lines(parts):
        terminal.say(line)
    curve = run_test(parts, terminal, low, high, updates)
    found = {
        **suggest(curve),
        "low": low,
        "high": high,
        "updates": len(curve.rates),
        "versions": versions(),
        "config": workdirs.as_json(config),
    }
    write(curve, found, workdir)
    print_line(describe(found))
    print_line(f"all of it in {workdir}")
    return found


def make_folder(workdir: Path) -> None:
    """Makes the folder to write to; raises ConfigError where it cannot be."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {workdir}: {error}") from None
    workdirs.check_writable(workdir / "lr_find.json")


def run_test(
    run: Run, terminal: Terminal, low: float, high: float, updates: int
) -> Curve:
    """Returns the losses at rates that grow from `low` to `high`.

    It ends early where the smoothed loss is four times its minimum, or not finite.
    """
    every = run.config.optim.accumulate_steps
    rates = np.geomspace(low, high, updates)
    schedule = growing(low, high, updates)
    tx = run.task.create_optimizer(run.config, schedule, run.plan.rows)
    # Each loss is looked at before the next step.
    config = dataclasses.replace(run.config, steps_per_call=1)
    run = run._replace(config=config, schedule=schedule, tx=tx)
    run = run._replace(shapes=jax.eval_shape(run.create_state))
    state, news = begin(run)
    terminal.say(news)
    split = open_splits(run, terminal)["train"]
    train_step, seconds = compile_train_step(run, run.plan.phases[0])
    terminal.say(f"step compiled in {seconds:.1f} s")
    stored = stored_images(run, split)
    state, _ = recalibrate(run, state, split, stored)
    losses, smoothed, mean = [], [], 0.0
    with closing(train_batches(run, split, 0)) as batches:
        for number in track(range(updates), updates, "growing the learning rate"):
            loss = 0.0
            for _ in range(every):
                state, metrics = train_step(state, next(batches), stored)
                loss += float(metrics["loss"]) / every
            if not (math.isfinite(loss) and metrics["finite"]):
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            losses.append(loss)
            # The mean began at 0, and is divided by the weight that this has had.
            smoothed.append(mean / (1 - SMOOTHING ** (number + 1)))
            if smoothed[-1] > DIVERGED * min(smoothed):
                break
    return Curve(rates[: len(losses)], np.array(losses), np.array(smoothed))


def growing(low: float, high: float, updates: int) -> optax.Schedule:
    """Returns update -> rate, a geometric series from `low` to `high`."""
    return optax.exponential_decay(low, updates - 1, high / low)


def suggest(curve: Curve) -> dict[str, float | None]:
    """Returns the rates where the smoothed loss falls fastest and where it is lowest.

    Fastest by the logarithm of the rate. Both are None where the loss never falls.
    """
    if len(curve.rates) < 3:
        return {"suggestion": None, "lowest": None}
    place = int(curve.smoothed.argmin())
    slopes = np.gradient(curve.smoothed, np.log(curve.rates))[: place + 1]
    steepest = int(slopes.argmin())
    if place == 0 or slopes[steepest] >= 0:
        return {"suggestion": None, "lowest": None}
    return {
        "suggestion": float(curve.rates[steepest]),
        "lowest": float(curve.rates[place]),
    }


def describe(found: dict[str, Any]) -> str:
    """Returns one line on what a test shows."""
    if found["updates"] < 3:
        return (
            f"no suggestion: the loss ran away within {found['updates']} updates; take "
            f"a --low below {found['low']:g}"
        )
    if found["suggestion"] is None:
        return (
            f"no suggestion: the loss does not fall between {found['low']:g} and "
            f"{found['high']:g}"
        )
    return (
        f"the loss falls fastest at learning rate {found['suggestion']:.2g}, and is "
        f"lowest at {found['lowest']:.2g}: try "
        f"--config.optim.learning_rate={found['suggestion']:.1g}, and no more than a "
        "tenth of the lowest where it is less"
    )


def write(curve: Curve, found: dict[str, Any], workdir: Path) -> None:
    """Writes the plot, the losses and the numbers of a test."""
    rows = zip(*(values.tolist() for values in curve), strict=True)
    header = ("learning_rate", "loss", "smoothed_loss")
    workdirs.write_csv(workdir / "lr_find.csv", [header, *rows])
    try:
        plots.save(workdir / "lr_find.png", plots.range_test, *curve, found)
        workdirs.write_json(workdir / "lr_find.json", found)
    except OSError as error:
        raise ConfigError(f"cannot write to {workdir}: {error}") from None


if __name__ == "__main__":
    sys.exit(run_command(run, sys.argv))
