"""The numbers of `label_efficiency` as rows, as tables for people, and as a plot."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.intervals import interval, with_ends
from tljax.evaluation import plots

# What a backbone is called, how it is drawn, and what it would be without training.
NAMES = {
    "scratch": ("ResNet, scratch", "black", "scratch"),
    "supervised": ("supervised on 0 to 4", "#8a8a8a", "scratch"),
    "denoising": ("denoising autoencoder", "#1f6fb4", "scratch"),
    "masked": ("masked autoencoder", "#d9601a", "scratch"),
    "gan": ("GAN discriminator", "#3a923a", "scratch"),
    "dense": ("dense layer, scratch", "black", "dense"),
    "tied": ("tied autoencoder", "#9457b5", "dense"),
}
WAYS = {"probe": "linear probe", "fine_tune": "fine-tuned"}


def rows_of(found: dict[str, Any], labels: list[str]) -> list[dict[str, Any]]:
    """Returns a row for each way, backbone and number of labels.

    `gain` is the mean over seeds of the accuracy less that of the same network from
    scratch, with its own interval: the split, and so its luck, is the same for both.
    """
    rows = []
    for way in WAYS:
        for name, accuracies in found.items():
            for place, count in enumerate(labels):
                values = accuracies[way][place]
                row = {"way": way, "backbone": name, "labels": count}
                row |= with_ends("accuracy", interval(values))
                if way == "fine_tune":
                    row["learning_rate"] = float(accuracies["rates"][place])
                base = NAMES[name][2]
                if base in found and base != name:
                    less = found[base][way][place]
                    row |= with_ends("gain", interval(values - less))
                rows.append(row | {"accuracies": [round(float(v), 4) for v in values]})
    return rows


def is_apart(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Returns whether an interval lies above that of the same network from scratch."""
    for other in rows:
        same = all(other[key] == row[key] for key in ("way", "labels"))
        if same and other["backbone"] == NAMES[row["backbone"]][2]:
            return row["accuracy_low"] > other["accuracy_high"]
    return False


def lines(rows: list[dict[str, Any]], labels: list[str]) -> Iterator[str]:
    """Yields two tables, per cent and the half of the interval; * is what is apart."""
    for way, title in WAYS.items():
        heads = "".join(f"{count:>14}" for count in labels)
        yield f"{title + ', labels a class:':<28}{heads}"
        for name in NAMES:
            own = [r for r in rows if r["way"] == way and r["backbone"] == name]
            cells = (
                f"{100 * row['accuracy']:.1f} +- "
                f"{100 * (row['accuracy_high'] - row['accuracy']):4.1f}"
                f"{'*' if is_apart(row, rows) else ' '}"
                for row in own
            )
            if own:
                yield f"{NAMES[name][0]:<28}{''.join(f'{cell:>14}' for cell in cells)}"
        yield ""
    yield "* the 95 % interval lies above that of the same network from scratch"


def write(folder: Path, rows: list[dict[str, Any]], labels: list[str]) -> None:
    """Writes label_efficiency.csv and label_efficiency.png into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = dict.fromkeys(key for row in rows for key in row if key != "accuracies")
    with (folder / "label_efficiency.csv").open("w", newline="") as file:
        writer = csv.DictWriter(
            file, fields, extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    plots.save(folder / "label_efficiency.png", draw, rows, labels)


def draw(rows: list[dict[str, Any]], labels: list[str]) -> Figure:
    """Returns accuracy over labels, a panel for the probe and one for fine-tuning."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (way, title) in zip(panels, WAYS.items(), strict=True):
        draw_way(axes, [row for row in rows if row["way"] == way], labels)
        axes.set_title(f"Digits 5 to 9: {title}")
    panels[0].set_ylabel("test accuracy, %")
    panels[1].legend(loc="lower right", fontsize=8)
    return figure


def draw_way(axes: Axes, rows: list[dict[str, Any]], labels: list[str]) -> None:
    """Draws a line for each backbone, with the intervals of its points."""
    names = [name for name in NAMES if any(row["backbone"] == name for row in rows)]
    for number, name in enumerate(names):
        own = [row for row in rows if row["backbone"] == name]
        text, colour, base = NAMES[name]
        # Side by side, so that no interval hides another.
        shift = (number - (len(names) - 1) / 2) * 0.06
        places = np.arange(len(labels)) + shift
        means, low, high = (
            100 * np.array([row[f"accuracy{end}"] for row in own])
            for end in ("", "_low", "_high")
        )
        axes.errorbar(
            places,
            means,
            (means - low, high - means),
            fmt="o-" if base == "scratch" else "s--",
            markersize=4,
            linewidth=1.3,
            elinewidth=1,
            capsize=2,
            color=colour,
            label=text,
        )
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("labelled images a class")
    axes.set_ylim(20, 102)
