"""What devices tell one another when each sees its part of a batch alone.

Under `jit` a step sees the whole batch, and nothing here does anything. Within
`divided`, as under `pmap`, a step sees a part: what is computed over a batch must then
be made of all parts.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
from jax import lax

_axis: ContextVar[str | None] = ContextVar("axis", default=None)


@contextlib.contextmanager
def divided(axis: str) -> Iterator[None]:
    """Has what is traced meanwhile see its part of a batch, along a mapped axis."""
    token = _axis.set(axis)
    try:
        yield
    finally:
        _axis.reset(token)


def count() -> int:
    """Returns how many parts a batch is divided into."""
    return 1 if _axis.get() is None else lax.axis_size(_axis.get())


def mean(tree: Any) -> Any:
    """Returns the mean over the devices of what each has computed of its part."""
    return tree if _axis.get() is None else lax.pmean(tree, _axis.get())


def total(tree: Any) -> Any:
    """Returns the sum over the devices of what each has computed of its part."""
    return tree if _axis.get() is None else lax.psum(tree, _axis.get())


def own(key: jax.Array) -> jax.Array:
    """Returns a key of this device's own, for what is drawn for its part."""
    if _axis.get() is None:
        return key
    return jax.random.fold_in(key, lax.axis_index(_axis.get()))
