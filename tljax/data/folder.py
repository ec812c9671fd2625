"""Folders of images: PATH/train/CLASS/* with PATH/val or PATH/test, or PATH/CLASS/*."""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tljax.data.decode import ENDINGS, BadImage
from tljax.data.splits import Source, Split
from tljax.errors import DataError, quote

SPLITS = {"train": "train", "test": "test"}
SPLITS |= dict.fromkeys(("val", "valid", "validation"), "val")
# Formats that keep their size when pixels change: their fingerprint is of all bytes.
PLAIN = (".bmp", ".tif", ".tiff")
# Bytes at either end of a file that its fingerprint is of.
ENDS = 4096
# Bytes in which the header of an image ends, but for very large EXIF blocks.
HEAD = 64 * 1024


class File(NamedTuple):
    """A file of a class: its path below the root, its size and time of change."""

    path: str
    size: int
    changed: int


class Files(Sequence):
    """The bytes of files, read when they are asked for."""

    def __init__(self, root: str, files: list[File]):
        self.root = root
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> bytes:
        """Returns a file's bytes; raises BadImage where it cannot be read as it was."""
        return self.read(place, -1)

    def head(self, place: int) -> bytes:
        """Returns a file's first bytes, in which most headers end."""
        return self.read(place, HEAD)

    def read(self, place: int, count: int) -> bytes:
        """Returns `count` bytes of a file, -1 for all; raises BadImage."""
        file = self.files[place]
        try:
            with Path(self.root, file.path).open("rb") as opened:
                now = os.fstat(opened.fileno())
                if (now.st_size, now.st_mtime_ns) != file[1:]:
                    raise BadImage("the file has changed since the run began")
                return opened.read(count)
        except OSError as error:
            raise BadImage(error.strerror or str(error)) from None


def load(place: str, config) -> Source:
    """Returns the images below a folder, labelled by the folder of their class.

    The classes are those of the training images, sorted by name, whatever the other
    splits hold. Symbolic links are followed, hidden files left out. Raises DataError
    where there is no such layout, where a class has no image (unless allowed), or where
    another split has a class that the training images have not.
    """
    root = Path(place).expanduser().absolute()
    if not root.is_dir():
        raise DataError(f"folder {quote(root)} does not exist")
    names = [name for name in SPLITS if (root / name).is_dir()]
    if "train" not in names:
        if any(entry.is_dir() for name in names for entry in (root / name).iterdir()):
            raise DataError(f"{quote(root)} has {' and '.join(names)}, but no train")
        names = [""]
    twice = [name for name in names if SPLITS.get(name) == "val"]
    if len(twice) > 1:
        raise DataError(f"{quote(root)} has {' and '.join(twice)}; keep one of them")
    ignored: list[str] = []
    trees = {
        SPLITS.get(name, "train"): find_classes(root, name, ignored) for name in names
    }
    class_names = check_classes(trees, root, config.allow_empty_classes)
    splits = {
        split: label(root, classes, class_names) for split, classes in trees.items()
    }
    entries = [
        entry for split in splits.values() for entry in fingerprint(split.images)
    ]
    notes = []
    if ignored:
        notes.append(f"{len(ignored)} files are no images by name: {shorten(ignored)}")
    return Source(class_names, splits, 0, config.channels, tuple(entries), tuple(notes))


def find_classes(root: Path, name: str, ignored: list[str]) -> dict[str, list[File]]:
    """Returns class name -> files, of the folders in root/name, sorted by name.

    Adds the paths of other files to `ignored`.
    """
    try:
        folders = [entry for entry in os.scandir(root / name) if entry.is_dir()]
    except OSError as error:
        raise DataError(f"cannot read {quote(root / name)}: {error}") from None
    return {
        folder.name: sorted(find_files(root, folder.path, ignored))
        for folder in sorted(folders, key=lambda folder: folder.name)
        if not folder.name.startswith(".")
    }


def find_files(root: Path, folder: str, ignored: list[str]) -> Iterator[File]:
    """Yields the image files at any depth of a folder."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # A link to a folder above would never end.
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(place, name)
            below = os.path.relpath(path, root)
            if name.startswith("."):
                continue
            if not name.lower().endswith(ENDINGS):
                ignored.append(below)
                continue
            try:
                found = path.stat()
            except OSError:  # A dangling link; reading it will say so.
                yield File(below, 0, 0)
                continue
            if stat.S_ISREG(found.st_mode):
                yield File(below, found.st_size, found.st_mtime_ns)
            else:
                ignored.append(below)


def check_classes(
    trees: dict[str, dict[str, list[File]]], root: Path, allow_empty: bool
) -> tuple[str, ...]:
    """Returns the names of the training classes; raises DataError where they are off.

    Each message lists all the classes it is about.
    """
    train = trees["train"]
    if not any(train.values()):
        raise DataError(
            f"no images in {quote(root)}: expected train/CLASS/*.jpg, or CLASS/*.jpg "
            f"({', '.join(ENDINGS)})"
        )
    empty = [name for name, files in train.items() if not files]
    if empty and not allow_empty:
        raise DataError(
            f"classes without a training image in {quote(root)}: {shorten(empty, 50)} "
            "(config.data.allow_empty_classes=True keeps them)"
        )
    if len(train) < 2:
        raise DataError(f"{quote(root)} has one class only: {shorten(list(train))}")
    for split, classes in trees.items():
        unseen = [name for name, files in classes.items() if name not in train]
        if unseen:
            raise DataError(
                f"classes of {split} without training images in {quote(root)}: "
                f"{shorten(unseen, 50)}; there are {shorten(list(train), 50)}"
            )
    return tuple(train)


def label(root: Path, classes: dict[str, list[File]], class_names) -> Split:
    """Returns the files of all classes as one split, class by class."""
    files = [file for found in classes.values() for file in found]
    labels = [class_names.index(name) for name, found in classes.items() for _ in found]
    names = np.array([file.path for file in files], dtype=object)
    return Split(Files(str(root), files), np.array(labels, np.int32), names)


def fingerprint(files: Files) -> Iterator[str]:
    """Yields "HASH PATH" of each file: of its size and of its first and last 4 KiB.

    So a set can be moved or copied, and is still known, without reading all of it.
    """
    for file in files.files:
        found = hashlib.blake2b(str(file.size).encode(), digest_size=8)
        try:
            with Path(files.root, file.path).open("rb") as opened:
                plain = file.path.lower().endswith(PLAIN)
                found.update(opened.read(-1 if plain else ENDS))
                if file.size > ENDS and not plain:
                    opened.seek(max(ENDS, file.size - ENDS))
                    found.update(opened.read(ENDS))
        except OSError as error:
            found.update(str(error.errno).encode())
        yield f"{found.hexdigest()} {file.path}"


def shorten(names: list[str], limit: int = 5) -> str:
    """Returns the first names of a list, fit to be printed."""
    shown = ", ".join(quote(name) for name in names[:limit])
    return shown + (", ..." if len(names) > limit else "")
