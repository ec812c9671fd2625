"""What people see of weights that were averaged: a table and a plot."""

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure
from rich import cells

from tljax.errors import quote
from tljax.evaluation.plots import BLUE, GREY, ORANGE, shorten
from tljax.evaluation.tables import four_digits

# Cells that a name may take in a table.
WIDTH = 44


def head(names: list[str]) -> str:
    """Returns the line above the rows of weights with these names."""
    return cells.set_cell_size("", width_of(names)) + (
        f"{'val accuracy':>14}{'log loss':>10}{'recalibrated':>14}{'log loss':>10}"
    )


def row(names: list[str], found: dict[str, Any]) -> str:
    """Returns the line of one row of interpolation.json."""
    name = cells.set_cell_size(shown(found["name"]), width_of(names))
    plain, other = found["val"], found["val_recalibrated"] or {}
    return name + (
        f"{four_digits(plain['accuracy']):>14}{four_digits(plain['log_loss']):>10}"
        f"{four_digits(other.get('accuracy')):>14}"
        f"{four_digits(other.get('log_loss')):>10}"
    )


def result_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields a line for each of the weights that were evaluated at the end."""
    results = found["results"]
    gain = found["gain"]
    last = f"chosen, less {gain['over']}"
    width = width_of([last, *(result["name"] for result in results)])
    yield f"{found['split']}, {results[0]['num_examples']:,} images"
    yield cells.set_cell_size("", width) + (
        f"{'accuracy':>10}   {'95 % interval':16}  {'log loss':>10}"
    )
    for result in results:
        interval = f"{result['accuracy_low']:.4f} to {result['accuracy_high']:.4f}"
        yield cells.set_cell_size(shown(result["name"]), width) + (
            f"{result['accuracy']:>10.4f}   {interval}  {result['log_loss']:>10.4f}"
        )
    yield cells.set_cell_size(last, width) + (
        f"{gain['accuracy']:>+10.4f}   "
        f"{gain['accuracy_low']:+.4f} to {gain['accuracy_high']:+.4f}"
    )


def width_of(names: list[str]) -> int:
    """Returns the cells that a column of names takes."""
    return max(cells.cell_len(shown(name)) for name in names)


def shown(name: str) -> str:
    """Returns a name as it stands in a table: of a long path, the end."""
    text = quote(name, 400)
    return text if len(text) <= WIDTH else "..." + text[3 - WIDTH :]


def draw(found: dict[str, Any]) -> Figure:
    """Returns the plot of interpolation.json: a curve over alpha, or rows of runs."""
    if found["rows"][0]["alpha"] is None:
        return draw_soup(found)
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for key, style in STYLES.items():
        points = [
            (one["alpha"], one[key]["accuracy"]) for one in found["rows"] if one[key]
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", markersize=4, **style)
    marked = set()
    for result in found["results"]:
        # Where the chosen one is an end, it is there twice.
        if result["alpha"] not in marked:
            interval = between(result)
            label = None if marked else f"{found['split']}, with 95 % interval"
            axes.errorbar(
                result["alpha"],
                result["accuracy"],
                interval,
                fmt="s",
                color=ORANGE,
                capsize=4,
                label=label,
            )
        marked.add(result["alpha"])
    axes.axvline(found["chosen"]["alpha"], color=ORANGE, linestyle=":", linewidth=1)
    axes.set(
        xlabel="alpha: 0 the weights it started from, 1 the fine-tuned ones",
        ylabel="accuracy",
        title=f"Chosen on validation: {found['chosen']['name']}",
        xlim=(-0.03, 1.03),
    )
    axes.legend()
    return figure


def draw_soup(found: dict[str, Any]) -> Figure:
    """Returns the accuracies of runs and of their means, one below the other."""
    rows = found["rows"]
    height = 0.32 * len(rows) + 1.6
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    for key, style in STYLES.items():
        points = [(one[key]["accuracy"], n) for n, one in enumerate(rows) if one[key]]
        if points:
            axes.plot(*zip(*points, strict=True), "o", **style)
    names = [one["name"] for one in rows]
    label = f"{found['split']}, with 95 % interval"
    for place, result in {
        names.index(result["row"]): result for result in found["results"]
    }.items():
        axes.errorbar(
            result["accuracy"],
            place,
            xerr=between(result),
            fmt="s",
            color=ORANGE,
            capsize=4,
            label=label,
        )
        label = None
    axes.set_yticks(places, [shorten(name, 40) for name in names])
    axes.invert_yaxis()
    axes.set(
        xlabel="accuracy", title=f"Chosen on validation: {found['chosen']['name'][:60]}"
    )
    axes.legend()
    return figure


def between(result: dict[str, Any]) -> list[list[float]]:
    """Returns how far an interval reaches below and above its accuracy."""
    middle = result["accuracy"]
    below = max(middle - result["accuracy_low"], 0)
    return [[below], [max(result["accuracy_high"] - middle, 0)]]


# Validation, in rows of interpolation.json.
STYLES = {
    "val": {"color": GREY, "label": "validation"},
    "val_recalibrated": {"color": BLUE, "label": "validation, recalibrated"},
}
