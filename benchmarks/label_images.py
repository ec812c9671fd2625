"""The digits of `label_efficiency`, as each seed divides and labels them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import side_by_side
from benchmarks.label_backbones import SOURCE, TARGET, digits
from tljax.data import sources
from tljax.data.splits import Split


class Images(NamedTuple):
    """All digits, and the places of some of them for each seed.

    Attributes:
      stored: "image" uint8 [n, 8, 8, 1], "label" int32 [n]: 0 to 4 in either half.
      train, source: training images of all digits, and of the digits 0 to 4.
      labelled: for each number of labels a class, those images of the digits 5 to 9.
      val, test: images of the digits 5 to 9, [seeds, m].
    """

    stored: dict[str, jax.Array]
    train: list[np.ndarray]
    source: list[np.ndarray]
    labelled: dict[str, list[np.ndarray]]
    val: np.ndarray
    test: np.ndarray


def load(seeds: range, labels: list[str]) -> Images:
    """Returns the digits as each seed divides them."""
    every = sources.load_digits("", None).splits["train"]
    stored = {
        "image": jnp.asarray(every.images),
        "label": jnp.asarray(every.labels % len(TARGET)),
    }

    def places(name: str, classes: tuple[str, ...] = (), count: str = "all"):
        number = 0 if count == "all" else int(count)
        options = {"classes": classes, "labels_per_class": number}
        configs = [digits(seed=seed, **options) for seed in seeds]
        return [places_of(sources.load(config).splits[name]) for config in configs]

    return Images(
        stored,
        places("train"),
        places("train", SOURCE),
        {count: places("train", TARGET, count) for count in labels},
        *(side_by_side.cut(places(split, TARGET)) for split in ("val", "test")),
    )


def places_of(split: Split) -> np.ndarray:
    """Returns the places of a split's images among all digits."""
    return split.names.astype(np.int32)
