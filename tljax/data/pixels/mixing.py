"""Mixup and CutMix: each image gets a part of the one before it in the batch."""

import jax
import jax.numpy as jnp

from tljax.data.operations import CutMix, Mixing, Mixup
from tljax.data.pixels import per_image
from tljax.data.pixels.geometry import box_mask


def mix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    operations: tuple[Mixing, ...],
) -> tuple[jax.Array, jax.Array]:
    """Returns float images [b, h, w, c] and targets [b, k] with parts of others.

    Of two operations, one is drawn for the whole batch, with equal chance.
    """
    draw, own = jax.random.split(key)
    shape = images.shape[:3]
    shares, kept = SHARES[type(operations[0])](own, shape, operations[0])
    if len(operations) == 2:
        others = SHARES[type(operations[1])](own, shape, operations[1])
        first = jax.random.bernoulli(draw)
        shares, kept = (
            jnp.where(first, one, other)
            for one, other in zip((shares, kept), others, strict=True)
        )
    kept = kept.astype(targets.dtype).reshape(-1, 1)
    return (
        shares * images + (1 - shares) * before(images),
        kept * targets + (1 - kept) * before(targets),
    )


def before(values: jax.Array) -> jax.Array:
    """Returns values [b, ...] of the example before each, the last for the first."""
    return jnp.roll(values, 1, axis=0)


def mixup_shares(
    key: jax.Array, shape: tuple[int, int, int], operation: Mixup
) -> tuple[jax.Array, jax.Array]:
    """Returns the share that stays of each pixel [b, h, w, 1], and of each target [b].

    Zhang et al. 2017 (arXiv 1710.09412): Beta(alpha, alpha), here drawn for each
    image where torchvision draws one for the batch. The larger of a share and its rest
    is that of the image itself: else some would be shown twice and some not at all.
    """
    num_images, height, width = shape
    share, chance = jax.random.split(key)
    kept = draw_shares(share, operation.alpha, num_images)
    kept = jnp.maximum(kept, 1 - kept)
    kept = jnp.where(per_image.chance(chance, operation.p, num_images), kept, 1.0)
    pixels = jnp.broadcast_to(per_image.numbers(kept), (num_images, height, width, 1))
    return pixels, kept


def cutmix_shares(
    key: jax.Array, shape: tuple[int, int, int], operation: CutMix
) -> tuple[jax.Array, jax.Array]:
    """Returns the share that stays of each pixel [b, h, w, 1], and of each target [b].

    Yun et al. 2019 (arXiv 1905.04899), with torchvision's boxes: of the image's shape
    and about any pixel, so that they may be cut off at the border. A target's share is
    that of the area which is left.
    """
    num_images, height, width = shape
    share, chance, center = jax.random.split(key, 3)
    extents = jnp.full((num_images, 2), jnp.asarray([[height, width]], jnp.float32))
    kept = draw_shares(share, operation.alpha, num_images).reshape(-1, 1)
    halves = jnp.floor(0.5 * jnp.sqrt(1 - kept) * extents)
    centers = per_image.whole(center, extents)
    start = jnp.maximum(centers - halves, 0)
    sides = jnp.minimum(centers + halves, extents) - start
    chosen = per_image.chance(chance, operation.p, num_images).reshape(-1, 1)
    sides = jnp.where(chosen, sides, 0.0)
    boxes = jnp.concatenate([start, sides], axis=1)
    pixels = 1.0 - box_mask(boxes, height, width).astype(jnp.float32)
    return pixels, 1.0 - sides.prod(axis=1) / (height * width)


def draw_shares(key: jax.Array, alpha: float, num_images: int) -> jax.Array:
    """Returns float32 [b] of Beta(alpha, alpha)."""
    return jax.random.beta(key, alpha, alpha, (num_images,), jnp.float32)


SHARES = {Mixup: mixup_shares, CutMix: cutmix_shares}
