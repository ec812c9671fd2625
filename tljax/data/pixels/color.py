"""Colours and tones of images float32 [b, h, w, c] in 0..255, in and out.

Every function takes one factor for each image, [b], and computes what torchvision's
function of the same name computes for uint8, before that cuts the result to whole
levels.
"""

import jax
import jax.numpy as jnp

from tljax.data.pixels import per_image
from tljax.data.pixels.geometry import resample
from tljax.errors import ConfigError


def luma(images: jax.Array) -> jax.Array:
    """Returns the grey level of RGB images, [b, h, w, 1], with torchvision's weights.

    dm_pix has it as a product of matrices, of which accelerators keep 8 to 10 bits.
    """
    red, green, blue = jnp.split(images, 3, axis=-1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def blend(images: jax.Array, others: jax.Array, factors: jax.Array) -> jax.Array:
    """Returns factor * image + (1 - factor) * other, cut to 0..255."""
    factors = per_image.numbers(factors)
    return jnp.clip(factors * images + (1 - factors) * others, 0.0, 255.0)


def adjust_brightness(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Returns the images times their factors (dm_pix adds, where torchvision scales).

    0 makes black, 1 changes nothing.
    """
    return jnp.clip(images * per_image.numbers(factors), 0.0, 255.0)


def adjust_contrast(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Returns the images, their distance from one grey level multiplied.

    The level is the mean of the luma in whole levels (dm_pix takes one mean for each
    channel). 0 makes that grey, 1 changes nothing.
    """
    grey = jnp.floor(luma(images)) if images.shape[-1] == 3 else images
    return blend(images, grey.mean(axis=(1, 2, 3), keepdims=True), factors)


def adjust_saturation(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Returns RGB images, their distance from grey multiplied; others as they are.

    Grey is the luma in whole levels (dm_pix scales the S of HSV). 0 takes the colours
    away, 1 changes nothing.
    """
    if images.shape[-1] != 3:
        return images
    return blend(images, jnp.floor(luma(images)), factors)


def adjust_hue(images: jax.Array, shifts: jax.Array) -> jax.Array:
    """Returns RGB images, their hues moved along the circle of length 1; others as is.

    Whole levels come out for whole levels of torchvision up to rounding.
    """
    if images.shape[-1] != 3:
        return images
    import dm_pix  # Here, so that a step without it runs where it is not installed.

    shifted = dm_pix.adjust_hue(images / 255.0, shifts.reshape(-1, 1, 1))
    return jnp.clip(shifted * 255.0, 0.0, 255.0)


def grayscale(images: jax.Array) -> jax.Array:
    """Returns RGB images with their luma in each channel; others as they are."""
    if images.shape[-1] != 3:
        return images
    return jnp.broadcast_to(luma(images), images.shape)


def gaussian_blur(images: jax.Array, kernel_size: int, sigmas: jax.Array) -> jax.Array:
    """Returns blurred images, the border mirrored (dm_pix pads with black).

    `kernel_size` is odd, pixels; `sigmas` [b] are the deviations in pixels. Raises
    ConfigError where the kernel reaches past the mirrored image.
    """
    height, width = images.shape[1:3]
    if kernel_size // 2 >= min(height, width):
        raise ConfigError(
            f"config.data.augment: GaussianBlur.kernel_size = {kernel_size} must be "
            f"below twice the size of the images, {min(height, width)} pixels"
        )
    rows, columns = (blur_weights(sigmas, kernel_size, n) for n in (height, width))
    return resample(images, rows, columns)


def blur_weights(sigmas: jax.Array, kernel_size: int, extent: int) -> jax.Array:
    """Returns float32 [b, extent, extent]: what pixels give to each blurred one."""
    sigmas = sigmas.reshape(-1, 1, 1)
    radius = kernel_size // 2

    def bell(distances):
        heights = jnp.exp(-0.5 * jnp.square(distances / sigmas))
        return jnp.where(jnp.abs(distances) <= radius, heights, 0.0)

    there = jnp.arange(extent, dtype=jnp.float32).reshape(1, -1, 1)
    here = jnp.arange(extent, dtype=jnp.float32).reshape(1, 1, -1)
    # A pixel is seen at its place and in two mirrors, but for those on the mirrors.
    last = extent - 1
    mirrored = jnp.where(here > 0, bell(there + here), 0.0)
    mirrored += jnp.where(here < last, bell(2 * last - there - here), 0.0)
    taps = jnp.arange(-radius, radius + 1, dtype=jnp.float32).reshape(1, 1, -1)
    total = bell(taps).sum(axis=2, keepdims=True)
    return (bell(there - here) + mirrored) / total


def invert(images: jax.Array) -> jax.Array:
    """Returns 255 - image."""
    return 255.0 - images


def solarize(images: jax.Array, thresholds: jax.Array) -> jax.Array:
    """Returns images in whole levels, those at or above their threshold inverted."""
    images = jnp.round(images)
    return jnp.where(images >= per_image.numbers(thresholds), invert(images), images)


def posterize(images: jax.Array, bits: jax.Array) -> jax.Array:
    """Returns images in whole levels of which the upper `bits` are kept, int32 [b]."""
    dropped = per_image.numbers(8 - bits)
    levels = jnp.round(images).astype(jnp.int32)
    return jnp.left_shift(jnp.right_shift(levels, dropped), dropped).astype(jnp.float32)


def autocontrast(images: jax.Array) -> jax.Array:
    """Returns images stretched, channel by channel, from darkest 0 to brightest 255.

    A channel of one level stays as it is.
    """
    images = jnp.round(images)
    low = images.min(axis=(1, 2), keepdims=True)
    spread = images.max(axis=(1, 2), keepdims=True) - low
    stretched = (images - low) * (255.0 / jnp.maximum(spread, 1.0))
    return jnp.where(spread > 0, stretched, images)


def equalize(images: jax.Array) -> jax.Array:
    """Returns images whose levels are spread evenly, channel by channel.

    Whole levels, by Pillow's rule, which torchvision follows; a channel whose
    brightest level leaves fewer than 255 pixels to others stays as it is.
    """
    num_images, height, width, channels = images.shape
    levels = jnp.round(images).astype(jnp.int32)
    levels = levels.reshape(num_images, height * width, channels)
    counts = count_levels(levels)
    brightest = levels.max(axis=1, keepdims=True)
    num_brightest = jnp.take_along_axis(counts, brightest, axis=1)
    step = (height * width - num_brightest) // 255
    below = jnp.cumsum(counts, axis=1) - counts
    table = (below + step // 2) // jnp.maximum(step, 1)
    same = jnp.arange(256).reshape(1, 256, 1)
    table = jnp.where(step > 0, jnp.clip(table, 0, 255), same)
    spread = jnp.take_along_axis(table, levels, axis=1, mode="promise_in_bounds")
    return spread.astype(jnp.float32).reshape(images.shape)


def count_levels(levels: jax.Array) -> jax.Array:
    """Returns int32 [b, 256, c]: how often each level is among levels [b, n, c]."""

    def count(values):
        return jnp.zeros(256, jnp.int32).at[values].add(1, mode="promise_in_bounds")

    return jax.vmap(jax.vmap(count, 1, 1))(levels)


def adjust_sharpness(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Returns the images, their distance from a smoothed copy multiplied.

    0 smooths with [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13 and 1 changes nothing. The
    outermost pixels stay, and so do images less than three pixels high or wide.
    """
    if min(images.shape[1:3]) <= 2:
        return images
    inner = images[:, 1:-1, 1:-1]
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smooth = jnp.round((sums + 4 * inner) / 13)
    change = jnp.pad(smooth - inner, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.clip(images + (1 - per_image.numbers(factors)) * change, 0.0, 255.0)
