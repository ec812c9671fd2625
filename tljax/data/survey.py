"""What a data set holds, in numbers and names: classes, sizes, copies."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tljax.data import cache, duplicates, examples, reader
from tljax.data.duplicates import Copies, Print
from tljax.data.examples import Examples, Storage
from tljax.data.splits import Source

# Images that one reader takes at a time: small ones take less than handing them over.
CHUNK = 16


def count_classes(source: Source) -> dict[str, np.ndarray]:
    """Returns split -> images of each class [num_classes]."""
    number = len(source.class_names)
    return {
        name: np.bincount(split.labels, minlength=number)
        for name, split in source.splits.items()
    }


def ratio(counts: np.ndarray) -> float | None:
    """Returns the largest class over the smallest, None where that is empty."""
    return float(counts.max() / counts.min()) if counts.min() else None


def measure(sizes: np.ndarray) -> dict[str, list[int]]:
    """Returns the smallest, median and largest (height, width) of [n, 2], by area.

    Sizes of 0, of what cannot be read, are left out.
    """
    sizes = sizes[sizes.min(axis=1) > 0]
    order = np.argsort(np.prod(sizes.astype(np.int64), axis=1), kind="stable")
    chosen = {"smallest": 0, "median": (len(order) - 1) // 2, "largest": -1}
    return {name: sizes[order[place]].tolist() for name, place in chosen.items()}


def describe_splits(source: Source, storage: Storage, config, track) -> dict[str, Any]:
    """Returns what JSON says of each split; `config` is the `data` part of a Config."""
    found = {}
    for name, counts in count_classes(source).items():
        sizes = examples.find_sizes(source, name, config, track)
        found[name] = {
            "images": int(counts.sum()),
            "largest_class": class_at(source, counts, int(counts.argmax())),
            "smallest_class": class_at(source, counts, int(counts.argmin())),
            "ratio": ratio(counts),
            "original_size": measure(sizes),
            "canvas": list(storage.canvases[name]),
        }
    return found


def class_at(source: Source, counts: np.ndarray, label: int) -> dict[str, Any]:
    """Returns the name of a class and its number of images."""
    return {"name": source.class_names[label], "images": int(counts[label])}


def describe_classes(source: Source) -> list[dict[str, Any]]:
    """Returns for each class, in label order, its name and its images by split."""
    counts = count_classes(source)
    return [
        {"name": name} | {split: int(found[label]) for split, found in counts.items()}
        for label, name in enumerate(source.class_names)
    ]


class Prints(Sequence):
    """Of each image of a split (its place, its print, what is wrong); some at a time.

    The print is None where something is wrong.
    """

    def __init__(self, split: Examples):
        self.drawings = split.drawings
        self.decoded = split.decoded

    def __len__(self) -> int:
        return -(-len(self.drawings) // CHUNK)

    def __getitem__(self, number: int) -> list[tuple[int, Print | None, str]]:
        stop = min((number + 1) * CHUNK, len(self.drawings))
        return [self.take(place) for place in range(number * CHUNK, stop)]

    def take(self, place: int) -> tuple[int, Print | None, str]:
        """Returns what is found at one place."""
        if self.decoded is None:
            pixels, extent, error = self.drawings[place]
        else:
            places = np.array([place])
            pixels = cache.read_rows(self.decoded, places, self.drawings)[0]
            extent = self.decoded.extents[place].tolist()
            error = str(self.decoded.errors[place])
        if error:
            return place, None, error
        return place, duplicates.take_print(upright(pixels, extent)), ""


def upright(pixels: np.ndarray, extent: tuple[int, int]) -> np.ndarray:
    """Returns an image [h, w, c] without the rest of its canvas, upright."""
    height, width = extent
    if height > width:
        return pixels[:width, :height].transpose(1, 0, 2)
    return pixels[:height, :width]


def take_prints(split: Examples, config) -> Iterator[tuple[int, Print]]:
    """Yields (place, print) of each image of a split that can be used.

    The others are noted as skipped, which raises DataError where they are too many.
    """
    prints = Prints(split)
    readers = examples.readers_of(config, split.drawings.canvas.bytes)
    if split.decoded is not None:  # What is there already is not sent anywhere.
        readers = readers._replace(processes=0)
    for rows in reader.read(prints, readers):
        for place, found, error in rows:
            if found is None:
                split.skipped.add(str(split.split.names[place]), error)
            else:
                yield place, found


def find_copies(source: Source, opened: dict[str, Examples], config, track):
    """Returns what JSON says of copies within and across the splits of a source."""
    images, prints = [], []
    for name, split in opened.items():
        total = len(split.drawings)
        found = track(take_prints(split, config), total, f"comparing {name}")
        for place, taken in found:
            images.append(describe_image(source, name, place))
            prints.append(taken)
    return describe_copies(duplicates.find(prints), images)


def describe_image(source: Source, split: str, place: int) -> dict[str, str]:
    """Returns what an image is called, and where it lies."""
    found = source.splits[split]
    label = source.class_names[found.labels[place]]
    return {"split": split, "name": str(found.names[place]), "class": label}


def describe_copies(copies: Copies, images: list[dict[str, str]]) -> dict[str, Any]:
    """Returns counts and names of copies among the images."""
    groups = {
        kind: [[images[place] for place in group] for group in getattr(copies, kind)]
        for kind in ("exact", "near")
    }
    return {
        "across": count_across(copies, [image["split"] for image in images]),
        "exact_groups": len(groups["exact"]),
        "near_groups": len(groups["near"]),
        "groups_of_several_classes": sum(
            len({image["class"] for image in group}) > 1 for group in joined(groups)
        ),
        **groups,
        "blank": [images[place] for place in copies.blank],
    }


def joined(groups: dict[str, list]) -> list:
    """Returns all groups; exact ones that are part of a near one, only as that."""
    inside = {id(image) for group in groups["near"] for image in group}
    alone = [group for group in groups["exact"] if id(group[0]) not in inside]
    return groups["near"] + alone


def count_across(copies: Copies, splits: list[str]) -> dict[str, dict[str, int]]:
    """Returns "test in train" -> images of test that have an exact or near copy there.

    For every pair of splits, and for each with itself: how many images are more than
    the first of their group. What has an exact copy is not counted as a near one.
    """
    splits = np.array(splits)
    names = [name for name in ("train", "val", "test") if name in splits]
    counts = {}
    for place, name in enumerate(names):
        for other in names[: place + 1]:
            exact = having(copies.exact, splits, name, other)
            near = having(copies.near, splits, name, other) - exact
            counts[f"{name} in {other}"] = {"exact": len(exact), "near": len(near)}
    return counts


def having(groups: list[np.ndarray], splits: np.ndarray, name: str, other: str) -> set:
    """Returns the images of one split that have another of their group in a split."""
    found = set()
    for group in groups:
        mine = group[splits[group] == name]
        if name == other:
            found.update(mine[1:].tolist())
        elif np.any(splits[group] == other):
            found.update(mine.tolist())
    return found
