"""Convolutions in every form: measures again what `models/lowering/choice.py` rests on.

    python -m benchmarks.convolution --model=resnet50 --image_size=224 --batch_size=8
    python -m benchmarks.convolution --shapes="32,2,512,512,3,1;8,28,256,256,3,2,32"

A shape is batch, extent, channels in, channels out, kernel, stride, and groups where
there are any. Of each, the forward operation, the gradient of the images and that of
the kernel are timed in each form that fits, in turns; beside the median in ms stands
its share of all operations in GFLOP/s, and a star at the form that is chosen. What
stands before an operation in a network, and reads or writes the same arrays, stands
before it here: an elementwise operation on both sides, whose own time is taken off.
`library` is oneDNN, for runs of many steps.
With `--looped` all stands in the body of a loop, with `--precision=bfloat16` all arrays
are of it. `ratio` is XLA's own time over that of the chosen forms, summed over the
network, turn by turn; null where XLA's own form would take minutes.
"""

import collections
import contextlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import calls, command, machine, timing
from tljax import allocator, parallel
from tljax.errors import ConfigError
from tljax.models import lowering
from tljax.models.lowering import choice, library, mode, processor
from tljax.models.lowering.choice import Case
from tljax.models.lowering.forms import Window

OPERATIONS = {
    "forward": choice.FORWARD,
    "data": choice.DATA,
    "weights": choice.WEIGHTS,
}
SETTINGS = ("model", "stem", "shapes", "precision", "looped")
SMOKE = {"shapes": "2,4,8,8,3,1;2,4,8,8,1,1", "repeats": 2}


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this benchmark."""
    calls.define(values)
    doc = "instead of a model's, see above"
    flags.DEFINE_string("shapes", "", doc, flag_values=values)
    doc = "in the body of a loop"
    flags.DEFINE_bool("looped", False, doc, flag_values=values)


def parse(text: str, dtype: jnp.dtype = jnp.float32, looped: bool = False) -> Case:
    """Returns the case that a shape describes; raises ConfigError."""
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if len(numbers) not in (6, 7) or min(numbers) < 1:
        raise ConfigError(
            f"--shapes: {text!r} is not six or seven positive integers: "
            "batch,extent,in,out,kernel,stride[,groups]"
        )
    batch, extent, cin, cout, kernel, stride, groups = (*numbers, 1)[:7]
    if cin % groups or cout % groups:
        raise ConfigError(f"--shapes: {text!r}: {groups} groups do not divide channels")
    sides = ((kernel // 2, kernel // 2),) * 2
    return Case(
        (batch, extent, extent, cin),
        (kernel, kernel, cin // groups, cout),
        Window((kernel, kernel), stride, sides, groups),
        dtype,
        looped,
    )


def cases_of(values: flags.FlagValues) -> dict[Case, int]:
    """Returns the convolutions that flags name, and how often each is computed."""
    how = calls.dtype_of(values), values.looped
    if values.shapes:
        texts = values.shapes.split(";")
        return dict(collections.Counter(parse(text, *how) for text in texts))
    found = collections.Counter()

    def note(images, kernel, window):
        found[Case(images.shape, kernel.shape, window, *how)] += 1

    calls.trace(values, (lowering, "convolve", note))
    return dict(found)


def program(operation: str, form: Callable | None, case: Case, arrays) -> Callable:
    """Returns a function that computes an operation in a form; None: all but it."""

    def body(images, kernel, outputs):
        given = {"images": images * 2 + 1, "kernel": kernel, "outputs": outputs * 2 + 1}
        if operation == "forward":
            del given["outputs"]
            values = [given["images"], kernel, case.window]
        elif operation == "data":
            del given["images"]
            values = [given["outputs"], kernel, case.window, case.images]
        else:
            values = [given["images"], given["outputs"], case.window, case.kernel]
        return given, form(*values) if form else 0.0

    def looped(*arrays):
        # The loop's number is in the arguments: else the body would stand before it.
        def step(number, kept):
            part = number.astype(arrays[0].dtype) * 1e-30
            return body(*(array + part for array in arrays))

        return jax.lax.fori_loop(
            0, 1 + jnp.int32(arrays[0][0, 0, 0, 0] > -1e9), step, body(*arrays)
        )

    unkept = lowering.unkept() if library.is_there() else contextlib.nullcontext()
    with allocator.compiling(), unkept:
        return jax.jit(looped if case.looped else body).lower(*arrays).compile()


def draw(case: Case) -> list[jax.Array]:
    """Returns images, kernel and gradient of the outputs."""
    height, width = case.window.extents(case.images)
    outputs = (case.batch, height, width, case.kernel[-1])
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = case.images, case.kernel, outputs
    return [
        jax.random.normal(*pair, case.dtype) for pair in zip(keys, shapes, strict=True)
    ]


def measure(operation: str, case: Case, turns: int) -> tuple[dict[str, Any], str]:
    """Returns the milliseconds [turns] of each form, and the one that is chosen."""
    rows, arrays = OPERATIONS[operation], draw(case)
    names = {form.__name__.split("_")[1]: form for form in choice.forms_of(rows, case)}
    if case.looped and operation == "weights" and len(names) > 1:
        del names["xla"]  # Minutes.
    sides = {}
    for name, form in {"": None, **names}.items():
        compiled = program(operation, form, case, arrays)

        def call(compiled=compiled):
            jax.block_until_ready(compiled(*arrays))

        sides[name] = timing.repeated(call)
    times = timing.take_turns(sides, turns, 1)
    around = np.array(times.pop(""))
    times = {name: np.maximum(all - around, 1e-6) for name, all in times.items()}
    calls_library = processor.multiplies_bfloat16() and library.is_there()
    where = mode.Mode(looped=case.looped, library=calls_library)
    how = case.window, case.dtype, where
    chosen = choice.form_of(rows, case.images, case.kernel, *how)
    return times, chosen.__name__.split("_")[1]


def describe(operation: str, case: Case, times: dict[str, Any], chosen: str):
    """Returns what is measured of an operation, and prints it."""
    height, width = case.window.extents(case.images)
    sums = 2 * case.batch * height * width * math.prod(case.kernel)
    medians = {name: float(np.median(found)) for name, found in times.items()}
    line = " ".join(
        f"{'*' * (name == chosen)}{name} {ms:.2f} ({sums / ms / 1e6:.0f})"
        for name, ms in sorted(medians.items(), key=lambda item: item[1])
    )
    print(f"  {operation:8}{line}", flush=True)
    return {
        "operation": operation,
        "images": case.images,
        "kernel": case.kernel,
        "stride": case.window.stride,
        "groups": case.window.groups,
        "chosen": chosen,
        "ms": {name: timing.significant(ms) for name, ms in medians.items()},
    }


def run(argv: list[str]) -> None:
    """Measures all cases, prints a line for each and one JSON line last."""
    values = command.parse(argv, __doc__, define, SMOKE)
    if values is None:
        return
    calls.check(values)
    rows, ours, xla = [], 0.0, 0.0
    for case, count in cases_of(values).items():
        print(f"{case.images} * {case.kernel} / {case.window.stride}, {count} times")
        for operation in OPERATIONS:
            times, chosen = measure(operation, case, values.repeats)
            rows.append({"count": count, **describe(operation, case, times, chosen)})
            ours += count * times[chosen]
            xla += count * times.get("xla", np.nan)
    ratio = dict.fromkeys(("ratios", "ratio", "ratio_low", "ratio_high"))
    if np.isfinite(xla).all():
        ratio = timing.ratio(ours, xla)
    result = {
        "benchmark": "convolution",
        **{name: values[name].value for name in SETTINGS},
        "image_size": values.image_size,
        "batch_size": values.batch_size,
        "cases": rows,
        "ms_chosen": timing.significant(float(np.median(ours))),
        **ratio,
        **machine.describe(parallel.create_mesh(num_devices=1)),
    }
    command.finish(result, values.output)


if __name__ == "__main__":
    command.main(run)
