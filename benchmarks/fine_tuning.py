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
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import jax
from absl import app, flags

from benchmarks.steps import Steps, prepare_steps
from tljax import plan
from tljax.config import Config, Data, Model, Plan
from tljax.presets import PRESETS
from tljax.run import Run

MODEL = flags.DEFINE_string("model", "resnet50", "architecture")
SIZE = flags.DEFINE_integer("image_size", 128, "pixels of a side")
BATCH = flags.DEFINE_integer("batch_size", 8, "images of a step")
NAMES = flags.DEFINE_list(
    "presets", ["full", "head", "last_k", "bn_only", "layerwise_decay"], "to compare"
)
LAST_K = flags.DEFINE_integer("last_k", 1, "stages that train under last_k")
REPEATS = flags.DEFINE_integer("repeats", 7, "turns of each preset")
SMOKE = flags.DEFINE_bool("smoke", False, "a small model, few steps")


def config_of(preset: str) -> Config:
    """Returns a run with a preset."""
    data = Data(
        source="synthetic", image_size=SIZE.value, batch_size=BATCH.value,
        num_examples=max(256, 2 * BATCH.value),
    )  # fmt: skip
    return Config(
        num_devices=1,
        model=Model(name=MODEL.value),
        data=data,
        plan=Plan(preset=preset, last_k=LAST_K.value),
    )


def count_trained(run: Run) -> int:
    """Returns how many parameters train in the first phase of a run."""
    trained = plan.split(run.abstract_state().params, run.plan.phases[0])
    return sum(leaf.size for leaf in jax.tree.leaves(trained))


def time_turns(steps: dict[str, Steps]) -> dict[str, list[float]]:
    """Returns the seconds of a step in each turn, of presets that take turns."""
    seconds = {name: [] for name in steps}
    for _ in range(REPEATS.value):
        for name, each in steps.items():
            start = time.perf_counter()
            each.take(1)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(name: str, values: list[float]) -> dict[str, float]:
    """Returns the median of values under a name, and the lowest and highest."""
    return {
        name: round(statistics.median(values), 4),
        f"{name}_low": round(min(values), 4),
        f"{name}_high": round(max(values), 4),
    }


def speedups(seconds: dict[str, list[float]], name: str) -> list[float]:
    """Returns the speed of a preset over that of `full`, turn by turn."""
    pairs = zip(seconds["full"], seconds[name], strict=True)
    return [full / one for full, one in pairs]


def describe(name: str, steps: Steps, seconds: dict[str, list[float]]) -> dict:
    """Returns what is measured of a preset."""
    flops = steps.program.cost_analysis()["flops"]
    temp = steps.program.memory_analysis().temp_size_in_bytes
    return {
        "preset": name,
        **spread("step_seconds", seconds[name]),
        "images_per_second": round(BATCH.value / statistics.median(seconds[name]), 2),
        **spread("speedup", speedups(seconds, name)),
        "gigaflops": round(flops / 1e9, 3),
        "temp_megabytes": round(temp / 1e6, 1),
        "trained": count_trained(steps.run),
    }


def main(argv: list[str]) -> None:
    """Prints a line for each preset, and one JSON line last."""
    del argv
    if SMOKE.value:
        flags.FLAGS.model, flags.FLAGS.image_size = "resnet18", 32
        flags.FLAGS.batch_size, flags.FLAGS.repeats = 4, 2
        flags.FLAGS.presets = ["full", "head"]
    names = list(dict.fromkeys(["full", "head", *NAMES.value]))
    unknown = [name for name in names if name not in PRESETS]
    if unknown:
        raise app.UsageError(f"--presets: {unknown} are none of {list(PRESETS)}")
    with tempfile.TemporaryDirectory() as folder:
        steps = {
            name: prepare_steps(config_of(name), Path(folder) / name) for name in names
        }
        seconds = time_turns(steps)
    rows = [describe(name, steps[name], seconds) for name in names]
    for row in rows:
        print(json.dumps(row))
    result = {
        "benchmark": "fine_tuning",
        "model": MODEL.value,
        "image_size": SIZE.value,
        "batch_size": BATCH.value,
        **spread("ratio", speedups(seconds, "head")),
        "presets": rows,
        "repeats": REPEATS.value,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
