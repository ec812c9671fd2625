"""Where images come from: name -> training, validation and test examples in memory."""

from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn import datasets
from sklearn.model_selection import train_test_split

from tljax.errors import ConfigError, DataError, unknown


class Split(NamedTuple):
    """Examples: images uint8 [n, height, width, channels] and labels int32 [n]."""

    images: np.ndarray
    labels: np.ndarray


class Source(NamedTuple):
    """A data set: the name of each label, and its splits "train", "val", "test"."""

    class_names: tuple[str, ...]
    splits: dict[str, Split]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels), the same in every split."""
        return self.splits["train"].images.shape[1:]


def load(config) -> Source:
    """Returns the source that `config`, the `data` part of a Config, describes.

    The split of the whole source is a function of `config.seed` alone, so that no
    choice of classes or labels moves an image from one split to another. Raises
    ConfigError for classes it does not have, DataError where it has too few images.
    """
    class_names, examples = SOURCES[config.source](config)
    splits = split_by_class(examples, config)
    if config.classes:
        check_classes(config.classes, class_names)
        labels = [class_names.index(name) for name in config.classes]
        splits = {name: keep_labels(split, labels) for name, split in splits.items()}
        class_names = tuple(config.classes)
    if config.labels_per_class:
        splits["train"] = keep_per_class(
            splits["train"], config.labels_per_class, class_names, config.seed
        )
    return Source(class_names, splits)


def load_digits(config) -> tuple[tuple[str, ...], Split]:
    """Returns scikit-learn's 1,797 handwritten digits, 8x8 grey, resized if asked."""
    digits = datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    if config.image_size not in (0, 8):
        images = np.stack([resize(image, config.image_size) for image in images])
    labels = digits.target.astype(np.int32)
    return tuple(str(digit) for digit in range(10)), Split(images[..., None], labels)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Returns a grey uint8 image [h, w] as [size, size], bilinear and antialiased."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.BILINEAR))


def load_synthetic(config) -> tuple[tuple[str, ...], Split]:
    """Returns seeded images: a coarse pattern for each class under noise.

    They can be learned, and have any size, channels, classes and number.
    """
    rng = np.random.default_rng(config.seed)
    size = config.image_size or 32
    labels = np.arange(config.num_examples, dtype=np.int32) % config.num_classes
    coarse = rng.integers(64, 192, (config.num_classes, 4, 4, config.channels))
    cells = np.arange(size) * 4 // size
    patterns = coarse[:, cells][:, :, cells].astype(np.uint8)
    images = rng.integers(0, 64, (len(labels), size, size, config.channels), np.uint8)
    images += patterns[labels]
    return tuple(f"class{label}" for label in range(config.num_classes)), Split(
        images, labels
    )


SOURCES = {"digits": load_digits, "synthetic": load_synthetic}


def check_classes(chosen: tuple[str, ...], class_names: tuple[str, ...]) -> None:
    """Raises ConfigError for a class that is not there or is chosen twice."""
    for name in chosen:
        if name not in class_names:
            raise ConfigError(unknown("config.data.classes", name, class_names))
        if chosen.count(name) > 1:
            raise ConfigError(f"config.data.classes names {name!r} more than once")


def keep_labels(split: Split, labels: list[int]) -> Split:
    """Returns the examples with one of `labels`, relabelled by its place there."""
    places = np.full(max(split.labels.max(), *labels) + 1, -1, np.int32)
    places[labels] = np.arange(len(labels))
    kept = take(split, np.flatnonzero(places[split.labels] >= 0))
    return Split(kept.images, places[kept.labels])


def split_by_class(examples: Split, config) -> dict[str, Split]:
    """Returns train, val and test with the same share of every class in each."""
    indices = np.arange(len(examples.labels))
    splits = {}
    fractions = {"test": config.test_fraction, "val": config.val_fraction}
    for name, fraction in fractions.items():
        try:
            indices, taken = train_test_split(
                indices,
                test_size=round(fraction * len(examples.labels)),
                stratify=examples.labels[indices],
                random_state=config.seed,
            )
        except ValueError as error:
            raise DataError(f"cannot split {config.source!r}: {error}") from None
        splits[name] = taken
    splits["train"] = indices
    return {
        name: take(examples, np.sort(splits[name])) for name in ("train", "val", "test")
    }


def keep_per_class(split: Split, count: int, class_names, seed: int) -> Split:
    """Returns `count` examples of every class, chosen by seed."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label, name in enumerate(class_names):
        indices = np.flatnonzero(split.labels == label)
        if len(indices) < count:
            raise DataError(
                f"config.data.labels_per_class = {count}, but class {name!r} has only "
                f"{len(indices)} training images"
            )
        chosen.append(rng.choice(indices, count, replace=False))
    return take(split, np.sort(np.concatenate(chosen)))


def take(split: Split, indices: np.ndarray) -> Split:
    """Returns the examples at `indices`."""
    return Split(split.images[indices], split.labels[indices])
