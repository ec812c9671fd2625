"""What data costs in training: augmentation in the step, and real images at all.

    python -m benchmarks.data_cost

  augmentation   a training step that cuts random boxes from 256x341 canvases on the
                 device, flips and normalises, beside one that normalises 224x224 images
  real           training on a folder of JPEG files, decoded once and kept on the
                 device, beside training on `synthetic`, by the loop's own parts

Both pairs take turns in one process. `ratio` is with over without, in speed.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
from absl import app, flags

from benchmarks.photographs import write_photographs
from benchmarks.steps import prepare_steps
from tljax.config import Config, Data, HorizontalFlip, Model, RandomResizedCrop

MODEL = flags.DEFINE_string("model", "resnet50", "of the pair `augmentation`")
SIZE = flags.DEFINE_integer("image_size", 224, "of the pair `augmentation`")
BATCH = flags.DEFINE_integer("batch_size", 16, "of the pair `augmentation`")
REPEATS = flags.DEFINE_integer("repeats", 7, "turns of each side")
STEPS = flags.DEFINE_integer("steps", 20, "steps a turn of the pair `real`")
SMOKE = flags.DEFINE_bool("smoke", False, "small models, few steps")

CLASSIC = (RandomResizedCrop(), HorizontalFlip())


def compare(name: str, with_it, without, steps: int) -> dict[str, float]:
    """Returns the spread of the ratio of speeds over turns that alternate."""
    ratios, seconds = [], []
    for _ in range(REPEATS.value):
        times = []
        for take in (with_it, without):
            start = time.perf_counter()
            take(steps)
            times.append((time.perf_counter() - start) / steps)
        ratios.append(times[1] / times[0])
        seconds.append(times[0])
    return {
        f"{name}_ratio": round(statistics.median(ratios), 4),
        f"{name}_ratio_low": round(min(ratios), 4),
        f"{name}_ratio_high": round(max(ratios), 4),
        f"{name}_step_seconds": round(statistics.median(seconds), 4),
    }


def augmentation(folder: Path) -> dict[str, float]:
    """Returns what the classic augmentation costs in a step."""
    size = SIZE.value
    photographs = Data(
        source=f"folder:{folder}/photographs", image_size=size, batch_size=BATCH.value,
        augment=CLASSIC, cache="device",
    )  # fmt: skip
    plain = Data(
        source="synthetic", image_size=size, batch_size=BATCH.value, num_examples=200,
        cache="device",
    )  # fmt: skip
    sides = [
        prepare_steps(
            Config(num_devices=1, model=Model(name=MODEL.value), data=data), place
        ).take
        for data, place in ((photographs, folder / "a"), (plain, folder / "b"))
    ]
    return compare("augmentation", *sides, steps=1)


def real(folder: Path) -> dict[str, float]:
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
    return compare("real", *sides, steps=STEPS.value)


def main(argv: list[str]) -> None:
    """Measures both pairs and prints one JSON line last."""
    if SMOKE.value:
        flags.FLAGS.model, flags.FLAGS.image_size = "resnet18", 32
        flags.FLAGS.batch_size, flags.FLAGS.repeats, flags.FLAGS.steps = 4, 2, 2
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TLJAX_HOME"] = f"{folder}/home"
        place = Path(folder)
        write_photographs(place / "photographs", 200, (500, 375))
        write_photographs(place / "small", 1024, (40, 40))
        result = {"model": MODEL.value, "image_size": SIZE.value, **augmentation(place)}
        result |= real(place)
    result |= {
        f"ratio{end}": result[f"augmentation_ratio{end}"]
        for end in ("", "_low", "_high")
    }
    result |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
