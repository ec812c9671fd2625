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
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from absl import app, flags

from benchmarks.photographs import write_photographs
from benchmarks.torch_side import import_torchvision

IMAGES = flags.DEFINE_integer("images", 1000, "photographs in the folder")
SIZE = flags.DEFINE_list("size", ["500", "375"], "width and height of a photograph")
BATCH = flags.DEFINE_integer("batch_size", 50, "images of a batch")
WORKERS = flags.DEFINE_integer("workers", 2, "threads here, processes there")
REPEATS = flags.DEFINE_integer("repeats", 5, "processes of each side")
THEIRS = flags.DEFINE_bool("theirs", True, "measure torchvision too")
SMOKE = flags.DEFINE_bool("smoke", False, "a few small images, once")
SIDE = flags.DEFINE_string("side", "", "what a child process measures")
FOLDER = flags.DEFINE_string("folder", "", "the photographs, given to a child process")


def read_ours(folder: str) -> dict[str, float]:
    """Returns images/s of a streamed epoch, of decoding, and of epochs from disk."""
    found = {}
    start = time.perf_counter()
    batches, count = open_ours(folder, "none")
    with closing(batches):
        next(batches)
        found["first_batch_seconds"] = time.perf_counter() - start
    batches, count = open_ours(folder, "none")
    found["stream"] = timed_epoch(batches, count)
    start = time.perf_counter()
    batches, count = open_ours(folder, "disk")
    found["decode"] = count / (time.perf_counter() - start)
    batches.close()
    start = time.perf_counter()
    batches, count = open_ours(folder, "disk")
    with closing(batches):
        next(batches)
        found["first_batch_seconds_cached"] = time.perf_counter() - start
    batches, count = open_ours(folder, "disk")
    found["cached"] = timed_epoch(batches, count, epochs=5)
    return found


def open_ours(folder: str, cache: str):
    """Returns the training batches of a folder, and how many images it has."""
    from tljax.config import Data
    from tljax.data import examples, loader, sources
    from tljax.data.order import Course, Order
    from tljax.data.skipped import Skipped

    config = Data(
        source=f"folder:{folder}",
        cache=cache,
        num_threads=WORKERS.value,
        val_fraction=0.1,
        test_fraction=0.1,
    )
    source = sources.load(config)
    resizes = dict.fromkeys(source.splits, 256)
    silent = lambda rows, total, text: rows  # noqa: E731
    storage = examples.choose_storage(source, config, resizes, 10**10, silent)
    skipped = Skipped(IMAGES.value, 0.0, print)
    split = examples.open_split(source, "train", storage, config, skipped, silent)
    readers = examples.readers_of(config, split.drawings.canvas.bytes)
    course = Course(Order(0, split.split.labels), BATCH.value)
    return loader.train_batches(split, course, 0, readers), len(split.split.labels)


def timed_epoch(batches, count: int, epochs: int = 1) -> float:
    """Returns the images a second of so many epochs."""
    steps = epochs * count // BATCH.value
    with closing(batches):
        start = time.perf_counter()
        for _ in itertools.islice(batches, steps):
            pass
        return steps * BATCH.value / (time.perf_counter() - start)


def read_theirs(folder: str) -> dict[str, float]:
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
        images, BATCH.value, shuffle=True, num_workers=WORKERS.value, drop_last=True
    )
    next(iter(loader))
    first = time.perf_counter() - start
    start = time.perf_counter()
    count = sum(len(labels) for _, labels in loader)
    speed = count / (time.perf_counter() - start)
    return {"stream": speed, "first_batch_seconds": first}


SIDES = {"ours": read_ours, "theirs": read_theirs}


def measure(side: str, folder: str, home: str) -> dict[str, float]:
    """Returns what a child process measured, with its peak of memory in MB."""
    names = ("images", "batch_size", "workers")
    passed = [f"--{name}={flags.FLAGS[name].value}" for name in names]
    child = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.input_pipeline",
            f"--side={side}",
            f"--folder={folder}",
            *passed,
        ],
        env=os.environ | {"TLJAX_HOME": home},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        sys.exit(child.stderr)
    return json.loads(child.stdout.splitlines()[-1])


def spread(values: list[float]) -> dict[str, float]:
    """Returns the median and the extremes."""
    digits = [round(value, 3) for value in values]
    return {
        "median": round(statistics.median(values), 3),
        "low": min(digits),
        "high": max(digits),
    }


def main(argv: list[str]) -> None:
    """Alternates the two sides and prints one JSON line last."""
    if SIDE.value:
        found = SIDES[SIDE.value](FOLDER.value)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found | {"peak_mb": peak}))
        return
    if SMOKE.value:
        flags.FLAGS.images, flags.FLAGS.batch_size, flags.FLAGS.repeats = 120, 10, 1
        flags.FLAGS.size, flags.FLAGS.theirs = ["60", "40"], False
    sides = ["ours", "theirs"] if THEIRS.value else ["ours"]
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        width, height = map(int, SIZE.value)
        write_photographs(Path(folder), IMAGES.value, (width, height))
        for _ in range(REPEATS.value):
            for side in sides:
                with tempfile.TemporaryDirectory() as home:  # Nothing is decoded yet.
                    found[side].append(measure(side, folder, home))
    result = {
        "images": IMAGES.value,
        "size": [width, height],
        "batch_size": BATCH.value,
        "workers": WORKERS.value,
        "device": platform.processor() or platform.machine(),
    }
    for side, runs in found.items():
        result[side] = {name: spread([run[name] for run in runs]) for name in runs[0]}
    if "theirs" in found:
        for name in ("stream", "decode", "cached"):
            ratios = [
                ours[name] / theirs["stream"]
                for ours, theirs in zip(found["ours"], found["theirs"], strict=True)
            ]
            result[f"{name}_ratio"] = spread(ratios)
        first = result["stream_ratio"]
        result |= {
            "ratio": first["median"],
            "ratio_low": first["low"],
            "ratio_high": first["high"],
        }
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
