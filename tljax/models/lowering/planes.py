"""The form of planes: patches whose pixels stand in rows, for the gradient of weights.

That is a sum over all pixels, the rows of both patches and outputs. XLA leaves such a
product to Eigen, which turns one side; where one side has rows and the other columns, a
library takes it, about twice as fast. So patches are put together from images whose
channels stand first, which are turned before there are copies of them.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from tljax.models.lowering import parts
from tljax.models.lowering.forms import Window, met_along, widened


def weights_planes(
    images: jax.Array, outputs: jax.Array, window: Window, shape
) -> jax.Array:
    """Returns the gradient [kh, kw, cin, cout] = `shape` of the kernel.

    In float32 at least: for some layouts of a product of bfloat16 that is summed up in
    float32, jax 0.10.2 and 0.12 have no program, which they say when it is run.
    """

    def contribute(images: jax.Array, outputs: jax.Array) -> jax.Array:
        rows = widened(outputs).reshape(-1, outputs.shape[-1])
        return planes_of(widened(images), window) @ rows

    size = parts.size_of(len(images), values_of(images, window), parts.AT_ONCE)
    found = parts.summed(contribute, images, outputs, size)
    return found.reshape(shape).astype(images.dtype)


def values_of(images: jax.Array, window: Window) -> int:
    """Returns how many values an image has: turned, its columns, and its patches."""
    (height, width), (rows, columns) = images.shape[1:3], window.size
    out_height, out_width = window.extents(images.shape)
    moved = columns * out_width * (height + rows * out_height)
    return (height * width + moved) * images.shape[3]


def planes_of(images: jax.Array, window: Window) -> jax.Array:
    """Returns the patches of all windows, [kh * kw * cin, b * oh * ow].

    Columns are kept: in one loop with the rows they are moved again for each.
    """
    columns = jnp.concatenate(met_along(jnp.moveaxis(images, 3, 0), 3, 1, window))
    columns = lax.optimization_barrier(columns)
    rows = jnp.concatenate(met_along(columns, 2, 0, window))
    return rows.reshape(math.prod(window.size) * images.shape[3], -1)
