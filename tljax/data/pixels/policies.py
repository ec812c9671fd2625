"""RandAugment and TrivialAugment: operations drawn for each image.

The operations, their magnitudes and signs are torchvision's. Each is computed for the
whole batch, and every image keeps the result of its own: all that move pixels are one
affine map, and what is left is little beside the training step of a network.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tljax.data.operations import RandAugment, TrivialAugmentWide
from tljax.data.pixels import color, per_image, warps

NAMES = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
PLACES = {name: place for place, name in enumerate(NAMES)}
# Of these, half of the images get the opposite magnitude.
SIGNED = np.isin(NAMES, NAMES[1:10])


def rand_augment(
    key: jax.Array, images: jax.Array, operation: RandAugment
) -> jax.Array:
    """Returns images float32 [b, h, w, c] in 0..255 after `num_ops` operations each.

    Cubuk et al. 2019 (arXiv 1909.13719). An operation may be drawn twice.
    """
    table = magnitudes(operation, *images.shape[1:3])[:, operation.magnitude]
    for step in range(operation.num_ops):
        choices_key, signs_key = jax.random.split(jax.random.fold_in(key, step))
        choices = draw_choices(choices_key, len(images))
        signed = draw_signs(signs_key, choices) * jnp.asarray(table)[choices]
        images = perform(images, choices, signed)
    return images


def trivial_augment(
    key: jax.Array, images: jax.Array, operation: TrivialAugmentWide
) -> jax.Array:
    """Returns images float32 [b, h, w, c] in 0..255 after one operation each.

    Müller and Hutter 2021 (arXiv 2103.10158), the wide space.
    """
    table = magnitudes(operation, *images.shape[1:3])
    choices_key, signs_key, bins_key = jax.random.split(key, 3)
    choices = draw_choices(choices_key, len(images))
    bins = jax.random.randint(bins_key, (len(images),), 0, operation.num_bins)
    signed = draw_signs(signs_key, choices) * jnp.asarray(table)[choices, bins]
    return perform(images, choices, signed)


def draw_choices(key: jax.Array, num_images: int) -> jax.Array:
    """Returns places in NAMES, int32 [b]."""
    return jax.random.randint(key, (num_images,), 0, len(NAMES))


def draw_signs(key: jax.Array, choices: jax.Array) -> jax.Array:
    """Returns 1 or -1 for each image, float32 [b]; 1 for what has no sign."""
    negative = jnp.asarray(SIGNED)[choices] & per_image.chance(key, 0.5, len(choices))
    return jnp.where(negative, -1.0, 1.0)


def magnitudes(
    operation: RandAugment | TrivialAugmentWide, height: int, width: int
) -> np.ndarray:
    """Returns what each operation gets for each bin, float32 [operations, bins].

    Shears are slopes, translations whole pixels, rotations degrees; what is blended
    has a factor less 1; then the bits that posterize keeps and the level that solarize
    begins at. Operations without a magnitude have 0.
    """
    num_bins = operation.num_bins
    wide = isinstance(operation, TrivialAugmentWide)
    zero = steps(0.0, 0.0, num_bins)
    shear = steps(0.0, 0.99 if wide else 0.3, num_bins)
    across, down = (
        np.trunc(steps(0.0, 32.0 if wide else 150.0 / 331.0 * extent, num_bins))
        for extent in (width, height)
    )
    factor = steps(0.0, 0.99 if wide else 0.9, num_bins)
    dropped = np.arange(num_bins) / ((num_bins - 1) / (6 if wide else 4))
    table = dict.fromkeys(NAMES, zero) | {
        "shear_x": shear,
        "shear_y": shear,
        "translate_x": across,
        "translate_y": down,
        "rotate": steps(0.0, 135.0 if wide else 30.0, num_bins),
        "brightness": factor,
        "saturation": factor,
        "contrast": factor,
        "sharpness": factor,
        "posterize": np.round(8 - dropped),
        "solarize": 255.0 * steps(1.0, 0.0, num_bins).astype(np.float64),
    }
    return np.stack([table[name] for name in NAMES]).astype(np.float32)


def steps(first: float, last: float, count: int) -> np.ndarray:
    """Returns `count` even steps, float32, with the bits of `torch.linspace`.

    It counts from the nearer end, and rounds once; whole pixels and levels hang on the
    last bit: the middle of 0 .. 32 is a little less than 16, and moves 15 pixels.
    """
    step = np.float64(np.float32(np.float32(last) - np.float32(first)) / (count - 1))
    step, places = np.float64(np.float32(step)), np.arange(count)
    upward = np.float32(first) + step * places
    downward = np.float32(last) - step * places[::-1]
    return np.where(places < count // 2, upward, downward).astype(np.float32)


def perform(images: jax.Array, choices: jax.Array, amounts: jax.Array) -> jax.Array:
    """Returns images float32 [b, h, w, c] in 0..255, each after its own operation.

    `choices` are places in NAMES, int32 [b], and `amounts` what the operation gets,
    signed, float32 [b].
    """
    height, width, channels = images.shape[1:]
    matrices = affine_matrices(choices, amounts, height, width)
    black = jnp.zeros(channels, jnp.float32)
    moved = warps.affine(images, matrices, "nearest", black)
    for name, function in COLORS.items():
        chosen = choices == PLACES[name]
        moved = per_image.select(chosen, function(images, amounts), moved)
    return moved


def affine_matrices(
    choices: jax.Array, amounts: jax.Array, height: int, width: int
) -> jax.Array:
    """Returns a matrix for each image, [b, 2, 3]; what moves no pixel has identity.

    Shears leave the first row or column where it is, not the middle one.
    """

    def amount(name):
        return jnp.where(choices == PLACES[name], amounts, 0.0)

    shear_x, shear_y = amount("shear_x"), amount("shear_y")
    turns = warps.rotations(amount("rotate")).reshape(-1, 6)
    moves = jnp.stack(
        [
            jnp.zeros_like(amounts),
            shear_x,
            shear_x * (height / 2) - amount("translate_x"),
            shear_y,
            jnp.zeros_like(amounts),
            shear_y * (width / 2) - amount("translate_y"),
        ],
        axis=1,
    )
    return (turns + moves).reshape(-1, 2, 3)


# Each is called with amounts that are meant for others too.
COLORS = {
    "brightness": lambda x, amounts: color.adjust_brightness(x, 1 + amounts),
    "saturation": lambda x, amounts: color.adjust_saturation(x, 1 + amounts),
    "contrast": lambda x, amounts: color.adjust_contrast(x, 1 + amounts),
    "sharpness": lambda x, amounts: color.adjust_sharpness(x, 1 + amounts),
    "posterize": lambda x, amounts: color.posterize(
        x, jnp.clip(amounts, 0, 8).astype(jnp.int32)
    ),
    "solarize": color.solarize,
    "autocontrast": lambda x, amounts: color.autocontrast(x),
    "equalize": lambda x, amounts: color.equalize(x),
}
