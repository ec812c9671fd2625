"""Images side by side as one picture, and the classes that generated ones are of."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tljax.evaluation.plots import BLUE, GREY, ORANGE, shorten

# Pixels that the shorter side of an image has at least, and of the line between two.
SMALLEST, LINE = 48, 2
BACKGROUND = 255
# With more classes, they are shown by the number of their samples and without names.
NAMED = 40


def sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Returns images uint8 [n, h, w, c] in rows of `columns`, as one uint8 [H, W, 3].

    Small ones are enlarged by a whole factor, each pixel to a square, to 48 pixels at
    least. Thin white lines are between them and around. Of other numbers of channels
    than 3 the mean is shown; places that are left in the last row are white. Raises
    ValueError where there is no image.
    """
    count, height, width, channels = images.shape
    if not count or columns < 1:
        raise ValueError(f"{count} images in {columns} columns make no sheet")
    if channels != 3:
        grey = np.round(images.mean(axis=-1, keepdims=True)).astype(np.uint8)
        images = np.repeat(grey, 3, axis=-1)
    factor = max(-(-SMALLEST // min(height, width)), 1)
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    columns = min(columns, count)
    rows = -(-count // columns)
    # Each with a line above and to its left: the last ones follow on the right, below.
    around = ((0, rows * columns - count), (LINE, 0), (LINE, 0), (0, 0))
    cells = np.pad(images, around, constant_values=BACKGROUND)
    _, high, wide, _ = cells.shape
    page = cells.reshape(rows, columns, high, wide, 3).swapaxes(1, 2)
    page = page.reshape(rows * high, columns * wide, 3)
    return np.pad(page, ((0, LINE), (0, LINE), (0, 0)), constant_values=BACKGROUND)


def class_bars(
    counts: np.ndarray, real_counts: np.ndarray, class_names: tuple[str, ...]
) -> Figure:
    """Returns the shares of classes among generated images, beside the real ones.

    `counts` and `real_counts` are [classes], each with at least one sample. Of more
    than 40 classes the shares go down from the left, those of each set by themselves.
    """
    number = len(class_names)
    names = [shorten(name, 22) for name in class_names] if number <= NAMED else [""]
    longest = max(map(len, names))
    size = min(max(0.42 * number + 2.2, 5.0), 13.0), 3.8 + 0.06 * longest
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    if number > NAMED:
        draw_descent(axes, counts, real_counts)
    else:
        draw_bars(axes, counts, real_counts)
        rotation = 90 if longest > 3 else 0
        axes.set_xticks(np.arange(number), names, rotation=rotation)
    axes.axhline(1 / number, color=GREY, linestyle="--", linewidth=1, label="equal")
    missing = int(np.sum(counts == 0))
    lacking = f" ({missing:,} of {number:,} never seen)" if missing else ""
    axes.set(title=f"Classes of generated images{lacking}", ylabel="share of samples")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def draw_bars(axes: Axes, counts: np.ndarray, real_counts: np.ndarray) -> None:
    """Draws a bar for each class with its count, and a line at its real share."""
    generated, real = counts / counts.sum(), real_counts / real_counts.sum()
    places = np.arange(len(counts))
    said = f"generated: {counts.sum():,}", f"real: {real_counts.sum():,}"
    bars = axes.bar(places, generated, 0.7, color=BLUE, label=said[0])
    axes.hlines(
        real, places - 0.35, places + 0.35, color=ORANGE, linewidth=2.5, label=said[1]
    )
    # A count may come to lie on the line.
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}
    texts = [f"{count:,}" for count in counts]
    axes.bar_label(bars, texts, padding=3, fontsize=7, bbox=box, zorder=4)
    axes.grid(False, axis="x")
    axes.set_xlim(-0.6, len(counts) - 0.4)


def draw_descent(axes: Axes, counts: np.ndarray, real_counts: np.ndarray) -> None:
    """Draws how the shares of many classes go down, from the largest on."""
    edges = np.arange(len(counts) + 1)
    generated = np.sort(counts)[::-1] / counts.sum()
    real = np.sort(real_counts)[::-1] / real_counts.sum()
    said = f"generated: {counts.sum():,}", f"real: {real_counts.sum():,}"
    axes.stairs(generated, edges, fill=True, color=BLUE, label=said[0])
    axes.stairs(real, edges, baseline=None, color=ORANGE, linewidth=1.5, label=said[1])
    axes.set(xlabel=f"{len(counts):,} classes by share", xlim=(0, len(counts)))
