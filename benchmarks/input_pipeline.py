"""Reading photographs: tljax beside torchvision's ImageFolder and DataLoader.

    pip install -e '.[parity]' && python -m benchmarks.input_pipeline

Both sides read the same JPEG files, in processes of their own that alternate, with the
same number of workers (threads here, processes there). Theirs is the classic training
transform: RandomResizedCrop(224), RandomHorizontalFlip, ToTensor, Normalize. Ours gives
uint8 canvases; crop, flip and normalisation happen in the compiled step, and what they
cost there is measured too. An epoch is timed from asking for its first batch.

  stream   first epoch, every image decoded when it is needed (cache=none)
  decode   every image decoded once, onto disk (cache=disk)
  cached   epochs from there
  first_batch_seconds   from the path of the folder to the first batch
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import command, processes, timing
from benchmarks.photographs import write_photographs
from benchmarks.torch_side import check_torch, import_torchvision
from tljax.errors import ConfigError

SMOKE = {
    "images": 120, "batch_size": 10, "repeats": 1, "size": "60,40", "theirs": False,
}  # fmt: skip


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this benchmark."""
    command.define_numbers(
        values,
        images=(1000, "photographs in the folder"),
        batch_size=(50, "images of a batch"),
        workers=(2, "threads here, processes there"),
        repeats=(5, "processes of each side"),
    )
    doc = "width and height of a photograph"
    flags.DEFINE_list("size", ["500", "375"], doc, flag_values=values)
    flags.DEFINE_bool("theirs", True, "measure torchvision too", flag_values=values)


def size_of(values: flags.FlagValues) -> tuple[int, int]:
    """Returns width and height; raises ConfigError for these and other flags."""
    size = [int(text) for text in values.size if text.isdecimal() and int(text)]
    if len(size) != 2 or len(values.size) != 2:
        given = ",".join(values.size)
        raise ConfigError(f"--size = {given!r} is not two positive integers")
    if values.images < max(100, 2 * values.batch_size):
        raise ConfigError(
            f"--images = {values.images} must be 100 or more, and twice --batch_size = "
            f"{values.batch_size}"
        )
    if values.theirs:
        check_torch()
    return tuple(size)


def read_ours(folder: str, batch_size: int, workers: int) -> dict[str, float]:
    """Returns images/s of a streamed epoch, of decoding, and of epochs from disk."""

    def opened(cache: str):
        return open_ours(folder, cache, batch_size, workers)

    found = {"first_batch_seconds": first_batch(opened, "none")}
    found["stream"] = timed_epoch(*opened("none"), batch_size)
    start = time.perf_counter()
    batches, count = opened("disk")
    found["decode"] = count / (time.perf_counter() - start)
    batches.close()
    found["first_batch_seconds_cached"] = first_batch(opened, "disk")
    found["cached"] = timed_epoch(*opened("disk"), batch_size, epochs=5)
    return found


def first_batch(opened: Callable[[str], Any], cache: str) -> float:
    """Returns the seconds from the path of the folder to the first batch."""
    start = time.perf_counter()
    batches, _ = opened(cache)
    with closing(batches):
        next(batches)
        return time.perf_counter() - start


def open_ours(folder: str, cache: str, batch_size: int, workers: int):
    """Returns the training batches of a folder, and how many images it has."""
    from tljax.config import Data
    from tljax.data import examples, loader, sources
    from tljax.data.order import Course, Order
    from tljax.data.skipped import Skipped

    config = Data(
        source=f"folder:{folder}",
        cache=cache,
        num_threads=workers,
        val_fraction=0.1,
        test_fraction=0.1,
    )
    source = sources.load(config)
    resizes = dict.fromkeys(source.splits, 256)
    silent = lambda rows, total, text: rows  # noqa: E731
    storage = examples.choose_storage(source, config, resizes, 10**10, silent)
    skipped = Skipped(len(source.entries), 0.0, print)
    split = examples.open_split(source, "train", storage, config, skipped, silent)
    readers = examples.readers_of(config, split.drawings.canvas.bytes)
    course = Course(Order(0, split.split.labels), batch_size)
    return loader.train_batches(split, course, 0, readers), len(split.split.labels)


def timed_epoch(batches, count: int, batch_size: int, epochs: int = 1) -> float:
    """Returns the images a second of so many epochs of `count` images."""
    steps = epochs * count // batch_size
    with closing(batches):
        start = time.perf_counter()
        for _ in itertools.islice(batches, steps):
            pass
        return steps * batch_size / (time.perf_counter() - start)


def read_theirs(folder: str, batch_size: int, workers: int) -> dict[str, float]:
    """Returns images/s of an epoch, and the seconds to the first batch."""
    torchvision = import_torchvision()
    import torch
    from torchvision import transforms

    start = time.perf_counter()
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = torchvision.datasets.ImageFolder(f"{folder}/train", transform)
    loader = torch.utils.data.DataLoader(
        images,
        batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        multiprocessing_context="fork",  # They start fastest, with all imported.
    )
    next(iter(loader))
    first = time.perf_counter() - start
    start = time.perf_counter()
    count = sum(len(labels) for _, labels in loader)
    speed = count / (time.perf_counter() - start)
    return {"stream": speed, "first_batch_seconds": first}


SIDES = {"ours": read_ours, "theirs": read_theirs}


def measure(side: str, folder: str, home: str, batch_size: int, workers: int):
    """Returns what a side measures in this process, with its peak of memory in MB."""
    os.environ["TLJAX_HOME"] = home
    found = SIDES[side](folder, batch_size, workers)
    return found | {"peak_mb": processes.peak_bytes() / 2**20}


def spread(numbers: list[float]) -> dict[str, float]:
    """Returns the median and the extremes."""
    return {
        "median": round(statistics.median(numbers), 3),
        "low": round(min(numbers), 3),
        "high": round(max(numbers), 3),
    }


def ratios_of(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Returns our speeds over theirs, turn by turn."""
    theirs = [1 / run["stream"] for run in runs["theirs"]]
    found = {}
    for name in ("stream", "decode", "cached"):
        ours = [1 / run[name] for run in runs["ours"]]
        found[f"{name}_ratio"] = spread(timing.ratio(ours, theirs)["ratios"])
    streamed = [1 / run["stream"] for run in runs["ours"]]
    return found | timing.ratio(streamed, theirs)


def run(argv: list[str]) -> None:
    """Alternates the two sides; raises RunError."""
    values = command.parse(argv, __doc__, define, SMOKE)
    if values is None:
        return
    # Not in the processes that measure.
    from benchmarks import machine
    from tljax import parallel

    size = size_of(values)
    options = values.batch_size, values.workers
    sides = list(SIDES) if values.theirs else ["ours"]
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), values.images, size)
        for turn in range(values.repeats):
            for side in timing.order(sides, turn):
                with tempfile.TemporaryDirectory() as home:  # Nothing is decoded yet.
                    args = side, folder, home, *options
                    runs[side].append(processes.in_new_process(measure, *args))
    result = {
        "benchmark": "input_pipeline",
        "images": values.images,
        "size": size,
        "batch_size": values.batch_size,
        "workers": values.workers,
        **{
            side: {name: spread([run[name] for run in own]) for name in own[0]}
            for side, own in runs.items()
        },
        **(ratios_of(runs) if values.theirs else {}),
        **machine.describe(parallel.create_mesh(num_devices=1)),
    }
    command.finish(result, values.output)


if __name__ == "__main__":
    command.main(run)
