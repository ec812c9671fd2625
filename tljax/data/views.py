"""Square views of photographs on their canvas, inside the compiled step.

A batch holds "image" uint8 [b, short, long, c] and, unless every image fills its
canvas, "extent" int32 [b, 2]: the (height, width) of each. An image higher than wide
lies on its side there, so its view is cut from the turned image and turned back.
"""

import jax
import jax.numpy as jnp

from tljax.data.operations import RandomResizedCrop
from tljax.data.pixels import geometry

Batch = dict[str, jax.Array]


def gather(batch: Batch, stored: Batch) -> Batch:
    """Returns the batch whose places in the arrays `stored` are batch["index"].

    Where nothing is stored on the device, a batch is what it is.
    """
    if not stored:
        return batch
    return {name: values[batch["index"]] for name, values in stored.items()}


def random_resized(
    key: jax.Array, batch: Batch, operation: RandomResizedCrop, size: int
) -> jax.Array:
    """Returns random boxes of the images resized to float32 [b, size, size, c]."""
    images, extents = batch["image"], extents_of(batch)
    boxes = geometry.draw_boxes(key, extents, operation.scale, operation.ratio)
    boxes = jnp.where(
        on_side(extents)[:, None], boxes[:, jnp.array([1, 0, 3, 2])], boxes
    )
    return turn_back(geometry.resized_crop(images, boxes, size), extents)


def center(batch: Batch, size: int) -> jax.Array:
    """Returns the middle of each image, uint8 [b, size, size, c]; all of it for 0.

    As torchvision's CenterCrop: offsets are rounded half to even.
    """
    images = batch["image"]
    if not size or images.shape[1:3] == (size, size):
        return images
    return cut(batch, center_offsets(extents_of(batch), size), size)


def center_offsets(extents: jax.Array, size: int) -> jax.Array:
    """Returns the (top, left) [b, 2] of the middle of each image."""
    return jnp.round((extents - size) / 2).astype(jnp.int32)


def corner_offsets(extents: jax.Array, size: int) -> list[jax.Array]:
    """Returns the (top, left) [b, 2] of the four corners, in torchvision's order."""
    last = extents - size
    corners = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]], jnp.int32)
    return [last * corner[None, :] for corner in corners]


def cut(batch: Batch, offsets: jax.Array, size: int) -> jax.Array:
    """Returns the squares of `size` at (top, left) [b, 2] of each image."""
    images, extents = batch["image"], extents_of(batch)
    # On the canvas, left comes first for an image on its side.
    offsets = jnp.where(on_side(extents)[:, None], offsets[:, ::-1], offsets)

    def cut_one(image, offset):
        start = (*offset, jnp.zeros_like(offset[0]))
        return jax.lax.dynamic_slice(image, start, (size, size, image.shape[-1]))

    return turn_back(jax.vmap(cut_one)(images, offsets), extents)


def extents_of(batch: Batch) -> jax.Array:
    """Returns (height, width) [b, 2] of each image."""
    images = batch["image"]
    full = jnp.array(images.shape[1:3], jnp.int32)[None, :]
    return batch.get("extent", jnp.broadcast_to(full, (images.shape[0], 2)))


def on_side(extents: jax.Array) -> jax.Array:
    """Returns whether each image lies on its side, bool [b]."""
    return extents[:, 0] > extents[:, 1]


def turn_back(squares: jax.Array, extents: jax.Array) -> jax.Array:
    """Returns square views [b, size, size, c] of images, those on their side turned."""
    turned = on_side(extents).reshape(-1, 1, 1, 1)
    return jnp.where(turned, squares.swapaxes(1, 2), squares)


def flipped(images: jax.Array) -> jax.Array:
    """Returns images mirrored left to right."""
    return images[:, :, ::-1, :]


def five_crops(batch: Batch, size: int) -> list[jax.Array]:
    """Returns the four corners and the middle, as torchvision's FiveCrop."""
    extents = extents_of(batch)
    offsets = [*corner_offsets(extents, size), center_offsets(extents, size)]
    return [cut(batch, offset, size) for offset in offsets]


def with_flips(views: list[jax.Array]) -> list[jax.Array]:
    """Returns the views and their mirror images."""
    return views + [flipped(view) for view in views]


# What an image is evaluated on; the probabilities of several views are averaged.
EVAL_VIEWS = {
    "center": lambda batch, size: [center(batch, size)],
    "center_flip": lambda batch, size: with_flips([center(batch, size)]),
    "five_crop": five_crops,
    "ten_crop": lambda batch, size: with_flips(five_crops(batch, size)),
}
