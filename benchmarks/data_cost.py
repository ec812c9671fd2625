"""What data costs in training: augmentation in the step, and real images at all.

    python -m benchmarks.data_cost

  augmentation   a training step that cuts random boxes from 256x341 canvases on the
                 device, flips and normalises, beside one that normalises 224x224 images
  real           training on a folder of JPEG files, decoded once and kept on the
                 device, beside training on `synthetic`, by the loop's own parts

Both pairs take turns in one process. `ratio` is with over without, in speed, of the
pair `augmentation`.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import command, machine, timing
from benchmarks.photographs import write_photographs
from benchmarks.steps import prepare_steps
from benchmarks.timing import Take
from tljax import parallel
from tljax.config import Config, Data, HorizontalFlip, Model, RandomResizedCrop
from tljax.models import MODELS

CLASSIC = (RandomResizedCrop(), HorizontalFlip())
SMOKE = {
    "model": "resnet18", "image_size": 32, "batch_size": 4, "repeats": 2, "steps": 2,
}  # fmt: skip


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this benchmark."""
    doc = "of the pair `augmentation`"
    flags.DEFINE_string("model", "resnet50", doc, flag_values=values)
    command.define_numbers(
        values,
        image_size=(224, doc),
        batch_size=(16, doc),
        repeats=(7, "turns of each side"),
        steps=(20, "steps a turn of the pair `real`"),
    )


def compare(sides: list[Take], turns: int, steps: int) -> dict[str, Any]:
    """Returns the ratios of speeds, and the seconds of a step, of the first side."""
    pair = dict(zip(("with", "without"), sides, strict=True))
    times = timing.take_turns(pair, turns, 1, await_every=steps)
    found = timing.ratio(times["with"], times["without"])
    median = timing.spread(times["with"])["median"]
    return found | {"step_seconds": timing.significant(median / 1000)}


def augmentation(values: flags.FlagValues, folder: Path) -> dict[str, Any]:
    """Returns what the classic augmentation costs in a step."""
    common = {"image_size": values.image_size, "batch_size": values.batch_size}
    common |= {"cache": "device"}
    photographs = f"folder:{folder}/photographs"
    datas = (
        Data(source=photographs, augment=CLASSIC, **common),
        Data(source="synthetic", num_examples=200, **common),
    )
    model = Model(name=values.model)
    sides = [
        prepare_steps(Config(num_devices=1, model=model, data=data), folder / name).take
        for name, data in zip("ab", datas, strict=True)
    ]
    return compare(sides, values.repeats, 1)


def real(values: flags.FlagValues, folder: Path) -> dict[str, Any]:
    """Returns how fast training on real images is, beside training on made ones."""
    sources = [f"folder:{folder}/small", "synthetic"]
    sides = [
        prepare_steps(
            Config(
                num_devices=1,
                model=Model(name="resnet18", width=16, stem="small"),
                data=Data(source=source, image_size=32, resize=32, batch_size=32),
            ),
            folder / f"real{place}",
        ).take
        for place, source in enumerate(sources)
    ]
    return compare(sides, values.repeats, values.steps)


def run(argv: list[str]) -> None:
    """Measures both pairs; raises RunError."""
    values = command.parse(argv, __doc__, define, SMOKE)
    if values is None:
        return
    command.check(values, model=MODELS)
    with tempfile.TemporaryDirectory() as folder, command.words_of(values):
        os.environ["TLJAX_HOME"] = f"{folder}/home"
        place = Path(folder)
        write_photographs(place / "photographs", 200, (500, 375))
        write_photographs(place / "small", 1024, (40, 40))
        pairs = {
            "augmentation": augmentation(values, place),
            "real": real(values, place),
        }
    ratio = {name: n for name, n in pairs["augmentation"].items() if "ratio" in name}
    result = {
        "benchmark": "data_cost",
        "model": values.model,
        "image_size": values.image_size,
        "batch_size": values.batch_size,
        **ratio,
        **{f"{pair}_{key}": n for pair in pairs for key, n in pairs[pair].items()},
        **machine.describe(parallel.create_mesh(num_devices=1)),
    }
    command.finish(result, values.output)


if __name__ == "__main__":
    command.main(run)
