"""What people read of a probe, as it stands in probe.json."""

from collections.abc import Iterator
from typing import Any


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of a report."""
    yield from feature_lines(found)
    yield ""
    yield line("all labels", "setting", "val", found["split"], "95 % interval")
    for name, setting, row in method_rows(found):
        yield row_line(name, setting, row)
    if found["few_shot"]:
        yield ""
        draws = len(found["few_shot"][0]["accuracies"])
        yield line(
            "labels a class",
            "setting",
            "val",
            found["split"],
            f"95 % interval of {draws} draws",
        )
    for row in found["few_shot"]:
        yield row_line(f"{row['shots']}", penalty_text(row), row)
    yield ""
    yield from notes(found)


def feature_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields what the features are, and the seconds that they took."""
    features, seconds = found["features"], found["seconds"]
    images = ", ".join(
        f"{count:,} {name}" for name, count in features["images"].items()
    )
    copies = "" if features["copies"] == 1 else f" in {features['copies']} copies"
    how = "taken from the last probe" if features["stored"] else "computed"
    rest = sum(seconds[name] for name in (*METHODS, "few_shot"))
    yield (
        f"{features['dimension']} features of {images} images{copies}, {how} in "
        f"{seconds['features']:.1f} s; all that follows took {rest:.1f} s"
    )


METHODS = ("nearest_neighbours", "logistic_regression", "head")


def method_rows(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields name, setting and result of each method that has all labels."""
    neighbours, regression, head = (found[name] for name in METHODS)
    yield "k-NN", f"k = {neighbours['k']}", neighbours
    yield "logistic regression", penalty_text(regression), regression
    steps = (
        f"{head['optimizer']} {head['learning_rate']:g}, {head['num_steps']:,} steps"
    )
    yield "head", steps, head


def penalty_text(row: dict[str, Any]) -> str:
    """Returns a penalty for people."""
    return f"penalty {row['penalty']:.2g}"


def row_line(name: str, setting: str, row: dict[str, Any]) -> str:
    """Returns the line of one result."""
    ends = row["accuracy_low"], row["accuracy_high"]
    interval = "-" if None in ends else f"{ends[0]:.4f} to {ends[1]:.4f}"
    numbers = (f"{row[key]:.4f}" for key in ("val_accuracy", "accuracy"))
    return line(name, setting, *numbers, interval)


def line(name: str, setting: str, val: str, tested: str, interval: str) -> str:
    """Returns cells as a line of the table."""
    return f"{name:20}  {setting:26}{val:>9}{tested:>9}   {interval}"


def notes(found: dict[str, Any]) -> Iterator[str]:
    """Yields what must be known beside the numbers."""
    if found["split"] == "val":
        yield "no test split: settings were chosen on the very images that are judged"
    path = found["logistic_regression"]["path"]
    failed = sum(not row["converged"] for row in path)
    if failed:
        chosen = found["logistic_regression"]["converged"]
        yield (
            f"{failed} of {len(path)} logistic regressions have not converged in "
            f"{found['options']['max_iterations']:,} iterations; the chosen one "
            f"{'has' if chosen else 'has not'}"
        )
    for row in found["few_shot"]:
        failed = row["converged"].count(False)
        if failed:
            yield (
                f"{row['shots']} a class: {failed} of {len(row['converged'])} have not "
                "converged"
            )
        if row["accuracy_low"] is None:
            yield f"{row['shots']} a class: all draws are the same images: no interval"
    skipped = found["features"]["skipped"]
    if skipped:
        yield f"{len(skipped):,} images were skipped; probe.json names them"
