"""Convolutions in every form: measures again what `models/lowering/choice.py` rests on.

    python -m benchmarks.convolution --model=resnet50 --image_size=224 --batch_size=8
    python -m benchmarks.convolution --shapes="32,2,512,512,3,1;8,28,256,256,3,2,32"

A shape is batch, extent, channels in, channels out, kernel, stride, and groups where
there are any. Of each, the forward operation, the gradient of the images and that of
the kernel are timed in each form that fits, in turns; beside a time in ms stands its
share of all operations in GFLOP/s, and a star at the form that is chosen. What stands
before an operation in a network, and reads or writes the same arrays, stands before it
here: an elementwise operation on both sides, whose own time is taken off. With
`--looped` all stands in the body of a loop. `ratio` is XLA's own time over that of the
chosen forms, summed over the network.
"""

import collections
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from absl import app, flags

from tljax import allocator, models
from tljax.models import lowering
from tljax.models.lowering import choice, mode
from tljax.models.lowering.choice import Case
from tljax.models.lowering.forms import Window

MODEL = flags.DEFINE_string("model", "resnet50", "whose convolutions are measured")
STEM = flags.DEFINE_enum("stem", "standard", ["standard", "small"], "of the model")
SIZE = flags.DEFINE_integer("image_size", 224, "pixels")
BATCH = flags.DEFINE_integer("batch_size", 8, "images")
SHAPES = flags.DEFINE_string("shapes", "", "instead of a model's, see above")
REPEATS = flags.DEFINE_integer("repeats", 9, "turns of each form; the best is taken")
LOOPED = flags.DEFINE_bool("looped", False, "in the body of a loop")
SMOKE = flags.DEFINE_bool("smoke", False, "two small shapes")

OPERATIONS = {
    "forward": choice.FORWARD,
    "data": choice.DATA,
    "weights": choice.WEIGHTS,
}


def parse(text: str) -> Case:
    """Returns the case that a shape describes."""
    batch, extent, cin, cout, kernel, stride, *groups = map(int, text.split(","))
    groups, sides = (groups or [1])[0], ((kernel // 2, kernel // 2),) * 2
    return Case(
        (batch, extent, extent, cin),
        (kernel, kernel, cin // groups, cout),
        Window((kernel, kernel), stride, sides, groups),
        LOOPED.value,
    )


def cases_of_model() -> dict[Case, int]:
    """Returns the convolutions of a model, and how often each stands in it."""
    model = models.create(MODEL.value, stem=STEM.value)
    shape = (BATCH.value, SIZE.value, SIZE.value, 3)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    found = collections.Counter()

    def note(images, kernel, window):
        found[Case(images.shape, kernel.shape, window, LOOPED.value)] += 1
        return convolve(images, kernel, window)

    convolve, lowering.convolve = lowering.convolve, note
    try:
        jax.eval_shape(model.init, jax.random.key(0), images)
    finally:
        lowering.convolve = convolve
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

    return jax.jit(looped if case.looped else body).lower(*arrays).compile()


def draw(case: Case) -> list[jax.Array]:
    """Returns images, kernel and gradient of the outputs."""
    height, width = case.window.extents(case.images)
    outputs = (case.batch, height, width, case.kernel[-1])
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = case.images, case.kernel, outputs
    return [jax.random.normal(*pair) for pair in zip(keys, shapes, strict=True)]


def seconds_of(programs: dict[str, Callable], arrays) -> dict[str, float]:
    """Returns the best time of each program, all of them in turns."""
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(REPEATS.value + 1):
        for name, run in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arrays))
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def measure(operation: str, case: Case) -> tuple[dict[str, float], str]:
    """Returns the seconds of each form of an operation, and the one that is chosen."""
    rows, arrays = OPERATIONS[operation], draw(case)
    names = {form.__name__.split("_")[1]: form for form in choice.forms_of(rows, case)}
    if case.looped and operation == "weights" and len(names) > 1:
        del names["xla"]  # Minutes.
    programs = {
        name: program(operation, form, case, arrays)
        for name, form in {"": None, **names}.items()
    }
    seconds = seconds_of(programs, arrays)
    around = seconds.pop("")
    seconds = {name: max(each - around, 1e-9) for name, each in seconds.items()}
    looped = mode.Mode(looped=case.looped)
    chosen = choice.form_of(rows, case.images, case.kernel, case.window, looped)
    return seconds, chosen.__name__.split("_")[1]


def main(argv: list[str]) -> None:
    """Measures all cases, prints a line for each and one JSON line last."""
    del argv
    allocator.keep_memory()
    if SMOKE.value:
        flags.FLAGS.shapes, flags.FLAGS.repeats = "2,4,8,8,3,1;2,4,8,8,1,1", 1
    if SHAPES.value:
        cases = {parse(text): 1 for text in SHAPES.value.split(";")}
    else:
        cases = cases_of_model()
    results, total, xla = [], 0.0, 0.0
    for case, count in cases.items():
        height, width = case.window.extents(case.images)
        sums = 2 * case.batch * height * width * jnp.prod(jnp.array(case.kernel)).item()
        print(f"{case.images} * {case.kernel} / {case.window.stride}, {count} times")
        for operation in OPERATIONS:
            seconds, chosen = measure(operation, case)
            total += count * seconds[chosen]
            xla += count * seconds.get("xla", float("nan"))
            line = " ".join(
                f"{'*' * (name == chosen)}{name} {s * 1e3:.2f} ({sums / s / 1e9:.0f})"
                for name, s in sorted(seconds.items(), key=lambda item: item[1])
            )
            print(f"  {operation:8}{line}", flush=True)
            results.append(
                {
                    "operation": operation,
                    "images": case.images,
                    "kernel": case.kernel,
                    "stride": case.window.stride,
                    "groups": case.window.groups,
                    "count": count,
                    "chosen": chosen,
                    "ms": {name: round(s * 1e3, 3) for name, s in seconds.items()},
                }
            )
    result = {
        "benchmark": "convolution",
        "looped": LOOPED.value,
        "cases": results,
        "ms_chosen": round(total * 1e3, 3),
        "ratio": None if xla != xla else round(xla / total, 3),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
