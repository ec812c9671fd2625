"""Plots of an evaluation, drawn without a display and without global state."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from sklearn import metrics

from tljax.errors import quote
from tljax.evaluation.calibration import NUM_BINS, Reliability

BLUE, ORANGE, GREY = "#1f6fb4", "#d9601a", "#8a8a8a"
# Class names may be in any script: the fonts that are there are tried in turn.
FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Arabic")
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "savefig.dpi": 130,
    # A dollar sign in a class name begins no formula.
    "text.parse_math": False,
}
# Up to so many classes a confusion matrix tells its counts, and names all classes.
COUNTED, NAMED = 20, 130
# Classes with a ROC curve of their own colour; of more, so many of the lowest area.
COLOURED, LOWEST = 10, 6
# Confusions that are listed, where cells are too small to be read.
LISTED = 40


def save(path: Path, draw: Callable[..., Figure], *args: Any) -> None:
    """Writes the figure that `draw(*args)` returns as PNG."""
    present = {font.name for font in font_manager.fontManager.ttflist}
    families = [name for name in FONTS if name in present] or ["sans-serif"]
    style = matplotlib.rc_context(STYLE | {"font.family": families})
    with style, warnings.catch_warnings():
        # A sign that no font has is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        draw(*args).savefig(path, format="png")


def confusion(counts: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """Returns the confusion matrix, coloured by the share of each label's examples.

    Where there are too many classes for their counts, the most frequent confusions
    stand beside it.
    """
    number = len(class_names)
    names = [shorten(name) for name in class_names]
    side = min(max(0.5 * number, 3.0), 12.0)
    every = math.ceil(number / NAMED)
    font = min(9.0, 0.85 * 72 * side * every / number)
    # Inches that the longest name takes, and the list of confusions.
    room = font / 9 * 0.08 * max(map(len, names))
    beside = 4.2 if number > COUNTED else 0.0
    width = side + room + 1.6
    figure = Figure(figsize=(width + beside, side + room + 0.8), layout="constrained")
    place = figure
    if beside:
        place, right = figure.subfigures(1, 2, width_ratios=(width, beside))
        list_confusions(right, counts, class_names)
    axes = place.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(
        shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest"
    )
    ticks = np.arange(0, number, every)
    sideways = max(map(len, names)) > 3 or number > COUNTED
    shown = [names[tick] for tick in ticks]
    axes.set_xticks(ticks, shown, rotation=90 if sideways else 0)
    axes.set_yticks(ticks, shown)
    axes.tick_params(labelsize=font, length=2)
    axes.set(xlabel="prediction", ylabel="label", title="Confusion matrix")
    axes.grid(False)
    bar = place.colorbar(image, ax=axes, fraction=0.04, aspect=30, shrink=0.8)
    bar.set_label("share of the label's examples")
    if not beside:
        write_counts(axes, counts, shares)
    return figure


def write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    """Writes the count into each cell that is not empty."""
    digits = len(str(counts.max()))
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.35 else "black"
        axes.text(
            column,
            row,
            f"{counts[row, column]}",
            ha="center",
            va="center",
            color=colour,
            fontsize=min(9, 30 / digits),
        )


def list_confusions(
    place: SubFigure, counts: np.ndarray, class_names: tuple[str, ...]
) -> None:
    """Writes the most frequent confusions, one below the other."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    pairs = [np.unravel_index(cell, wrong.shape) for cell in order]
    pairs = [pair for pair in pairs if wrong[pair]]
    columns = {
        0.10: ["", *(f"{wrong[pair]}" for pair in pairs)],
        0.13: ["label", *(shorten(class_names[row], 22) for row, _ in pairs)],
        0.56: [
            "prediction",
            *(shorten(class_names[column], 22) for _, column in pairs),
        ],
    }
    place.suptitle("The most frequent confusions", fontsize=11)
    for left, texts in columns.items():
        side = "right" if left == 0.10 else "left"
        text = "\n".join(texts)
        place.text(left, 0.96, text, ha=side, va="top", fontsize=8, linespacing=1.5)


def reliability(before: Reliability, after: Reliability, temperature: float) -> Figure:
    """Returns reliability diagrams before and after temperature scaling."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots(
        2, 2, sharex=True, sharey="row", gridspec_kw={"height_ratios": (3, 1)}
    )
    titles = "Before", f"After temperature {temperature:.3g}"
    middles = (np.arange(NUM_BINS) + 0.5) / NUM_BINS
    for (above, below), found, title in zip(
        axes.T, (before, after), titles, strict=True
    ):
        above.bar(
            middles,
            np.nan_to_num(found.accuracy),
            width=0.9 / NUM_BINS,
            color=BLUE,
            label="accuracy",
        )
        above.plot(
            found.confidence,
            found.confidence,
            "_",
            color=ORANGE,
            markersize=13,
            markeredgewidth=2.5,
            label="mean confidence",
        )
        above.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
        above.set(title=f"{title}: calibration error {found.error():.4f}", ylim=(0, 1))
        shares = found.count / found.count.sum()
        below.bar(middles, shares, width=0.9 / NUM_BINS, color=GREY)
        below.set(xlabel="confidence of the prediction", xlim=(0, 1))
    axes[0, 0].set(ylabel="share that is right")
    axes[1, 0].set(ylabel="share of\nexamples")
    axes[0, 0].legend(loc="upper left")
    return figure


def roc(
    labels: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    class_names: tuple[str, ...],
) -> Figure:
    """Returns the ROC curve of each class that has one, and their mean.

    `scores` are [n, classes], `areas` [classes] are NaN where there is no curve. On the
    right the same with a logarithmic axis, where good networks differ.
    """
    figure = Figure(figsize=(11.5, 5), layout="constrained")
    linear, logarithmic = figure.subplots(1, 2, sharey=True)
    defined = np.flatnonzero(~np.isnan(areas))
    named = defined
    if len(defined) > COLOURED:
        named = defined[np.argsort(areas[defined], kind="stable")][:LOWEST]
    colours = matplotlib.colormaps["tab10"]
    grid = np.concatenate([[0], np.geomspace(1 / max(len(labels), 10), 1, 300)])
    mean = np.zeros(len(grid))
    for label in [*np.setdiff1d(defined, named), *named]:
        wrong, right, _ = metrics.roc_curve(labels == label, scores[:, label])
        mean += np.interp(grid, wrong, right) / len(defined)
        place = np.flatnonzero(named == label)
        style = {"color": GREY, "linewidth": 0.5, "alpha": 0.4}
        if len(place):
            text = f"{areas[label]:.4f}  {shorten(class_names[label])}"
            style = {"color": colours(place[0]), "linewidth": 1.2, "label": text}
        for axes in (linear, logarithmic):
            axes.step(wrong, right, where="post", **style)
    if len(defined):
        text = f"{areas[defined].mean():.4f}  mean of {len(defined)} classes"
        for axes in (linear, logarithmic):
            axes.plot(grid, mean, color="black", linewidth=2, label=text)
    linear.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    linear.set(
        ylabel="true positives: share of the class", title="ROC, one against all"
    )
    logarithmic.set(xscale="log", xlim=(grid[1], 1), title="the same, logarithmic")
    logarithmic.xaxis.set_major_formatter("{x:g}")
    for axes in (linear, logarithmic):
        axes.set(xlabel="false positives: share of the others", ylim=(0, 1.01))
    if len(defined):
        lowest = "; lowest" if len(named) < len(defined) else ""
        figure.legend(
            *linear.get_legend_handles_labels(),
            loc="outside right upper",
            title=f"area under the curve{lowest}",
        )
    else:
        linear.text(0.5, 0.6, "no class has a curve", ha="center")
    return figure


def learning_curves(lines: list[dict[str, Any]]) -> Figure:
    """Returns loss, accuracy and learning rate over the steps of metrics.jsonl."""
    figure = Figure(figsize=(11.5, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    styles = {
        "train": {"color": GREY, "marker": ".", "label": "training batches"},
        "val": {"color": BLUE, "marker": "o", "label": "validation"},
        "test": {"color": ORANGE, "marker": "*", "markersize": 12, "label": "test"},
    }
    for axes, name in zip(panels, ("loss", "accuracy", "learning_rate"), strict=True):
        for split, style in styles.items():
            found = [
                (line["step"], line[name])
                for line in lines
                if line.get("split") == split and name in line
            ]
            if found:
                marked = {} if len(found) < 40 else {"marker": ""}
                axes.plot(*zip(*found, strict=True), **style | marked, alpha=0.8)
        axes.set(title=name.replace("_", " "), xlabel="step")
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    panels[1].set_ylim(0, 1.01)
    if panels[0].lines:
        panels[0].legend()
    return figure


def range_test(
    rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray, found: dict[str, Any]
) -> Figure:
    """Returns the losses of a range test over the learning rate."""
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, ".", color=GREY, markersize=3, label="a batch")
    axes.plot(rates, smoothed, color=BLUE, linewidth=2, label="smoothed")
    for name, text in (("suggestion", "falls fastest"), ("lowest", "lowest")):
        if found[name] is not None:
            height = np.interp(found[name], rates, smoothed)
            axes.plot(
                found[name], height, "o", color=ORANGE, markersize=7, label=text,
                markerfacecolor=ORANGE if name == "suggestion" else "white",
            )  # fmt: skip
            axes.annotate(
                f"{found[name]:.2g}", (found[name], height), xytext=(6, 8),
                textcoords="offset points",
            )  # fmt: skip
    axes.set(
        xscale="log", xlabel="learning rate", ylabel="loss",
        title="learning-rate range test",
    )  # fmt: skip
    axes.xaxis.set_major_formatter("{x:g}")
    if len(smoothed):
        low, high = smoothed.min(), max(smoothed[0], smoothed.min() * 1.5)
        room = 0.15 * (high - low)
        axes.set_ylim(low - 2 * room, high + 3 * room)
        axes.legend()
    return figure


def shorten(name: str, limit: int = 26) -> str:
    """Returns a class name fit for a plot: one line, both of its ends if it is long."""
    text = quote(name, 200)
    if len(text) <= limit:
        return text
    end = limit // 3
    return f"{text[: limit - end - 2].rstrip()}...{text[-end:].lstrip()}"
