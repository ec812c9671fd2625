"""Where images come from: `config.data.source` -> a Source."""

import hashlib
from collections.abc import Iterable

import numpy as np

from tljax.data import folder, records, splits
from tljax.data.splits import Source, Split
from tljax.errors import ConfigError, DataError, quote, unknown

# At most so many changed examples are named in an error.
NAMED = 3


def load(config) -> Source:
    """Returns the source that `config`, the `data` part of a Config, describes.

    The split of the whole source is a function of `config.seed` alone, so that no
    choice of classes or labels moves an image from one split to another. Raises
    ConfigError for classes it does not have, DataError where it has too few images.
    """
    kind, _, place = config.source.partition(":")
    source = SOURCES[kind](place, config)
    class_names = source.class_names
    divided = splits.complete(source.splits, class_names, config)
    if config.classes:
        divided = splits.choose_classes(divided, class_names, config.classes)
        class_names = tuple(config.classes)
    train = divided["train"]
    if config.labels_per_class:
        train = splits.keep_per_class(
            train, config.labels_per_class, class_names, config.seed
        )
    if config.train_fraction < 1:
        train = splits.keep_fraction(train, config.train_fraction, config.seed)
    divided["train"] = train
    empty = [name for name, split in divided.items() if not len(split.labels)]
    if empty:
        raise DataError(f"{config.source!r} has no images for {' and '.join(empty)}")
    return source._replace(class_names=class_names, splits=divided)


def load_digits(place: str, config) -> Source:
    """Returns scikit-learn's 1,797 handwritten digits, 8x8, grey."""
    from sklearn import datasets  # It takes a second.

    digits = datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    return in_memory(tuple(str(digit) for digit in range(10)), images, labels)


def load_synthetic(place: str, config) -> Source:
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
    class_names = tuple(f"class{label}" for label in range(config.num_classes))
    return in_memory(class_names, images, labels)


def in_memory(class_names: tuple[str, ...], images, labels) -> Source:
    """Returns what is found where all images [n, size, size, c] are there at once."""
    names = np.arange(len(labels)).astype(str)
    entry = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    train = Split(images, labels, names)
    _, size, _, channels = images.shape
    return Source(class_names, {"train": train}, size, channels, (entry,))


# Both change together: who loads a kind of source, and how it is written.
SOURCES = {
    "digits": load_digits,
    "synthetic": load_synthetic,
    "folder": folder.load,
    "tfds": records.load_tfds,
}
FORMS = ("digits", "synthetic", "folder:PATH", "tfds:NAME")


def check(source: str, name: str) -> None:
    """Raises ConfigError where `source`, the value of the field `name`, is none."""
    kind, _, place = source.partition(":")
    forms = {form.partition(":")[0]: form for form in FORMS}
    if kind not in forms:
        raise ConfigError(unknown(name, source, FORMS))
    if bool(place) != (":" in forms[kind]):
        raise ConfigError(f"{name} = {source!r} must be written {forms[kind]}")


def compare(saved: Iterable[str], found: Iterable[str]) -> str:
    """Returns what has changed between the entries of a data set, in one line.

    An entry is "FINGERPRINT NAME", or a fingerprint of all there is.
    """
    before, now = (
        dict(reversed(entry.partition(" ")[::2]) for entry in entries)
        for entries in (saved, found)
    )
    changes = {
        "gone": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
        "changed": [n for n in now if n in before and now[n] != before[n]],
    }
    parts = []
    for word, names in changes.items():
        if names:
            shown = ", ".join(quote(name) for name in names[:NAMED] if name)
            more = ", ..." if len(names) > NAMED else ""
            parts.append(
                f"{len(names)} {word}" + (f" ({shown}{more})" if shown else "")
            )
    return "; ".join(parts) or "the names of the classes"
