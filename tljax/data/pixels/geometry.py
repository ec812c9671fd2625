"""Boxes: which are cut, resized, painted over; and what mirrors an image."""

import jax
import jax.numpy as jnp

from tljax.data.operations import RandomErasing
from tljax.data.pixels import per_image

ATTEMPTS = 10


def resample(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns images [b, i, j, c]: weighted sums along rows, and along columns.

    `images` is float [b, h, w, c], `rows` [b, i, h] and `columns` [b, j, w]. Two
    products of matrices, which every device is fast at, where gathers are slow.
    """
    # TPUs and tensor cores would keep 8 or 10 bits of a grey level.
    precision = jax.lax.Precision.HIGHEST
    # Faster on CPUs than rows first, and than keeping the order of the axes between.
    images = jnp.einsum("bjw,bhwc->bjhc", columns, images, precision=precision)
    return jnp.einsum("bih,bjhc->bijc", rows, images, precision=precision)


def resized_crop(images: jax.Array, boxes: jax.Array, size: int) -> jax.Array:
    """Returns each image's own box, float32 [b, size, size, c], resized.

    `images` is uint8 or float [b, h, w, c], `boxes` is top, left, height, width in
    whole pixels, float or int [b, 4]. Bilinear and antialiased as torchvision's
    `resized_crop` of tensors: nothing outside of the box is seen. Grey levels keep
    their range and are not rounded.
    """
    height, width = images.shape[1:3]
    boxes = boxes.astype(jnp.float32)
    rows = resize_weights(boxes[:, 0], boxes[:, 2], height, size)
    columns = resize_weights(boxes[:, 1], boxes[:, 3], width, size)
    return resample(images.astype(jnp.float32), rows, columns)


def resize_weights(
    start: jax.Array, length: jax.Array, extent: int, size: int
) -> jax.Array:
    """Returns float32 [b, size, extent]: what each pixel gives to each resized one.

    A triangle as wide as two source pixels, or two resized ones where those are
    larger, cut off at the ends of start [b] .. start + length [b]; rows sum to 1.
    """
    start, length = start.reshape(-1, 1, 1), length.reshape(-1, 1, 1)
    scale = length / size
    centers = (jnp.arange(size, dtype=jnp.float32) + 0.5).reshape(1, -1, 1) * scale
    pixels = jnp.arange(extent, dtype=jnp.float32).reshape(1, 1, -1) - start
    distances = jnp.abs(pixels + 0.5 - centers) / jnp.maximum(scale, 1.0)
    inside = (pixels >= 0) & (pixels < length)
    weights = jnp.where(inside, jnp.maximum(1.0 - distances, 0.0), 0.0)
    return weights / weights.sum(axis=2, keepdims=True)


def draw_boxes(
    key: jax.Array,
    extents: jax.Array,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> jax.Array:
    """Returns a box for each image, top, left, height, width: float32 [b, 4].

    `extents` is height, width of each image, [b, 2]. Boxes are whole pixels, with the
    distribution of torchvision's RandomResizedCrop: an area within `scale`, width /
    height within `ratio`, any place. Where ten draws do not fit, it is the largest
    box about the centre whose shape is within `ratio`.
    """
    extents = extents.astype(jnp.float32)
    shapes, place = jax.random.split(key)
    widths, heights = draw_shapes(shapes, extents, scale, ratio)
    fits = (heights > 0) & (heights <= extents[:, :1])
    fits = fits & (widths > 0) & (widths <= extents[:, 1:])
    boxes = place_first(place, heights, widths, fits, extents)
    return jnp.where(fits.any(axis=1, keepdims=True), boxes, central(extents, ratio))


def draw_shapes(
    key: jax.Array,
    extents: jax.Array,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array]:
    """Returns ten pairs of sides for each image, two float32 [b, 10], whole pixels.

    Their product is uniform within `scale` of the image's area; the first over the
    second is log-uniform within `ratio`.
    """
    areas_key, ratios_key = jax.random.split(key)
    shape = extents.shape[0], ATTEMPTS
    shares = jax.random.uniform(areas_key, shape, jnp.float32, *scale)
    areas = shares * extents.prod(axis=1, keepdims=True)
    low, high = jnp.log(jnp.asarray(ratio, jnp.float32))
    ratios = jnp.exp(jax.random.uniform(ratios_key, shape, jnp.float32, low, high))
    return jnp.round(jnp.sqrt(areas * ratios)), jnp.round(jnp.sqrt(areas / ratios))


def place_first(
    key: jax.Array,
    heights: jax.Array,
    widths: jax.Array,
    fits: jax.Array,
    extents: jax.Array,
) -> jax.Array:
    """Returns the first of the shapes [b, 10] that fits, at any place: [b, 4]."""
    first = jnp.argmax(fits, axis=1).reshape(-1, 1)
    sides = jnp.concatenate(
        [jnp.take_along_axis(values, first, axis=1) for values in (heights, widths)],
        axis=1,
    )
    corners = per_image.whole(key, extents - sides + 1)
    return jnp.concatenate([corners, sides], axis=1)


def central(extents: jax.Array, ratio: tuple[float, float]) -> jax.Array:
    """Returns the largest box about the centre with width / height within `ratio`."""
    height, width = extents[:, 0], extents[:, 1]
    low, high = ratio
    heights = jnp.where(width / height < low, jnp.round(width / low), height)
    widths = jnp.where(width / height > high, jnp.round(height * high), width)
    sides = jnp.stack([heights, widths], axis=1)
    return jnp.concatenate([(extents - sides) // 2, sides], axis=1)


def pad_and_crop(
    key: jax.Array, images: jax.Array, padding: int, mode: str
) -> jax.Array:
    """Returns images [b, h, w, c], each moved by up to `padding` pixels.

    What comes into view is black (`mode` "constant") or mirrored ("reflect"), as
    torchvision's RandomCrop of padded images.
    """
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, sides, mode=mode)
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

    def cut(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(cut)(padded, corners)


def flip(key: jax.Array, images: jax.Array, p: float, axis: int) -> jax.Array:
    """Returns images [b, h, w, c], each mirrored along `axis` with probability `p`."""
    chosen = per_image.chance(key, p, len(images))
    return per_image.select(chosen, jnp.flip(images, axis), images)


def erase(
    key: jax.Array, images: jax.Array, operation: RandomErasing, fill: jax.Array
) -> jax.Array:
    """Returns float images [b, h, w, c], a box of each painted over with `p`.

    The box has the distribution of torchvision's RandomErasing; an image stays as it
    is where ten draws do not fit. `fill` [c] is the grey level that the mean has.
    Noise is uniform in 0..255 (Zhong et al. 2017, arXiv 1708.04896), where
    torchvision's is normal, after normalising.
    """
    shapes, place, chance, noise = jax.random.split(key, 4)
    num_images, height, width, channels = images.shape
    extents = jnp.full((num_images, 2), jnp.asarray([[height, width]], jnp.float32))
    heights, widths = draw_shapes(shapes, extents, operation.scale, operation.ratio)
    fits = (heights < height) & (widths < width)
    boxes = place_first(place, heights, widths, fits, extents)
    chosen = per_image.chance(chance, operation.p, num_images) & fits.any(axis=1)
    if operation.value == "noise":
        paint = jax.random.uniform(noise, images.shape, jnp.float32, 0.0, 255.0)
    else:
        paint = fill.reshape(1, 1, 1, channels)
    inside = box_mask(boxes, height, width) & per_image.numbers(chosen)
    return jnp.where(inside, paint, images)


def box_mask(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Returns bool [b, height, width, 1]: whether a pixel is inside its image's box."""
    top, left, tall, wide = (per_image.numbers(boxes[:, i]) for i in range(4))
    rows = jnp.arange(height).reshape(1, -1, 1, 1)
    columns = jnp.arange(width).reshape(1, 1, -1, 1)
    inside_rows = (rows >= top) & (rows < top + tall)
    return inside_rows & (columns >= left) & (columns < left + wide)
