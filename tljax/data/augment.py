"""Operations on batches of images inside the compiled step."""

import jax
import jax.numpy as jnp

from tljax.data.operations import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Mixing,
    Operation,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Rotation,
    TrivialAugmentWide,
    VerticalFlip,
)
from tljax.data.pixels import color, geometry, mixing, per_image, policies, warps


def normalize(
    images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
    """Returns (images / 255 - mean) / std of images [b, h, w, c] in 0..255.

    `mean` and `std` hold one number for all channels or one for each. The result is
    float32, float64 under `jax_enable_x64`; XLA multiplies by reciprocals, which moves
    the last bit or two.
    """
    num_channels = images.shape[-1]
    mean = jnp.broadcast_to(jnp.asarray(mean, float), (num_channels,))
    std = jnp.broadcast_to(jnp.asarray(std, float), (num_channels,))
    shape = (1, 1, 1, num_channels)
    scaled = images.astype(float) / 255.0
    return (scaled - mean.reshape(shape)) / std.reshape(shape)


def as_bytes(images: jax.Array) -> jax.Array:
    """Returns images in [0, 1] as uint8."""
    return jnp.round(255 * jnp.clip(images, 0, 1)).astype(jnp.uint8)


def apply(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    operations: tuple[Operation, ...],
    fill: tuple[float, ...],
) -> tuple[jax.Array, jax.Array]:
    """Returns images float32 [b, h, w, c] in 0..255 and targets [b, k], augmented.

    `images` are uint8 or float in 0..255, `targets` float; `fill` holds the mean grey
    level of all channels or of each. Operations follow one another as listed, each
    with a key of its place; Mixup and CutMix come last. RandomResizedCrop has been
    done before, where images still had sizes of their own.
    """
    images = images.astype(jnp.float32)
    fill = jnp.broadcast_to(jnp.asarray(fill, jnp.float32), images.shape[-1:])
    mixings = tuple(each for each in operations if isinstance(each, Mixing))
    for place, operation in enumerate(operations):
        if not isinstance(operation, RandomResizedCrop | Mixing):
            place_key = jax.random.fold_in(key, place)
            function = FUNCTIONS[type(operation)]
            images = function(place_key, images, operation, fill)
    if mixings:
        place_key = jax.random.fold_in(key, len(operations))
        images, targets = mixing.mix(place_key, images, targets, mixings)
    return images, targets


def jitter(key: jax.Array, images: jax.Array, operation: ColorJitter) -> jax.Array:
    """Returns images [b, h, w, c] after brightness, contrast, saturation and hue.

    Factors are drawn for each image; the order, one of 24 as torchvision's, once for
    the batch.
    """
    num_images = len(images)
    order_key, *keys = jax.random.split(key, 5)
    adjustments = []
    for name, function in ADJUSTMENTS.items():
        amount = getattr(operation, name)
        if amount > 0:
            low, high = max(1 - amount, 0), 1 + amount
            if name == "hue":
                low, high = -amount, amount
            drawn = per_image.uniform(keys.pop(), num_images, low, high)
            adjustments.append(lambda x, f=function, drawn=drawn: f(x, drawn))
    if not adjustments:
        return images
    order = jax.random.permutation(order_key, len(adjustments))
    # A loop of branches: all 24 orders written out would take minutes to compile.
    return jax.lax.fori_loop(
        0,
        len(adjustments),
        lambda step, x: jax.lax.switch(order[step], adjustments, x),
        images,
    )


def blur(key: jax.Array, images: jax.Array, operation: GaussianBlur) -> jax.Array:
    """Returns images [b, h, w, c], each blurred by its own width, with `p`."""
    width_key, chance_key = jax.random.split(key)
    sigmas = per_image.uniform(width_key, len(images), *operation.sigma)
    blurred = color.gaussian_blur(images, operation.kernel_size, sigmas)
    chosen = per_image.chance(chance_key, operation.p, len(images))
    return per_image.select(chosen, blurred, images)


def grayscale(key: jax.Array, images: jax.Array, operation: Grayscale) -> jax.Array:
    """Returns images [b, h, w, c], without colours with `p`."""
    chosen = per_image.chance(key, operation.p, len(images))
    return per_image.select(chosen, color.grayscale(images), images)


ADJUSTMENTS = {
    "brightness": color.adjust_brightness,
    "contrast": color.adjust_contrast,
    "saturation": color.adjust_saturation,
    "hue": color.adjust_hue,
}
FUNCTIONS = {
    RandomCrop: lambda key, x, op, fill: geometry.pad_and_crop(
        key, x, op.padding, op.mode
    ),
    HorizontalFlip: lambda key, x, op, fill: geometry.flip(key, x, op.p, axis=2),
    VerticalFlip: lambda key, x, op, fill: geometry.flip(key, x, op.p, axis=1),
    Rotation: lambda key, x, op, fill: warps.rotate(key, x, op),
    ColorJitter: lambda key, x, op, fill: jitter(key, x, op),
    Grayscale: lambda key, x, op, fill: grayscale(key, x, op),
    GaussianBlur: lambda key, x, op, fill: blur(key, x, op),
    RandAugment: lambda key, x, op, fill: policies.rand_augment(key, x, op),
    TrivialAugmentWide: lambda key, x, op, fill: policies.trivial_augment(key, x, op),
    RandomErasing: geometry.erase,
}
