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
from tljax.models.lowering.forms import Window, met_along, movable, widened

# So few that patches of planes are worth it: those of an image.
FEW_CHANNELS = 3


def weights_planes(
    images: jax.Array, outputs: jax.Array, window: Window, shape, product=None
) -> jax.Array:
    """Returns the gradient [kh, kw, cin, cout] = `shape` of the kernel.

    In float32 at least: for some layouts of a product of bfloat16 that is summed up in
    float32, jax 0.10.2 and 0.12 have no program, which they say when it is run. But
    where `product` computes it, in the dtype that there is.
    """

    def contribute(images: jax.Array, outputs: jax.Array) -> jax.Array:
        rows = outputs.reshape(-1, outputs.shape[-1])
        if product is not None:
            return product(planes_of(images, window), rows)
        return planes_of(widened(images), window) @ widened(rows)

    # oneDNN, which `product` calls, is the faster the more there is.
    most = parts.AT_ONCE if product is None else 2 * parts.PATCHES_AT_ONCE
    size = parts.size_of(len(images), values_of(images, window), most)
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
    turned = jnp.moveaxis(movable(images), 3, 0)
    columns = jnp.concatenate(met_along(turned, 3, 1, window))
    columns = lax.optimization_barrier(columns)
    rows = jnp.concatenate(met_along(columns, 2, 0, window))
    rows = rows.reshape(math.prod(window.size) * images.shape[3], -1)
    return lax.bitcast_convert_type(rows, images.dtype)
