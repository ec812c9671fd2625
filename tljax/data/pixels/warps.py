"""Affine maps of images: turned, sheared, moved."""

import jax
import jax.numpy as jnp

from tljax.data.operations import Rotation
from tljax.data.pixels import per_image


def affine(
    images: jax.Array, matrices: jax.Array, interpolation: str, fill: jax.Array
) -> jax.Array:
    """Returns images float32 [b, h, w, c], each seen through its own matrix [b, 2, 3].

    A matrix takes (x, y, 1) of a pixel of the result to (x, y) in the image, both in
    pixels from the centre, x to the right and y down; `fill` [c] is what lies outside.
    As torchvision's `affine` of tensors: "nearest" rounds half to even, where the last
    bit decides for places halfway between pixels; "bilinear" counts outer pixels as 0
    and then blends with `fill` by the share that was inside, so that the image counts
    there with the square of its share.
    """
    num_images, height, width, channels = images.shape
    x, y = source_positions(matrices, height, width)
    # The centre of the images is between pixels where their extents are even.
    x, y = x + (width - 1) / 2, y + (height - 1) / 2
    pixels = images.reshape(num_images, height * width, channels)
    fill = fill.reshape(1, 1, channels)
    if interpolation == "nearest":
        seen, inside = look_up(pixels, jnp.round(x), jnp.round(y), height, width)
        result = jnp.where(inside, seen, fill)
    else:
        seen, share = between(pixels, x, y, height, width)
        result = share * (seen - fill) + fill
    return result.reshape(images.shape)


def source_positions(
    matrices: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """Returns x and y, float32 [b, h * w] each, from the centre of the image."""
    x = jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2
    y = jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2
    x, y = x.reshape(1, 1, width), y.reshape(1, height, 1)
    # No product of matrices: those would be rounded on accelerators.
    rows = matrices.astype(jnp.float32).reshape(-1, 6, 1, 1)
    across = rows[:, 0] * x + rows[:, 1] * y + rows[:, 2]
    down = rows[:, 3] * x + rows[:, 4] * y + rows[:, 5]
    return tuple(place.reshape(-1, height * width) for place in (across, down))


def look_up(
    pixels: jax.Array, x: jax.Array, y: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the pixels [b, n, c] at whole x, y [b, n], and whether they exist."""
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = jnp.where(inside, y * width + x, 0).astype(jnp.int32)
    found = jnp.take_along_axis(
        pixels, jnp.expand_dims(places, 2), axis=1, mode="promise_in_bounds"
    )
    return found, jnp.expand_dims(inside, 2)


def between(
    pixels: jax.Array, x: jax.Array, y: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the weighted sum [b, n, c] of four neighbours, and the weight inside."""
    left, top = jnp.floor(x), jnp.floor(y)
    total, share = 0.0, 0.0
    for right, bottom in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = left + right, top + bottom
        weight = (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row))
        seen, inside = look_up(pixels, column, row, height, width)
        weight = jnp.where(inside, jnp.expand_dims(weight, 2), 0.0)
        total, share = total + weight * seen, share + weight
    return total, share


def rotations(degrees: jax.Array) -> jax.Array:
    """Returns matrices [b, 2, 3] that turn images anticlockwise by degrees [b]."""
    angles = jnp.radians(degrees)
    cos, sin, zero = jnp.cos(angles), jnp.sin(angles), jnp.zeros_like(angles)
    return jnp.stack([cos, -sin, zero, sin, cos, zero], axis=1).reshape(-1, 2, 3)


def rotate(key: jax.Array, images: jax.Array, operation: Rotation) -> jax.Array:
    """Returns images [b, h, w, c], each turned by its own angle."""
    degrees = per_image.uniform(key, len(images), *operation.degrees)
    fill = jnp.full(images.shape[-1], operation.fill, jnp.float32)
    return affine(images, rotations(degrees), operation.interpolation, fill)
