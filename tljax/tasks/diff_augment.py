"""Augmentation that the generator is trained through.

Zhao et al. 2020 (arXiv 2006.10738): the discriminator sees real and generated images
through the same random changes, and so cannot learn the real ones by heart; what it
says is differentiated through them. Amounts are the paper's, of images in [-1, 1]; how
much that is of normalised images, `unit_of` tells.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from tljax.data.pixels import geometry, per_image
from tljax.data.transforms import Transform


def augment(
    key: jax.Array, images: jax.Array, policies: Iterable[str], unit: np.ndarray
) -> jax.Array:
    """Returns images [b, h, w, c], each changed by draws of its own.

    Policies follow one another as listed. `unit` [c] is 1 where images are in [-1, 1].
    """
    for place, name in enumerate(policies):
        images = POLICIES[name](jax.random.fold_in(key, place), images, unit)
    return images


def unit_of(transform: Transform) -> np.ndarray:
    """Returns how much 1 in [-1, 1] is of normalised images, [c] or [1]."""
    return 0.5 / np.array(transform.std, np.float32)


def color(key: jax.Array, images: jax.Array, unit: np.ndarray) -> jax.Array:
    """Returns images with another brightness, saturation and contrast.

    Brightness moves by up to 0.5 units; distances from the grey of each pixel are
    multiplied by 0 to 2, those from the mean of each image by 0.5 to 1.5.
    """
    keys = jax.random.split(key, 3)
    draws = (per_image.uniform(key, len(images)) for key in keys)
    brightness, saturation, contrast = map(per_image.numbers, draws)
    images = images + (brightness - 0.5) * unit.reshape(1, 1, 1, -1)
    images = stretch(images, 2 * saturation, axes=(3,))
    return stretch(images, contrast + 0.5, axes=(1, 2, 3))


def stretch(images: jax.Array, factors: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Returns images with the distances from their mean over `axes` multiplied."""
    mean = jnp.mean(images, axis=axes, keepdims=True)
    return mean + factors * (images - mean)


def translation(key: jax.Array, images: jax.Array, unit: np.ndarray) -> jax.Array:
    """Returns images moved by up to an eighth of their size; 0 comes into view."""
    padding = int(images.shape[1] / 8 + 0.5)
    return geometry.pad_and_crop(key, images, padding, "constant")


def cutout(key: jax.Array, images: jax.Array, unit: np.ndarray) -> jax.Array:
    """Returns images with a square of half their size 0, wherever its middle falls."""
    height, width = images.shape[1:3]
    keys = jax.random.split(key)
    rows, columns = (
        covered(key, len(images), extent)
        for key, extent in zip(keys, (height, width), strict=True)
    )
    hidden = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(hidden, 0, images)


def covered(key: jax.Array, num_images: int, extent: int) -> jax.Array:
    """Returns bool [b, extent], true in a stretch of half the extent of each.

    Its middle is anywhere; what would lie outside is cut off.
    """
    length = int(extent / 2 + 0.5)
    middles = jax.random.randint(key, (num_images, 1), 0, extent + 1 - length % 2)
    places = jnp.arange(extent)[None, :] - (middles - length // 2)
    return (places >= 0) & (places < length)


POLICIES = {"color": color, "translation": translation, "cutout": cutout}
