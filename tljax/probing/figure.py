"""The plot of a probe: what the penalty does, and what few labels give."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tljax.evaluation.plots import BLUE, GREY, ORANGE


def draw(found: dict[str, Any]) -> Figure:
    """Returns the figure of what probe.json holds."""
    few = found["few_shot"]
    width = 11.5 if few else 6.5
    figure = Figure(figsize=(width, 4.6), layout="constrained")
    panels = figure.subplots(1, 2 if few else 1, squeeze=False)[0]
    draw_path(panels[0], found)
    if few:
        draw_few_shot(panels[1], found)
    return figure


def draw_path(axes: Axes, found: dict[str, Any]) -> None:
    """Draws accuracy over the penalty, and the other methods as levels."""
    regression = found["logistic_regression"]
    path = regression["path"]
    penalties = [row["penalty"] for row in path]
    for name, text, colour in (
        ("train_accuracy", "training", GREY),
        ("val_accuracy", "validation", BLUE),
    ):
        values = [row[name] for row in path]
        axes.plot(penalties, values, ".-", color=colour, label=text)
    axes.plot(
        regression["penalty"],
        regression["val_accuracy"],
        "o",
        markersize=10,
        markerfacecolor="none",
        markeredgewidth=2,
        color=ORANGE,
        label=f"chosen: {regression['penalty']:.2g}",
    )
    failed = [row for row in path if not row["converged"]]
    if failed:
        axes.plot(
            [row["penalty"] for row in failed],
            [row["val_accuracy"] for row in failed],
            "x",
            color="black",
            label="not converged",
        )
    axes.set(
        xscale="log",
        xlabel="penalty on the squared weights",
        ylabel="accuracy",
        title="Logistic regression on all labels",
    )
    # Powers of ten would be formulas, which plots do not have.
    axes.xaxis.set_major_formatter("{x:g}")
    finish(axes, "lower left")


def draw_few_shot(axes: Axes, found: dict[str, Any]) -> None:
    """Draws accuracy over the images a class, and that of all labels."""
    rows = found["few_shot"]
    shots = [row["shots"] for row in rows]
    means = [row["accuracy"] for row in rows]
    reach = [
        [row["accuracy"] - (row["accuracy_low"] or row["accuracy"]) for row in rows],
        [(row["accuracy_high"] or row["accuracy"]) - row["accuracy"] for row in rows],
    ]
    draws = len(rows[0]["accuracies"])
    for row in rows:
        axes.plot(
            [row["shots"]] * draws, row["accuracies"], ".", color=BLUE, alpha=0.35
        )
    axes.errorbar(
        shots,
        means,
        reach,
        fmt="o-",
        color=BLUE,
        capsize=5,
        label=f"mean of {draws} draws, 95 % interval",
    )
    levels = (
        ("logistic_regression", "logistic regression", ORANGE, "--"),
        ("head", "head", "black", ":"),
        ("nearest_neighbours", "k-NN", GREY, "-."),
    )
    for name, text, colour, style in levels:
        value = found[name]["accuracy"]
        axes.axhline(
            value,
            color=colour,
            linestyle=style,
            label=f"all labels, {text}: {value:.4f}",
        )
    axes.set(
        xscale="log",
        xlabel="labelled images a class",
        title=f"Few labels: accuracy on {found['split']}",
    )
    axes.set_xticks(shots, [f"{shot}" for shot in shots])
    axes.minorticks_off()
    axes.set_xlim(min(shots) / 1.5, max(shots) * 1.5)
    finish(axes, "lower right")


def finish(axes: Axes, place: str) -> None:
    """Sets the range of accuracies, and writes the legend."""
    axes.set_ylim(0, 1.03)
    axes.legend(loc=place, fontsize=8)
