"""Decoded images on disk: each is decoded once, and checked whenever it is read.

A cache is a folder, made beside its place and renamed: `pixels` holds the canvases of
all images end to end, `index.npz` their extents and CRC-32. It is keyed by all that
decides its content; one that does not have the right size is made again.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tljax.data.canvas import Canvas, Drawings, Drawn
from tljax.data.splits import Split
from tljax.errors import DataError
from tljax.home import home

# Changes with whatever changes the pixels that a file is decoded to.
VERSION = 1
INDEX = ("extents", "errors", "checksums")


class Decoded(NamedTuple):
    """All images of a split on their canvas.

    Attributes:
      pixels: uint8 [n, short, long, channels], in memory or mapped from disk.
      extents: int32 [n, 2], (height, width) of each; (0, 0) where it cannot be used.
      errors: str [n], why not; empty where it can.
      checksums: uint32 [n], CRC-32 of each; None where they are in memory.
    """

    pixels: np.ndarray
    extents: np.ndarray
    errors: np.ndarray
    checksums: np.ndarray | None


def read_rows(decoded: Decoded, places: np.ndarray, drawings: Drawings) -> np.ndarray:
    """Returns pixels [len(places), short, long, channels].

    A canvas that is not as it was written is drawn again, from `drawings`. Raises
    DataError where that cannot be done.
    """
    rows = decoded.pixels[places]
    if decoded.checksums is not None:
        for row, place in enumerate(places):
            if zlib.crc32(rows[row]) != decoded.checksums[place]:
                drawn = drawings[int(place)]
                if drawn.error:
                    raise DataError(
                        f"decoded image {place} is damaged, and so is its file: "
                        f"{drawn.error}; the cache is {decoded.pixels.filename}"
                    )
                rows[row] = drawn.pixels
    return rows


def in_memory(images: np.ndarray, drawings: Drawings) -> Decoded:
    """Returns images [n, h, w, c] on their canvas, in memory."""
    count, shape = len(images), drawings.canvas
    if images.shape[1:] == shape:
        extents = np.full((count, 2), shape[:2], np.int32)
        return Decoded(images, extents, np.full(count, ""), None)
    pixels = np.empty((count, *shape), np.uint8)
    rows = (drawings[place] for place in range(count))
    extents, errors, _ = keep(rows, pixels.__setitem__)
    return Decoded(pixels, extents, errors, None)


def on_disk(
    key: str, drawings: Drawings, draw: Callable[[], Iterator[Drawn]]
) -> Decoded:
    """Returns the images of a split, mapped from the cache; decoded where it has none.

    `draw` begins to decode all images in order. Raises DataError where they cannot be
    written.
    """
    folder = home() / "decoded" / key
    count, canvas = len(drawings), drawings.canvas
    found = open_cache(folder, count, canvas)
    if found is not None and is_up_to_date(found, drawings):
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")):
            found = open_cache(folder, count, canvas)
            # Another process may have made it in the meantime.
            if found is None or not is_up_to_date(found, drawings):
                found = None
                make_cache(folder, draw())
    except OSError as error:
        raise DataError(
            f"decoded images cannot be written to {folder.parent}: {error.strerror}; "
            f"they take {count * canvas.bytes / 1e9:.3f} GB; set TLJAX_HOME to another "
            "place, or config.data.cache=none"
        ) from None
    return found or open_cache(folder, count, canvas)


def is_up_to_date(decoded: Decoded, drawings: Drawings) -> bool:
    """Returns whether what could not be used still cannot: a disk may have failed."""
    unusable = np.flatnonzero(decoded.errors != "")
    return all(drawings[int(place)].error for place in unusable)


def key_of(split: Split, text: str) -> str:
    """Returns the hash of a text and of the names of a split's examples."""
    key = hashlib.sha256(f"{VERSION} {text}".encode())
    for name in split.names:
        key.update(os.fsencode(name) + b"\0")
    return key.hexdigest()[:32]


def open_cache(folder: Path, count: int, canvas: Canvas) -> Decoded | None:
    """Returns what a folder holds, None where it is not there whole."""
    try:
        with (
            (folder / "index.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as index,
        ):
            extents, errors, checksums = (index[name] for name in INDEX)
        if not len(extents) == len(errors) == len(checksums) == count:
            return None
        if (folder / "pixels").stat().st_size != count * canvas.bytes:
            return None
        pixels = np.memmap(
            folder / "pixels", np.uint8, mode="r", shape=(count, *canvas)
        )
    except Exception:  # Whatever a damaged file does: it is made again.
        return None
    return Decoded(pixels, extents, errors, checksums)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock, after any other process that holds it."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_cache(folder: Path, drawn: Iterator[Drawn]) -> None:
    """Writes a cache; what is there of it before, damaged or half made, goes."""
    part = folder.with_suffix(".part")
    for before in (part, folder):
        shutil.rmtree(before, ignore_errors=True)
    part.mkdir()
    try:
        with (part / "pixels").open("wb") as file:
            index = keep(drawn, lambda place, pixels: file.write(pixels.data))
            os.fsync(file.fileno())
        with (part / "index.npz").open("wb") as file:
            np.savez(file, **dict(zip(INDEX, index, strict=True)))
            file.flush()
            os.fsync(file.fileno())
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def keep(
    drawn: Iterable[Drawn], write: Callable[[int, np.ndarray], Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns extents, errors and checksums of what is drawn; writes its pixels."""
    extents, errors, checksums = [], [], []
    for place, image in enumerate(drawn):
        pixels = np.ascontiguousarray(image.pixels)
        write(place, pixels)
        extents.append(image.extent)
        errors.append(image.error)
        checksums.append(zlib.crc32(pixels))
    return (
        np.array(extents, np.int32),
        np.array(errors, str),
        np.array(checksums, np.uint32),
    )
