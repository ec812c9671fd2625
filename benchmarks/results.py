"""Lines of results: files of them, what makes two comparable, the figures of them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tljax.errors import ConfigError, DataError

Line = dict[str, Any]

# What every line of STEPS says of what it measured.
STEP = ("model", "phase", "image_size", "batch_size", "precision", "compile")
STEPS = ("throughput", "compare_torch")
# What was measured; versions and commits may differ between lines that are compared.
KEY = (
    "benchmark", *STEP, "axis", "steps_per_call", "await_every", "input", "stem",
    "width", "often", "num_devices", "device", "images", "size", "workers", "epochs",
    "seeds", "num_steps", "labels_per_class", "shapes", "looped",
)  # fmt: skip
# And on which machine.
HARDWARE = ("cpu", "vectors", "cores")


def read(paths: Iterable[str | Path]) -> list[Line]:
    """Returns the lines of files, in order.

    Raises ConfigError for a file that cannot be read, DataError, with its number, for a
    line that is no JSON object with the name of a benchmark.
    """
    found = []
    for path in paths:
        try:
            lines = Path(path).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None
        for number, text in enumerate(lines, start=1):
            if text.strip():
                found.append(parse(text, f"{path}:{number}"))
    return found


def parse(text: str, place: str) -> Line:
    """Returns the result in a line; raises DataError, which names the place."""
    try:
        line = json.loads(text)
    except ValueError as error:
        raise DataError(f"{place} is no JSON: {error}") from None
    if not isinstance(line, dict) or not isinstance(line.get("benchmark"), str):
        raise DataError(f"{place} is no result: it names no benchmark")
    for name in ("hardware", "models", "axes"):
        if not isinstance(line.get(name, {}), dict):
            raise DataError(f"{place} is no result: its {name} are no object")
    return line


def parts(line: Line) -> list[Line]:
    """Returns a line for each model, or point of an axis, that a line measured."""
    rows = [row | {"model": name} for name, row in line.get("models", {}).items()]
    for axis, found in line.get("axes", {}).items():
        rows += [row | {"axis": axis} for row in found["rows"]]
    return [line | row for row in rows] or [line]


def key_of(line: Line) -> str:
    """Returns what a line measured and where, equal for lines that can be compared."""
    hardware = line.get("hardware", {})
    where = [hardware.get(name) for name in HARDWARE]
    return json.dumps([line.get(name) for name in KEY] + where)


def label_of(line: Line) -> str:
    """Returns what a line measured in a few words."""
    words = [] if line["benchmark"] in STEPS else [line["benchmark"]]
    if not set(STEP) <= set(line):
        return ", ".join([*words, *filter(None, [line.get("model")])])
    words += [line["model"], line["phase"], f"{line['image_size']} px"]
    words += [f"batch {line['batch_size']}", line["precision"]]
    devices, steps = line.get("num_devices", 1), line.get("steps_per_call", 1)
    if devices != 1 or line["compile"] != "jit":
        words.append(f"{line['compile']} x{devices}")
    if steps != 1:
        words.append(f"{steps} steps a call")
    if line.get("input", "device") != "device":
        words.append(f"from the {line['input']}")
    if line.get("stem", "standard") != "standard":
        words.append(f"{line['stem']} stem")
    if line.get("width", 64) != 64:
        words.append(f"width {line['width']}")
    return ", ".join(words)


def measures_step(line: Line) -> bool:
    """Returns whether a line says how fast steps are, of one model."""
    if line["benchmark"] == "small_models":
        return {"steps_per_second", "batch_size"} <= set(line)
    return line["benchmark"] in STEPS and set(STEP) <= set(line)


def images_per_second(line: Line) -> float | str:
    """Returns our speed, which `small_models` counts in steps; "" without any."""
    if "steps_per_second" in line:
        return round(line["steps_per_second"]["ours"] * line["batch_size"])
    return line.get("images_per_second", "")


def latest(lines: Iterable[Line]) -> list[Line]:
    """Returns the last line of each measurement on each jax, in the order of firsts."""
    return list({(key_of(line), line.get("jax")): line for line in lines}.values())


def markdown(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Returns a Markdown table."""
    rows = [list(header), None, *map(list, rows)]
    rows[1] = ["---"] * len(rows[0])
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
