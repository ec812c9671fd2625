"""The most confident mistakes, as pictures."""

import math
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from tljax.evaluation.plots import BLUE, ORANGE, shorten

COLUMNS, ROWS = 6, 4


class Mistake(NamedTuple):
    """An example whose prediction is wrong.

    Attributes:
      image: uint8 [height, width, channels].
      label, prediction: class names.
      probability: that of the prediction.
      name: what people know the example by.
    """

    image: np.ndarray
    label: str
    prediction: str
    probability: float
    name: str


def most_confident(labels: np.ndarray, log_probabilities: np.ndarray) -> np.ndarray:
    """Returns the places of the mistakes to show, the most confident first."""
    wrong = np.flatnonzero(log_probabilities.argmax(axis=1) != labels)
    confidence = log_probabilities[wrong].max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    return wrong[order][: COLUMNS * ROWS]


def draw(mistakes: list[Mistake], total: int) -> Figure:
    """Returns the gallery of some of the `total` examples evaluated."""
    if not mistakes:
        figure = Figure(figsize=(6, 1.5), layout="constrained")
        text = f"no mistake among {total:,} examples"
        figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12)
        return figure
    rows = math.ceil(len(mistakes) / COLUMNS)
    figure = Figure(figsize=(2.1 * COLUMNS, 2.75 * rows + 0.5), layout="constrained")
    figure.suptitle("The most confident mistakes")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, mistake in zip(grid.flat, mistakes, strict=False):
        image, smooth = as_picture(mistake.image), min(mistake.image.shape[:2]) > 96
        axes.imshow(
            image,
            cmap="gray",
            vmin=0,
            vmax=255,
            interpolation="antialiased" if smooth else "nearest",
        )
        said = f"{shorten(mistake.prediction, 20)}?  {mistake.probability:.1%}"
        true = f"true: {shorten(mistake.label, 20)}"
        axes.set_title(said, fontsize=9, color=ORANGE, pad=16)
        axes.text(0.5, 1.02, true, transform=axes.transAxes, fontsize=9, color=BLUE,
                  ha="center", va="bottom")  # fmt: skip
        name = shorten(mistake.name[-28:], 28)
        axes.text(0.5, -0.02, name, transform=axes.transAxes, fontsize=6,
                  ha="center", va="top")  # fmt: skip
    return figure


def as_picture(image: np.ndarray) -> np.ndarray:
    """Returns [h, w, 3] as it is, and grey levels [h, w] for other channels."""
    if image.shape[-1] == 3:
        return image
    return image.mean(axis=-1)
