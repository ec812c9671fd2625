"""What a survey of a data set says, as rows and lines for people."""

from typing import Any

import numpy as np

from tljax.data import pictures
from tljax.errors import quote

# Names of each kind, at most.
NAMED = 5


def lines(report: dict[str, Any]) -> list[str]:
    """Returns lines on what was skipped, and on copies."""
    skipped = report["skipped"]
    named = [f"{quote(name)}: {quote(why)}" for name, why in skipped.items()]
    first = f"skipped: {len(skipped):,} images"
    return [first, *some(named), *copies_lines(report["copies"])]


def splits_table(splits: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns columns and rows: images, inequality and sizes of each split."""
    kinds = ("smallest", "median", "largest")
    columns = ["split", "images", "largest/smallest class", *kinds, "canvas"]
    rows = []
    for name, split in splits.items():
        ratio = "-" if split["ratio"] is None else f"{split['ratio']:.3g}"
        sizes = ["x".join(map(str, split["original_size"][kind])) for kind in kinds]
        canvas = "x".join(map(str, split["canvas"]))
        rows.append([name, f"{split['images']:,}", ratio, *sizes, canvas])
    return columns, rows


def classes_table(classes: list[dict], splits: list[str]) -> tuple[list, list]:
    """Returns columns and rows: images of each class, or of some where there are many.

    Those are the largest and the smallest of the training images.
    """
    rows = []
    for label in pictures.choose_bars(np.array([row["train"] for row in classes])):
        if label is None:
            rows.append(["..."] * (1 + len(splits)))
        else:
            row = classes[label]
            rows.append([quote(row["name"], 40), *(f"{row[s]:,}" for s in splits)])
    return ["class", *splits], rows


def copies_lines(copies: dict[str, Any]) -> list[str]:
    """Returns lines on copies: those across splits first, with some of their names."""
    lines = []
    for place, counts in copies["across"].items():
        if not sum(counts.values()):
            continue
        name, _, other = place.partition(" in ")
        total = sum(counts.values())
        where = "there more than once" if name == other else f"in {other} too"
        lines.append(
            f"copies: {total:,} of the images of {name} are {where} "
            f"({counts['exact']:,} with the same pixels, {counts['near']:,} that look "
            "the same)" + ("" if name == other else ": results are inflated")
        )
    if not lines:
        lines.append("copies: none")
    for kind, word in (("exact", "same pixels"), ("near", "looks the same")):
        groups = sorted(copies[kind], key=within)
        lines += some([f"{word}: {name_group(group)}" for group in groups])
    differ = copies["groups_of_several_classes"]
    if differ:
        lines.append(f"copies: labels differ within a group, in {differ:,} of them")
    if copies["blank"]:
        lines.append(f"blank or nearly so: {len(copies['blank']):,} images")
        lines += some([name_image(image) for image in copies["blank"]])
    return lines


def within(group: list[dict[str, str]]) -> bool:
    """Returns whether a group of copies is of one split."""
    return len({image["split"] for image in group}) == 1


def name_group(group: list[dict[str, str]]) -> str:
    """Returns the first images of a group, with their classes where they differ."""
    differ = len({image["class"] for image in group}) > 1
    shown = [
        name_image(image) + (f" ({quote(image['class'], 30)})" if differ else "")
        for image in group[:NAMED]
    ]
    more = len(group) - len(shown)
    return " = ".join(shown) + (f" and {more:,} more" if more else "")


def name_image(image: dict[str, str]) -> str:
    """Returns the name of an image with its split, without the middle of a long one."""
    name = quote(image["name"], 1000)
    if not name.startswith(image["split"] + "/"):
        name = f"{image['split']}: {name}"
    return pictures.cut_middle(name, 60)


def some(lines: list[str]) -> list[str]:
    """Returns the first lines, indented, and how many more there are."""
    shown = [f"  {line}" for line in lines[:NAMED]]
    more = len(lines) - len(shown)
    return shown + ([f"  and {more:,} more, in data.json"] if more else [])
