"""Several steps in one call of a compiled program."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tljax.models import lowering


def several_steps(step: Callable[..., Any], size: int) -> Callable[..., Any]:
    """Returns a function that takes up to `size` steps, of batches [size, batch, ...].

    It takes batches["steps"] of them, and returns the state after the last and the
    metrics of each, [size], 0 for steps that are not taken. That number is an argument,
    so that one program serves every number: whichever way steps are gathered into
    calls, the numbers are the same, bit for bit.
    """

    def steps(state: Any, batches: dict[str, jax.Array], *stored: Any):
        batches = dict(batches)
        count = batches.pop("steps")

        def take(place: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state, told = carry
            batch = {name: rows[place] for name, rows in batches.items()}
            with lowering.inside_loop():
                state, metrics = step(state, batch, *stored)
            told = jax.tree.map(lambda all, one: all.at[place].set(one), told, metrics)
            return state, told

        first = {name: rows[0] for name, rows in batches.items()}
        _, shapes = jax.eval_shape(step, state, first, *stored)
        told = jax.tree.map(
            lambda one: jnp.zeros((size, *one.shape), one.dtype), shapes
        )
        return lax.fori_loop(0, count, take, (state, told))

    return steps


def stack_batches(
    batches: Iterator[dict[str, np.ndarray]], counts: Iterator[int], size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields host batches several at a time, for a program of `size` steps per call.

    Each is {"image": [size, b, ...], ..., "steps": int32}, of which the first `steps`
    are the next `count` batches; the rest repeats the last of them and is not looked
    at.
    """
    try:
        for count in counts:
            rows = [next(batches) for _ in range(count)]
            rows += rows[-1:] * (size - count)
            stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            yield stacked | {"steps": np.array(count, np.int32)}
    finally:
        batches.close()
