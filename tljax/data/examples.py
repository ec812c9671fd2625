"""How the images of a run are kept: on the device, decoded on disk, or as files."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tljax.data import cache, canvas, reader, remember
from tljax.data.cache import Decoded
from tljax.data.canvas import Canvas, Drawings, Drawn, Sizes
from tljax.data.reader import Readers
from tljax.data.skipped import Skipped
from tljax.data.splits import Source, Split
from tljax.errors import DataError
from tljax.home import home

CACHES = ("auto", "none", "disk", "device")
# Share of a device's memory, or of the disk, that images may take by themselves.
SHARE = 0.25
# Bytes of images that are read ahead, at most.
READ_AHEAD = 512 * 2**20

# Shows how far a loop is: track(elements, total, text) -> elements.
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


class Storage(NamedTuple):
    """How the images of a run are kept, before any of them is decoded.

    Attributes:
      canvases: split -> the array that its images are drawn on.
      cache: "none": images are decoded whenever they are needed; "disk": once;
        "device": once, and those of training lie on the device.
      news: a line for people.
    """

    canvases: dict[str, Canvas]
    cache: str
    news: str


class Examples(NamedTuple):
    """A split that is ready to be loaded.

    Attributes:
      split: its labels and names.
      drawings: its images, each decoded when asked for.
      decoded: its images where they are kept, else None.
      stand_ins: int64 [n], for each the next that can be used: itself, mostly.
      skipped: where images that cannot be used are noted.
    """

    split: Split
    drawings: Drawings
    decoded: Decoded | None
    stand_ins: np.ndarray | None
    skipped: Skipped


def choose_storage(
    source: Source, config, resizes: dict[str, int], device_bytes: int, track: Track
) -> Storage:
    """Returns how images are kept; reads the header of each file once.

    `config` is the `data` part of a Config, `resizes` the shorter side of the images of
    each split, `device_bytes` the memory of a device. Raises DataError where no image
    of a split can be read.
    """
    sizes = {name: find_sizes(source, name, config, track) for name in source.splits}
    for name, found in sizes.items():
        if found.max() == 0:
            raise DataError(
                f"none of the {len(found)} images of {name} in {config.source!r} can "
                "be read"
            )
    # One program evaluates all splits, and so they have one canvas.
    held_out = np.concatenate([sizes[name] for name in sizes if name != "train"])
    canvases = {
        name: canvas.fit(
            sizes[name] if name == "train" else held_out,
            resizes[name],
            source.channels,
        )
        for name in sizes
    }
    counts = {name: len(split.labels) for name, split in source.splits.items()}
    total = sum(canvases[name].bytes * counts[name] for name in counts)
    training = canvases["train"].bytes * counts["train"]
    kept = config.cache
    if kept == "auto":
        kept = choose_cache(training, 0 if source.size else total, device_bytes)
    where = {
        "none": "decoded whenever they are needed",
        "disk": "decoded once and kept",
        "device": "decoded once and kept, those of training on the device",
    }[kept]
    short, long, _ = canvases["train"]
    readers = readers_of(config, canvases["train"].bytes)
    news = (
        f"images are {where} (cache={kept}): {short}x{long}, {size_of(total)} in all, "
        f"{size_of(training)} of training; the device has {size_of(device_bytes)}; at "
        f"most {size_of(readers.buffer * canvases['train'].bytes)} are read ahead"
    )
    return Storage(canvases, kept, news)


def size_of(count: int) -> str:
    """Returns a number of bytes for people."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def find_sizes(source: Source, name: str, config, track: Track) -> np.ndarray:
    """Returns the (height, width) of each image of a split, [n, 2]."""
    if source.size:
        return np.full((1, 2), source.size)
    split, pixels = source.splits[name], max_pixels(config)

    def find() -> np.ndarray:
        rows = reader.read(Sizes(split.images, pixels), readers_of(config))
        rows = track(rows, len(split.labels), f"reading sizes of {name}")
        return np.array(list(rows), np.int32)

    key = cache.key_of(split, f"sizes {source.fingerprint()} {pixels}")
    return remember.array(key, find)


def max_pixels(config) -> int:
    """Returns the number of pixels above which an image is not decoded."""
    return int(config.max_megapixels * 1e6)


def choose_cache(training: int, on_disk: int, device_bytes: int) -> str:
    """Returns which cache serves a run best, by the bytes that it takes."""
    if training <= SHARE * device_bytes:
        return "device"
    place = home()
    while not place.exists():
        place = place.parent
    return "disk" if on_disk <= SHARE * shutil.disk_usage(place).free else "none"


def readers_of(config, image_bytes: int = 1) -> Readers:
    """Returns who reads images, as the `data` part of a Config says."""
    threads = config.num_threads or min(os.cpu_count() or 1, 16)
    ahead = 16 * threads * max(config.num_workers, 1)
    buffer = max(min(ahead, READ_AHEAD // image_bytes), 1)
    return Readers(threads, config.num_workers, config.timeout, buffer)


def open_split(
    source: Source, name: str, storage: Storage, config, skipped: Skipped, track: Track
) -> Examples:
    """Returns a split ready to be loaded; decodes it where that is to be done once.

    Raises DataError where too many of its images cannot be used.
    """
    split, shape = source.splits[name], storage.canvases[name]
    drawings = Drawings(split.images, shape, max_pixels(config))
    if storage.cache == "none":
        return Examples(split, drawings, None, None, skipped)

    def draw() -> Iterator[Drawn]:
        rows = reader.read(drawings, readers_of(config, shape.bytes))
        rows = track(rows, len(drawings), f"decoding {name}")
        for place, drawn in enumerate(rows):
            if drawn.error:
                skipped.add(str(split.names[place]), drawn.error)
            yield drawn

    if isinstance(split.images, np.ndarray):
        decoded = cache.in_memory(split.images, drawings)
    else:
        key = cache.key_of(
            split, f"{source.fingerprint()} {shape} {drawings.max_pixels}"
        )
        decoded = cache.on_disk(key, drawings, draw)
    for place in np.flatnonzero(decoded.errors != ""):
        skipped.add(str(split.names[place]), str(decoded.errors[place]))
    usable = np.flatnonzero(decoded.errors == "")
    if not len(usable):
        raise DataError(f"none of the images of {name} can be used")
    following = np.searchsorted(usable, np.arange(len(drawings)))
    stand_ins = usable[following % len(usable)]
    return Examples(split, drawings, decoded, stand_ins, skipped)
