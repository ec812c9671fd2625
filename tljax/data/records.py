"""Named sets prepared by TFDS, read without TensorFlow."""

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tljax.data import remember
from tljax.data.folder import File, Files, fingerprint
from tljax.data.splits import Source, Split
from tljax.errors import ConfigError, DataError, quote

VALIDATIONS = ("validation", "val", "valid")


class Records(Sequence):
    """The images of a TFDS data source, encoded as they are stored."""

    def __init__(self, source: Any, key: str):
        self.source = source
        self.key = key

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, place: int) -> bytes | np.ndarray:
        return self.source[place][self.key]

    head = __getitem__


def load_tfds(place: str, config) -> Source:
    """Returns a set of TFDS: NAME, NAME/CONFIG or NAME/CONFIG:VERSION.

    It must have been prepared as ArrayRecord: `python -m tljax.data.prepare NAME`. Its
    own info tells the image, the label and the names of the classes. Raises
    ConfigError for a name or a slice that is none, DataError for a set that has not
    been prepared or is no classification of images.
    """
    builder = find_builder(place)
    image_key, label_key = find_keys(place, builder.info)
    image, label = (builder.info.features[key] for key in (image_key, label_key))
    splits, entries, notes = {}, list(find_files(builder)), []
    content = hashlib.sha256("\n".join(entries).encode()).hexdigest()
    for name, slices in choose_slices(place, builder.info, config).items():
        source = open_source(builder, slices, image_key)
        entry = f"{builder.info.full_name} {slices} {len(source)}"
        labels = remember.array(
            f"labels {content} {entry} {label_key}",
            lambda source=source: read_labels(source, label_key),
        )
        if len(labels) and labels.min() < 0:
            if getattr(config, f"{name}_split") or name == "train":
                raise DataError(f"tfds:{place} has images without a label in {slices}")
            notes.append(f"{slices} has images without a label, and is left out")
            continue
        names = np.array(
            [f"{slices}/{number}" for number in range(len(labels))], object
        )
        splits[name] = Split(Records(source, image_key), labels, names)
        entries.append(entry)
    height, width, channels = image.shape
    size = height if height == width and height else 0
    return Source(
        tuple(label.names),
        splits,
        size,
        1 if channels == 1 else 3,
        tuple(entries),
        tuple(notes),
    )


def find_files(builder: Any) -> Iterator[str]:
    """Yields "HASH NAME" of each file of a prepared set, as of a folder's files."""
    root = Path(builder.data_dir)
    files = [
        File(path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in (sorted(root.iterdir()) if root.is_dir() else ())
    ]
    yield from fingerprint(Files(str(root), files))


def find_builder(place: str, **options: Any) -> Any:
    """Returns TFDS's builder of a set; raises ConfigError where there is none."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(place, **options)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(place.split("/")[0], known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"TFDS has no set {quote(place)}{hint}") from None
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"tfds:{quote(place)} cannot be opened: {reason}") from None


def find_keys(place: str, info: Any) -> tuple[str, str]:
    """Returns the keys of image and label; raises DataError where it has none."""
    import tensorflow_datasets as tfds

    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    found = [
        [key for key, feature in info.features.items() if isinstance(feature, kind)]
        for kind in kinds
    ]
    supervised = [key for key in info.supervised_keys or () if isinstance(key, str)]
    chosen = [[key for key in keys if key in supervised] or keys for keys in found]
    if any(len(keys) != 1 for keys in chosen):
        raise DataError(
            f"tfds:{place} must have one image and one class label; it has the "
            f"features {', '.join(info.features)}"
        )
    return chosen[0][0], chosen[1][0]


def choose_slices(place: str, info: Any, config) -> dict[str, str]:
    """Returns split -> slice as TFDS writes them: those of the config, or the set's."""
    there = list(info.splits)
    validation = [name for name in VALIDATIONS if name in there]
    slices = {
        "train": config.train_split or "train",
        "val": config.val_split or "".join(validation[:1]),
        "test": config.test_split or ("test" if "test" in there else ""),
    }
    return {name: written for name, written in slices.items() if written}


def open_source(builder: Any, slices: str, image_key: str) -> Any:
    """Returns TFDS's random-access source of a slice, its images left encoded."""
    import tensorflow_datasets as tfds

    decoders = {image_key: tfds.decode.SkipDecoding()}
    try:
        return builder.as_data_source(split=slices, decoders=decoders)
    # TFDS's way to say that nothing is there, or that it is in another format.
    except NotImplementedError:
        chosen = builder.builder_config
        name = f"{builder.name}/{chosen.name}" if chosen else builder.name
        raise DataError(
            f"tfds:{name} has not been prepared as ArrayRecord in {builder.data_dir}; "
            f"run: python -m tljax.data.prepare {name}"
        ) from None
    except (ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"{builder.info.name} has no split {quote(slices)}: {reason}; it has "
            f"{', '.join(builder.info.splits)}"
        ) from None


def read_labels(source: Any, key: str) -> np.ndarray:
    """Returns all labels, int32; reads every record once."""
    return np.array([int(record[key]) for record in source], np.int32)
