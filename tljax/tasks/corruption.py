"""What an autoencoder is not shown: noise on an image, and hidden patches."""

import jax
import jax.numpy as jnp

from tljax.data.transforms import Transform
from tljax.tasks.reconstruction import from_pixels, to_pixels


def gaussian(key: jax.Array, pixels: jax.Array, level: float) -> jax.Array:
    """Returns pixels plus normal noise of the deviation `level`."""
    return pixels + level * jax.random.normal(key, pixels.shape, pixels.dtype)


def masking(key: jax.Array, pixels: jax.Array, level: float) -> jax.Array:
    """Returns pixels, each black with the probability `level`, in all channels."""
    dropped = jax.random.bernoulli(key, level, (*pixels.shape[:3], 1))
    return jnp.where(dropped, 0.0, pixels)


def salt_and_pepper(key: jax.Array, pixels: jax.Array, level: float) -> jax.Array:
    """Returns pixels, each black or white with the probability `level` / 2 each."""
    drawn = jax.random.uniform(key, (*pixels.shape[:3], 1))
    noisy = jnp.where(drawn < level / 2, 0.0, pixels)
    return jnp.where(drawn > 1 - level / 2, 1.0, noisy)


# Each takes a key, images [b, h, w, c] with levels in [0, 1], and the noise level:
# Vincent et al. 2010 (JMLR 11), stacked denoising autoencoders.
NOISES = {
    "none": lambda key, pixels, level: pixels,
    "gaussian": gaussian,
    "masking": masking,
    "salt_and_pepper": salt_and_pepper,
}


def obscure(
    key: jax.Array, images: jax.Array, transform: Transform, config
) -> tuple[jax.Array, jax.Array | None]:
    """Returns normalised images with their noise, and what is visible, None for all."""
    noise_key, mask_key = jax.random.split(key)
    settings = config.autoencoder
    seen, visible = images, None
    if settings.noise != "none":
        pixels = to_pixels(images, transform)
        noisy = NOISES[settings.noise](noise_key, pixels, settings.noise_level)
        seen = from_pixels(noisy, transform)
    if settings.mask_ratio:
        visible = hide(mask_key, images.shape, config)
    return seen, visible


def hide(key: jax.Array, shape: tuple[int, ...], config) -> jax.Array:
    """Returns what is visible of images of a shape [b, h, w, c]: [b, h, w, 1]."""
    size = patch_size(config, shape[1:])
    ratio = config.autoencoder.mask_ratio
    return draw_visible(key, shape[0], shape[1:], size, ratio)


def inputs(seen: jax.Array, visible: jax.Array | None) -> tuple[jax.Array, ...]:
    """Returns the arguments of a model; one that is not masked takes but images."""
    return (seen,) if visible is None else (seen, visible)


def draw_visible(
    key: jax.Array,
    num_images: int,
    image_shape: tuple[int, int, int],
    size: int,
    mask_ratio: float,
) -> jax.Array:
    """Returns [num_images, h, w, 1], 0 in hidden patches and 1 elsewhere.

    In each image the same number of patches is hidden, the share `mask_ratio` of them,
    at least one and never all. A patch has `size` pixels a side.
    """
    rows, columns = patch_grid(image_shape, size)
    total = rows * columns
    hidden = min(max(round(mask_ratio * total), 1), total - 1)
    drawn = jax.random.uniform(key, (num_images, total))
    ranks = jnp.argsort(jnp.argsort(drawn, axis=1), axis=1)
    visible = (ranks >= hidden).astype(float).reshape(num_images, rows, columns, 1)
    for axis in (1, 2):
        visible = jnp.repeat(visible, size, axis=axis)
    return visible[:, : image_shape[0], : image_shape[1]]


def patch_grid(image_shape: tuple[int, int, int], patch_size: int) -> tuple[int, int]:
    """Returns the rows and columns of patches of an image; those at its end are cut."""
    height, width, _ = image_shape
    return -(-height // patch_size), -(-width // patch_size)


def patch_size(config, image_shape: tuple[int, int, int]) -> int:
    """Returns the pixels of a side of a patch: an eighth of the image's by default."""
    return config.autoencoder.patch_size or max(image_shape[0] // 8, 1)
