"""Examples, and how they are divided and chosen: functions of the seed."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tljax.errors import ConfigError, DataError, unknown


class Subset(Sequence):
    """Some elements of a sequence, in an order of their own."""

    def __init__(self, base: Sequence, places: np.ndarray):
        self.base = base
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int):
        return self.base[int(self.places[place])]

    def head(self, place: int):
        """Returns the first bytes of an encoded image."""
        return self.base.head(int(self.places[place]))


class Split(NamedTuple):
    """Examples that are there to be read, none of them read yet.

    Attributes:
      images: of each its pixels, uint8 [height, width, channels], or the bytes of an
        encoded image; a sequence that reads what it is asked for, or one array for all.
      labels: int32 [n].
      names: str [n], what people know each example by: its file, or its number.
    """

    images: Sequence | np.ndarray
    labels: np.ndarray
    names: np.ndarray


class Source(NamedTuple):
    """A data set.

    Attributes:
      class_names: the name of each label.
      splits: "train", "val" and "test"; a loader brings those that lie there, a run has
        at least the first two.
      size: height and width where all images have the same, 0 where they differ.
      channels: of the images as they will be read.
      entries: "HASH NAME" of each example, by which a change of the data is noticed and
        named, or fewer lines for more.
      notes: lines for people.
    """

    class_names: tuple[str, ...]
    splits: dict[str, Split]
    size: int
    channels: int
    entries: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Returns a hash of the class names and the entries."""
        text = "\n".join((*self.class_names, "", *self.entries))
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    def result_split(self) -> str:
        """Returns the split of the result: the validation where there is no test."""
        return "test" if "test" in self.splits else "val"


def take(split: Split, places: np.ndarray) -> Split:
    """Returns the examples at `places`."""
    images = split.images
    if isinstance(images, np.ndarray):
        images = images[places]
    elif isinstance(images, Subset):
        images = Subset(images.base, images.places[places])
    else:
        images = Subset(images, places)
    return Split(images, split.labels[places], split.names[places])


def complete(splits: dict[str, Split], class_names, config) -> dict[str, Split]:
    """Returns "train", "val" and, where there is one, "test".

    What a source does not bring is taken from its training images, with the same share
    of every class: both, where there is nothing else, or the validation, where there is
    a test. A source with its own validation and no test is not divided; its result is
    that of the validation.
    """
    shares = {"test": config.test_fraction, "val": config.val_fraction}
    if "val" in splits:
        shares = {}
    elif "test" in splits:
        shares = {"val": config.val_fraction}
    train = splits["train"]
    places = np.arange(len(train.labels))
    found = {name: split for name, split in splits.items() if name != "train"}
    for name, share in shares.items():
        count = round(share * len(train.labels))
        places, taken = divide(train, places, count, class_names, config)
        found[name] = take(train, np.sort(taken))
    found["train"] = take(train, np.sort(places)) if shares else train
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def divide(
    split: Split, places: np.ndarray, count: int, class_names, config
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all but `count` of the places, and these; each class in proportion.

    They are those of scikit-learn's stratified `train_test_split`, whose import takes a
    second of every start. Raises DataError where a class has too few images for that.
    """
    if not len(places):
        raise DataError(f"cannot split {config.source!r}: it has no training images")
    labels = split.labels[places]
    present, sizes = np.unique(labels, return_counts=True)
    scarce = [class_names[label] for label in present[sizes == 1]]
    if scarce:
        raise DataError(
            f"cannot split {config.source!r}: only one image is left of "
            f"{', '.join(map(repr, scarce))}"
        )
    if not len(present) <= count <= len(places) - len(present):
        raise DataError(
            f"cannot split {config.source!r} into {len(places) - count} and {count} "
            f"images: each part must have one of each of {len(present)} classes"
        )
    rng = np.random.RandomState(config.seed)
    numbers = apportion(sizes, len(places) - count, rng)
    # What is taken is all that is left; scikit-learn apportions it none the less, and
    # may draw lots for it: so must we, for the same numbers afterwards.
    apportion(sizes - numbers, count, rng)
    kept, taken = [], []
    for label, number in zip(present, numbers, strict=True):
        shuffled = rng.permutation(np.flatnonzero(labels == label))
        kept.append(shuffled[:number])
        taken.append(shuffled[number:])
    kept, taken = (rng.permutation(np.concatenate(each)) for each in (kept, taken))
    return places[kept], places[taken]


def apportion(sizes: np.ndarray, number: int, rng: np.random.RandomState) -> np.ndarray:
    """Returns how many to take of groups of such sizes, `number` in all.

    In proportion, rounded down; what is left goes to the largest remainders, and among
    equal ones by lot.
    """
    shares = sizes / sizes.sum() * number
    taken = np.floor(shares).astype(int)
    remainders, left = shares - taken, number - taken.sum()
    for remainder in np.unique(remainders)[::-1]:
        if left == 0:
            break
        equal = np.flatnonzero(remainders == remainder)
        chosen = rng.choice(equal, min(left, len(equal)), replace=False)
        taken[chosen] += 1
        left -= len(chosen)
    return taken


def choose_classes(
    splits: dict[str, Split], class_names: tuple[str, ...], chosen: tuple[str, ...]
) -> dict[str, Split]:
    """Returns the examples of the chosen classes, labelled by their place there.

    Raises ConfigError for a class that is not there or is chosen twice.
    """
    for name in chosen:
        if name not in class_names:
            raise ConfigError(unknown("config.data.classes", name, class_names))
        if chosen.count(name) > 1:
            raise ConfigError(f"config.data.classes names {name!r} more than once")
    places = np.full(len(class_names), -1, np.int32)
    places[[class_names.index(name) for name in chosen]] = np.arange(len(chosen))
    found = {}
    for name, split in splits.items():
        kept = take(split, np.flatnonzero(places[split.labels] >= 0))
        found[name] = kept._replace(labels=places[kept.labels])
    return found


def keep_per_class(split: Split, count: int, class_names, seed: int) -> Split:
    """Returns `count` examples of every class, chosen by seed."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label, name in enumerate(class_names):
        places = np.flatnonzero(split.labels == label)
        if len(places) < count:
            raise DataError(
                f"config.data.labels_per_class = {count}, but class {name!r} has only "
                f"{len(places)} training images"
            )
        chosen.append(rng.choice(places, count, replace=False))
    return take(split, np.sort(np.concatenate(chosen)))


def keep_fraction(split: Split, fraction: float, seed: int) -> Split:
    """Returns a share of the examples of every class, one at least, chosen by seed."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(split.labels):
        places = np.flatnonzero(split.labels == label)
        count = max(round(fraction * len(places)), 1)
        chosen.append(rng.choice(places, count, replace=False))
    return take(split, np.sort(np.concatenate(chosen)))
