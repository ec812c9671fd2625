"""Max pooling, whose gradient goes to the first of equal maxima, and doubling."""

import jax
import jax.numpy as jnp
from jax import lax

from tljax.models.lowering import mode


def max_pool(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    """Returns the maxima [b, oh, ow, c] of windows of x [b, h, w, c]; NaN where one is.

    As PyTorch's `max_pool2d`: padded by `padding` pixels on each side, and of equal
    values in a window the first, row by row, has the gradient. Maxima of columns, then
    of rows: six comparisons a 3x3 window instead of eight, and a gradient by selection
    that is five times as fast on CPU as XLA's scatter (`benchmarks/layers.py`).
    """
    dtype = x.dtype
    if mode.current.get().on_cpu:
        # Selected from in bfloat16, the gradient takes three to six times as long.
        x = x.astype(jnp.promote_types(dtype, jnp.float32))
    for axis in (2, 1):
        x = max_along(x, axis, size, stride, padding)
    return x.astype(dtype)


def max_along(x: jax.Array, axis: int, size: int, stride: int, padding: int):
    """Returns the maxima of windows along one axis."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (padding, padding, 0)
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), config)
    windows = (padded.shape[axis] - size) // stride + 1
    found = None
    for start in range(size):
        stop = start + (windows - 1) * stride + 1
        here = lax.slice_in_dim(padded, start, stop, stride, axis)
        if found is None:
            found = here
        else:
            larger = (here > found) | jnp.isnan(here)
            found = jnp.where(larger, here, found)
    return found


def doubled(x: jax.Array) -> jax.Array:
    """Returns x [b, h, w, c] with each pixel four times: [b, 2h, 2w, c]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
