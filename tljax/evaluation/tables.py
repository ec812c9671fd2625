"""Tables of an evaluation: rows for CSV files, lines for people."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from rich import cells

from tljax.errors import quote
from tljax.evaluation.numbers import SCALARS

CLASS_COLUMNS = (
    "class",
    "support",
    "precision",
    "recall",
    "f1",
    "roc_auc",
    "average_precision",
)
# So many classes are printed; of more, those of the lowest F1.
SHOWN = 20


def prediction_rows(
    names: Sequence[str],
    labels: np.ndarray,
    log_probabilities: np.ndarray,
    class_names: tuple[str, ...],
) -> Iterator[list[Any]]:
    """Yields the header and a row an example: name, label, prediction, probabilities.

    The numbers are written in full, so that every metric can be computed from them.
    """
    heads = [f"prob_{name}" for name in class_names]
    yield ["index_or_file", "label", "prediction", *heads]
    predictions = log_probabilities.argmax(axis=1)
    for place, name in enumerate(names):
        label, prediction = labels[place], predictions[place]
        values = np.exp(log_probabilities[place]).tolist()
        yield [name, class_names[label], class_names[prediction], *values]


def class_rows(per_class: list[dict[str, Any]]) -> Iterator[list[Any]]:
    """Yields the header and a row a class, empty where there is no value."""
    yield list(CLASS_COLUMNS)
    for row in per_class:
        yield ["" if row[key] is None else row[key] for key in CLASS_COLUMNS]


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields what people see of an evaluation, as it stands in metrics.json."""
    yield f"{found['split']}, {found['num_examples']:,} images, step {found['step']}"
    yield ""
    yield from number_lines(found)
    yield ""
    yield from class_lines(found["per_class"])
    if found["skipped"]:
        yield f"{len(found['skipped']):,} images were skipped; metrics.json names them"


def number_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields a line a metric, with its interval."""
    yield f"{'':24}{'':>9}   95 % interval"
    for name in SCALARS:
        if name.endswith("_micro"):  # The accuracy, as each image has one label.
            continue
        ends = found[f"{name}_low"], found[f"{name}_high"]
        interval = " to ".join(four_digits(end) for end in ends)
        yield f"{name:24}{four_digits(found[name]):>9}   {interval}"


def class_lines(per_class: list[dict[str, Any]]) -> Iterator[str]:
    """Yields a line a class; of many, those of the lowest F1 only."""
    shown = per_class
    if len(per_class) > SHOWN:
        shown = sorted(per_class, key=lambda row: row["f1"])[:SHOWN]
    names = [quote(row["class"], 32) for row in shown]
    width = max(map(cells.cell_len, ["class", *names]))
    heads = ("images", "precision", "recall", "F1", "ROC-AUC", "av. prec.")
    yield cells.set_cell_size("class", width) + right(heads)
    for name, row in zip(names, shown, strict=True):
        numbers = [four_digits(row[key]) for key in CLASS_COLUMNS[2:]]
        yield cells.set_cell_size(name, width) + right([f"{row['support']}", *numbers])
    if len(shown) < len(per_class):
        yield f"the {SHOWN} of {len(per_class)} classes of the lowest F1"


def right(texts: Iterable[str]) -> str:
    """Returns cells of a line, each at the right of its column."""
    return "".join(f"{text:>11}" for text in texts)


def four_digits(value: float | None) -> str:
    """Returns a number with four decimals, "-" where there is none."""
    return "-" if value is None else f"{value:.4f}"
