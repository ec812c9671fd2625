"""BatchNorm and max pooling beside Flax's: measures again what their code rests on.

    python -m benchmarks.layers --model=resnet50 --image_size=224 --batch_size=8

Each BatchNorm of a model, with the sum and the ReLU that it takes along, and each max
pooling, forward and backward, in turns: `ours` is `models/normalization.py` or
`models/pooling.py`, `flax` its own layers with the derivatives that JAX gives them. All
gradients are asked for, and the output, which the next layer reads. `ratio` is Flax's
time over ours, summed over the network, turn by turn.
"""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn

from benchmarks import calls, command, machine, timing
from tljax import allocator, parallel
from tljax.models import convolved, normalization, pooling, resnet

SETTINGS = ("model", "stem", "precision", "image_size", "batch_size")
SMOKE = {"model": "resnet18", "image_size": 8, "batch_size": 2, "repeats": 2}


class Case(NamedTuple):
    """A layer: what it is given, and what it takes along.

    Attributes:
      kind: "batch_norm" or "max_pool".
      shape: of its input, [b, h, w, c].
      added: whether another array is added.
      relu: whether what is negative is cut.
      window: (size, stride, padding) of a pooling, () for BatchNorm.
    """

    kind: str
    shape: tuple[int, ...]
    added: bool = False
    relu: bool = False
    window: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Returns kind, shape and what is taken along."""
        more = [name for name in ("added", "relu") if getattr(self, name)]
        return " ".join([self.kind, str(self.shape), *more])


def cases_of(values: flags.FlagValues) -> dict[Case, int]:
    """Returns the layers of a model, and how often each is there."""
    found = collections.Counter()

    def note_norm(x, scale, bias, added, *, relu, dtype):
        found[Case("batch_norm", x.shape, added is not None, relu)] += 1

    def note_pool(x, *window):
        found[Case("max_pool", x.shape, window=window)] += 1

    calls.trace(
        values,
        (convolved, "normalize_batch", note_norm),
        (resnet, "max_pool", note_pool),
    )
    return dict(found)


def ours(case: Case, x, scale, bias, *added) -> jax.Array:
    """Returns the output of our layer."""
    if case.kind == "max_pool":
        return pooling.max_pool(x, *case.window)
    how = {"relu": case.relu, "dtype": x.dtype}
    return normalization.normalize_batch(x, scale, bias, *added, **how)[0]


def flax(case: Case, x, scale, bias, *added) -> jax.Array:
    """Returns the output of Flax's layer."""
    if case.kind == "max_pool":
        size, stride, padding = case.window
        return nn.max_pool(x, (size,) * 2, (stride,) * 2, ((padding,) * 2,) * 2)
    norm = nn.BatchNorm(False, epsilon=normalization.EPS, dtype=x.dtype)
    statistics = {"mean": jnp.zeros_like(bias), "var": jnp.ones_like(scale)}
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": statistics,
    }
    y = sum(added, norm.apply(variables, x, mutable=["batch_stats"])[0])
    return nn.relu(y) if case.relu else y


SIDES = {"ours": ours, "flax": flax}


def measure(case: Case, dtype: jnp.dtype, turns: int) -> dict[str, np.ndarray]:
    """Returns the milliseconds [turns] of each side, forward and backward."""
    arrays = draw(case, dtype)
    sides = {name: program(layer, case, arrays) for name, layer in SIDES.items()}
    times = timing.take_turns(sides, turns, 1)
    return {name: np.array(found) for name, found in times.items()}


def draw(case: Case, dtype: jnp.dtype) -> list[jax.Array]:
    """Returns the input, scale, bias, what is added if anything, and the cotangent."""
    keys = jax.random.split(jax.random.key(0), 3)
    channels = case.shape[-1:]
    added = [jax.random.normal(keys[1], case.shape, dtype)] if case.added else []
    x = jax.random.normal(keys[0], case.shape, dtype)
    arrays = [x, jnp.ones(channels), jnp.zeros(channels), *added]
    like = jax.eval_shape(lambda *given: ours(case, *given), *arrays)
    return [*arrays, jax.random.normal(keys[2], like.shape, like.dtype)]


def program(layer: Callable, case: Case, arrays: list[jax.Array]) -> timing.Take:
    """Returns what computes the output of a layer and the gradients of all inputs."""

    def both(*given):
        *inputs, cotangent = given
        y, backward = jax.vjp(lambda *each: layer(case, *each), *inputs)
        return y, backward(cotangent)

    with allocator.compiling():
        compiled = jax.jit(both).lower(*arrays).compile()
    return timing.repeated(lambda: jax.block_until_ready(compiled(*arrays)))


def describe(case: Case, count: int, times: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns what is measured of a layer, and prints it."""
    medians = {name: float(np.median(found)) for name, found in times.items()}
    line = " ".join(f"{name} {ms:.2f}" for name, ms in medians.items())
    print(f"{case}, {count} times: {line}", flush=True)
    ms = {name: timing.significant(each) for name, each in medians.items()}
    return {"count": count, **case._asdict(), "ms": ms}


def run(argv: list[str]) -> None:
    """Measures all layers, prints a line for each and one JSON line last."""
    values = command.parse(argv, __doc__, calls.define, SMOKE)
    if values is None:
        return
    calls.check(values)
    rows, sums = [], dict.fromkeys(SIDES, 0.0)
    for case, count in cases_of(values).items():
        times = measure(case, calls.dtype_of(values), values.repeats)
        rows.append(describe(case, count, times))
        sums = {name: sums[name] + count * times[name] for name in SIDES}
    result = {
        "benchmark": "layers",
        **{name: values[name].value for name in SETTINGS},
        "cases": rows,
        "ms_ours": timing.significant(float(np.median(sums["ours"]))),
        **timing.ratio(sums["ours"], sums["flax"]),
        **machine.describe(parallel.create_mesh(num_devices=1)),
    }
    command.finish(result, values.output)


if __name__ == "__main__":
    command.main(run)
