"""What a training step costs under each preset of the fine-tuning plan.

    python -m benchmarks.fine_tuning --model=resnet50 --image_size=128 --batch_size=8

The presets take turns in one process, with the same images, batch and optimiser. What
is frozen costs a forward pass: it is not differentiated, and BatchNorm there does not
compute statistics. Of each preset

  step_seconds       median over the turns, with the lowest and the highest
  images_per_second  at the median
  speedup            of `full` over it, turn by turn: median, lowest, highest
  gigaflops          of the compiled step, as XLA counts them
  temp_megabytes     that the step holds beside its arguments at most, as XLA plans it
  trained            parameters that have a gradient and an optimiser state

`ratio` is the speed of `head` over that of `full`.
"""

import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import jax
from absl import flags

from benchmarks import command, machine, timing
from benchmarks.steps import Steps, prepare_steps
from tljax import plan
from tljax.config import Config, Data, Model, Plan
from tljax.models import MODELS
from tljax.presets import PRESETS
from tljax.run import Run

NAMES = ["full", "head", "last_k", "bn_only", "layerwise_decay"]
SMOKE = {
    "model": "resnet18", "image_size": 32, "batch_size": 4, "repeats": 2,
    "presets": "full,head",
}  # fmt: skip


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this benchmark."""
    flags.DEFINE_string("model", "resnet50", "architecture", flag_values=values)
    flags.DEFINE_list("presets", NAMES, "to compare", flag_values=values)
    command.define_numbers(
        values,
        image_size=(128, "pixels of a side"),
        batch_size=(8, "images of a step"),
        last_k=(1, "stages that train under last_k"),
        repeats=(7, "turns of each preset"),
    )


def config_of(preset: str, values: flags.FlagValues) -> Config:
    """Returns a run with a preset."""
    data = Data(
        source="synthetic", image_size=values.image_size, batch_size=values.batch_size,
        num_examples=max(256, 2 * values.batch_size),
    )  # fmt: skip
    return Config(
        num_devices=1,
        model=Model(name=values.model),
        data=data,
        plan=Plan(preset=preset, last_k=values.last_k),
    )


def count_trained(run: Run) -> int:
    """Returns how many parameters train in the first phase of a run."""
    trained = plan.split(run.abstract_state().params, run.plan.phases[0])
    return sum(leaf.size for leaf in jax.tree.leaves(trained))


def describe(name: str, steps: Steps, times: dict[str, list[float]]) -> dict[str, Any]:
    """Returns what is measured of a preset; `times` are milliseconds of all."""
    seconds = [time / 1000 for time in times[name]]
    median = timing.spread(seconds)["median"]
    speedup = timing.ratio(times[name], times["full"])
    flops = steps.program.cost_analysis()["flops"]
    temp = steps.program.memory_analysis().temp_size_in_bytes
    return {
        "preset": name,
        "step_seconds": median,
        "step_seconds_low": timing.significant(min(seconds)),
        "step_seconds_high": timing.significant(max(seconds)),
        "images_per_second": timing.significant(
            steps.run.config.data.batch_size / median
        ),
        **{key.replace("ratio", "speedup"): value for key, value in speedup.items()},
        "gigaflops": round(flops / 1e9, 3),
        "temp_megabytes": round(temp / 1e6, 1),
        "trained": count_trained(steps.run),
    }


def run(argv: list[str]) -> None:
    """Prints a line for each preset, and one JSON line last; raises RunError."""
    values = command.parse(argv, __doc__, define, SMOKE)
    if values is None:
        return
    command.check(values, model=MODELS, presets=PRESETS)
    names = list(dict.fromkeys(["full", "head", *values.presets]))
    with tempfile.TemporaryDirectory() as folder, command.words_of(values):
        steps = {
            name: prepare_steps(config_of(name, values), Path(folder) / name)
            for name in names
        }
        sides = {name: each.take for name, each in steps.items()}
        times = timing.take_turns(sides, values.repeats, 1)
    rows = [describe(name, steps[name], times) for name in names]
    for row in rows:
        print(json.dumps(row))
    result = {
        "benchmark": "fine_tuning",
        "model": values.model,
        "image_size": values.image_size,
        "batch_size": values.batch_size,
        **timing.ratio(times["head"], times["full"]),
        "presets": rows,
        "repeats": values.repeats,
        "cores": machine.cores(),
        "python": platform.python_version(),
        **machine.describe(steps["full"].run.mesh),
    }
    command.finish(result, values.output)


if __name__ == "__main__":
    command.main(run)
