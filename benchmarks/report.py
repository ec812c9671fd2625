"""Files of results as a Markdown table and a PNG, for the README.

    python -m benchmarks.report --results=benchmarks/results --plot=throughput.png

Takes the last line of each measurement on each jax, of `throughput`, `compare_torch`
and of each model of `small_models`. The table goes to standard output, to --table=FILE
too; bars are medians, whiskers the 10th and 90th percentile of times, and the ends of
ratios over turns.
"""

import itertools
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import command, results
from benchmarks.results import Line
from tljax.errors import ConfigError

HEADER = (
    "work", "images/s", "step ms (10th to 90th)", "of PyTorch's best", "of matmul",
    "compile s", "memory", "device", "jax",
)  # fmt: skip
SMOKE_LINE = {
    "benchmark": "compare_torch", "model": "resnet50", "phase": "train",
    "image_size": 224, "batch_size": 8, "precision": "float32", "compile": "jit",
    "images_per_second": 8.0, "step_time_ms": {"median": 1000.0, "p10": 900.0,
    "p90": 1200.0, "n": 5}, "compile_seconds": 20.0, "device": "cpu", "num_devices": 1,
    "jax": "0", "steps_per_call": 1, "input": "device", "stem": "standard", "width": 64,
    "ratio": 1.0, "ratio_low": 0.9, "ratio_high": 1.1, "best": "eager",
}  # fmt: skip


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this command."""
    folder = "benchmarks/results"
    flags.DEFINE_string("results", folder, "folder or file", flag_values=values)
    flags.DEFINE_string("table", "", "Markdown file to write", flag_values=values)
    flags.DEFINE_string("plot", "", "PNG file to write", flag_values=values)


def files_of(place: str) -> list[Path]:
    """Returns the files of results in a folder, or the one; raises ConfigError."""
    path = Path(place)
    found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not found:
        raise ConfigError(f"--results={place} holds no *.jsonl")
    return found


def row(line: Line) -> list[Any]:
    """Returns the cells of a line, empty where it does not say."""
    time, memory = line.get("step_time_ms"), line.get("peak_memory_bytes")
    return [
        results.label_of(line),
        results.images_per_second(line),
        f"{time['median']} ({time['p10']} to {time['p90']})" if time else "",
        ratio_of(line),
        share_of(line),
        line.get("compile_seconds", ""),
        f"{memory / 2**30:.2f} GiB" if memory else "",
        device_of(line),
        line.get("jax", ""),
    ]


def device_of(line: Line) -> str:
    """Returns the device, of CPUs with what is known of them."""
    hardware, device = line.get("hardware", {}), line.get("device", "")
    if device != "cpu" or "cores" not in hardware:
        return device
    vectors = f", {hardware['vectors']}" if hardware.get("vectors") else ""
    return f"{hardware['cores']} cores of an {hardware['cpu']}{vectors}"


def ratio_of(line: Line) -> str:
    """Returns ratio and ends in a cell, with the side that was the best of theirs."""
    if "ratio" not in line:
        return ""
    best = f", {line['best']}" if "best" in line else ""
    return f"{line['ratio']} ({line['ratio_low']} to {line['ratio_high']}{best})"


def share_of(line: Line) -> str:
    """Returns the share of the peak of matrix products in a cell."""
    share = line.get("matmul_share")
    return f"{100 * share:.0f} %" if share else ""


def draw(lines: list[Line], path: str) -> None:
    """Writes the bars: images a second, and ratios where there are any."""
    from matplotlib.figure import Figure

    panels = {
        "images a second": ([], [], []),
        "speed over PyTorch's best": ([], [], []),
    }
    for line in lines:
        label = f"{results.label_of(line)}\n{device_of(line)}, jax {line.get('jax')}"
        if "step_time_ms" in line:
            time, speed = line["step_time_ms"], line["images_per_second"]
            ends = (speed * time["median"] / time[end] for end in ("p90", "p10"))
            add(panels["images a second"], label, speed, *ends)
        if "ratio" in line:
            numbers = (line[name] for name in ("ratio", "ratio_low", "ratio_high"))
            add(panels["speed over PyTorch's best"], label, *numbers)
    panels = {name: panel for name, panel in panels.items() if panel[0]}
    heights = [len(labels) for labels, _, _ in panels.values()]
    figure = Figure((9, 1.2 * len(panels) + 0.45 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axis, (name, (labels, values, ends)) in zip(axes, panels.items(), strict=True):
        away = [[abs(v - e[side]) for v, e in zip(values, ends, strict=True)]
                for side in (0, 1)]  # fmt: skip
        places = range(len(labels))
        axis.barh(places, values, xerr=away, capsize=3, color="#4477aa")
        axis.set_yticks(places, labels)
        if name.startswith("speed"):
            axis.axvline(1.0, color="black", linewidth=1)
        axis.invert_yaxis()
        axis.tick_params(labelsize=7)
        axis.set_xlabel(name)
    figure.savefig(path, dpi=150)


def add(panel, label: str, value: float, low: float, high: float) -> None:
    """Adds a bar to a panel."""
    for column, item in zip(panel, (label, value, (low, high)), strict=True):
        column.append(item)


def run(argv: list[str]) -> None:
    """Writes what the command line asks for; raises RunError."""
    values = command.parse(argv, __doc__, define, {})
    if values is None:
        return
    lines = [SMOKE_LINE] if values.smoke else results.read(files_of(values.results))
    parts = itertools.chain.from_iterable(map(results.parts, lines))
    shown = results.latest(filter(results.measures_step, parts))
    if not shown:
        raise ConfigError(f"--results={values.results} holds no measurement of a step")
    table = results.markdown(HEADER, map(row, shown))
    print(table)
    try:
        if values.table:
            Path(values.table).write_text(f"{table}\n")
        if values.plot:
            draw(shown, values.plot)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error}") from None
    command.finish({"benchmark": "report", "rows": len(shown)}, values.output)


if __name__ == "__main__":
    command.main(run)
