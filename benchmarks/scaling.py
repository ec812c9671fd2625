"""How the cost of a step grows with the work in it, and with the number of devices.

    python -m benchmarks.scaling --plot=scaling.png

Along each axis one thing grows and the rest stays as the flags of
`benchmarks.throughput` say; devices share one batch. The points of an axis take turns
in one process. `exponent` is the slope of a straight line through logarithms, of the
milliseconds over the FLOPs of a step: 1 where cost grows as work does, less where there
is a cost that does not. Over the number of devices, -1 is the ideal. On CPUs devices
are virtual, and share the cores: there it is what dividing costs.
"""

import os
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks import command, machine, results, throughput, timing
from benchmarks.work import Work
from tljax import parallel
from tljax.errors import ConfigError
from tljax.models import MODELS

# Axis -> the flag with its values, and their default.
AXES = {
    "batch_size": ("batch_sizes", "2,4,8,16,32"),
    "image_size": ("image_sizes", "32,64,96,128"),
    "model": ("models", "resnet18,resnet34,resnet50,resnet101,resnet152"),
    "num_devices": ("device_counts", "1,2,4"),
}
TITLES = {
    "batch_size": "batch size",
    "image_size": "image size, px",
    "model": "depth",
    "num_devices": "devices",
}
SMOKE = throughput.SMOKE | {
    "phase": "infer",
    "axes": "batch_size,num_devices", "batch_sizes": "2,4", "device_counts": "1,2",
    "calls": 1, "repeats": 2,
}  # fmt: skip


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this benchmark."""
    throughput.define_work(values)
    for name, value in {"model": "resnet18", "image_size": 64}.items():
        values.set_default(name, value)
    flags.DEFINE_list("axes", list(AXES), "what grows", flag_values=values)
    for axis, (flag, default) in AXES.items():
        flags.DEFINE_list(flag, default, f"values of {axis}", flag_values=values)
    command.define_numbers(
        values, repeats=(5, "turns of each point"), calls=(3, "that count, in a turn")
    )
    flags.DEFINE_string("plot", "", "PNG file to write", flag_values=values)


def read_points(values: flags.FlagValues) -> dict[str, list[Work]]:
    """Returns the work at each point of each axis; raises ConfigError."""
    base = throughput.read_work(values)
    base = base._replace(num_devices=base.num_devices or 1)
    command.check(values, axes=AXES, models=MODELS)
    points = {}
    for axis in values.axes:
        flag, _ = AXES[axis]
        found = [read_value(axis, flag, text) for text in values[flag].value]
        if len(set(found)) < 2:
            raise ConfigError(f"--{flag} needs two values or more")
        points[axis] = [base._replace(**{axis: value}) for value in found]
    return points


def read_value(axis: str, flag: str, text: str) -> Any:
    """Returns a value of an axis; raises ConfigError."""
    if axis == "model":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--{flag}: {text!r} is not a positive integer")
    return int(text)


def make_cpu_devices(points: dict[str, list[Work]]) -> None:
    """Has jax make as many CPU devices as are asked for, unless it was told already."""
    count = max(work.num_devices for works in points.values() for work in works)
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if count > 1 and not told:
        jax.config.update("jax_num_cpu_devices", count)


def measure(axis: str, works: list[Work], turns: int, calls: int) -> dict[str, Any]:
    """Returns the rows of an axis and the exponent of its cost."""
    programs = [throughput.prepare(work) for work in works]
    sides = {str(place): program.take for place, program in enumerate(programs)}
    times = timing.take_turns(sides, turns, calls)
    rows = []
    for program, found in zip(programs, times.values(), strict=True):
        work = program.work
        steps = [time / work.steps_per_call for time in found]
        step_time = timing.spread(steps)
        flops = machine.flops(program.step, program.arguments)
        rows.append(
            {
                axis: getattr(work, axis),
                "gflops_per_step": flops and timing.significant(flops / 1e9),
                "step_time_ms": step_time,
                "times_ms": [timing.significant(time) for time in steps],
                "images_per_second": timing.significant(
                    1000 * work.batch_size / step_time["median"]
                ),
                "compile_seconds": round(program.seconds, 2),
            }
        )
    return {"rows": rows, "exponent": exponent(axis, rows)}


def size_of(axis: str, row: dict[str, Any]) -> float | None:
    """Returns what the cost of a point is laid against."""
    return row["num_devices" if axis == "num_devices" else "gflops_per_step"]


def exponent(axis: str, rows: list[dict[str, Any]]) -> float | None:
    """Returns the slope of log(milliseconds) over log(size), by least squares."""
    sizes = [size_of(axis, row) for row in rows]
    if None in sizes:
        return None
    medians = [row["step_time_ms"]["median"] for row in rows]
    slope, _ = np.polyfit(np.log(sizes), np.log(medians), 1)
    return round(float(slope), 3)


def table_of(axis: str, found: dict[str, Any]) -> str:
    """Returns an axis as a Markdown table."""
    header = (TITLES[axis], "GFLOP a step", "ms a step (10th to 90th)", "images/s")
    cells = []
    for row in found["rows"]:
        time = row["step_time_ms"]
        step = f"{time['median']} ({time['p10']} to {time['p90']})"
        cells.append(
            (row[axis], row["gflops_per_step"], step, row["images_per_second"])
        )
    return f"{results.markdown(header, cells)}\n\nexponent {found['exponent']}\n"


def draw(axes: dict[str, Any], path: str) -> None:
    """Writes milliseconds over work, and over devices, with the fitted lines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure((4 * len(axes), 3.6), layout="constrained")
    for panel, (axis, found) in zip(
        figure.subplots(1, len(axes), squeeze=False)[0], axes.items(), strict=True
    ):
        rows = found["rows"]
        times = [row["step_time_ms"] for row in rows]
        sizes = np.array([size_of(axis, row) or np.nan for row in rows], float)
        medians = np.array([time["median"] for time in times])
        away = [
            np.maximum([s * (time[end] - time["median"]) for time in times], 0)
            for s, end in ((-1, "p10"), (1, "p90"))
        ]
        panel.errorbar(sizes, medians, away, fmt="o", capsize=3, color="#4477aa")
        if found["exponent"] is not None:
            level = np.mean(np.log(medians) - found["exponent"] * np.log(sizes))
            line = np.exp(level) * sizes ** found["exponent"]
            panel.plot(sizes, line, color="#4477aa", linewidth=1)
        for row, size, median in zip(rows, sizes, medians, strict=True):
            panel.annotate(
                str(row[axis]), (size, median), (4, -10), textcoords="offset points",
                fontsize=7,
            )  # fmt: skip
        panel.set(
            xscale="log", yscale="log", ylabel="ms a step",
            xlabel="devices" if axis == "num_devices" else "GFLOP a step",
            title=f"{TITLES[axis]}: exponent {found['exponent']}",
        )  # fmt: skip
        panel.margins(x=0.18)
        for axis_of in (panel.xaxis, panel.yaxis):
            axis_of.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis_of.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis_of.set_minor_locator(NullLocator())
    figure.savefig(path, dpi=150)


def run(argv: list[str]) -> None:
    """Measures what the command line asks for; raises RunError."""
    values = command.parse(argv, __doc__, define, SMOKE)
    if values is None:
        return
    points = read_points(values)
    make_cpu_devices(points)
    axes = {}
    for axis, works in points.items():
        with command.words_of(values):
            axes[axis] = measure(axis, works, values.repeats, values.calls)
        print(table_of(axis, axes[axis]), flush=True)
    if values.plot:
        try:
            draw(axes, values.plot)
        except OSError as error:
            raise ConfigError(f"--plot={values.plot}: {error}") from None
    base = throughput.read_work(values)
    mesh = parallel.create_mesh(base.devices, base.num_devices or 1)
    where = machine.describe(mesh)
    result = {"benchmark": "scaling", **base._asdict(), "axes": axes, **where}
    command.finish(result, values.output)


if __name__ == "__main__":
    command.main(run)
