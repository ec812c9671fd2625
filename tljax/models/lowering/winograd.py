"""The forms of Winograd: 3x3 kernels at stride 1 with 16 products for 36.

Lavin and Gray 2015 (arXiv 1509.09308), F(2x2, 3x3). Images are cut into tiles of 4x4
that overlap by 2, of which each gives 2x2 pixels of output. Transformed along both
axes, each of a tile's 16 places is a product of its own over channels, so that a
convolution is 16 products of matrices. Rounding errors are a few times those of the
other forms. Odd extents cost as much as the next even ones.

Tiles, transformed, have four times the values of the images, and so are made of parts
of a batch.
"""

import jax
import jax.numpy as jnp
from jax import lax

from tljax.models.lowering import parts
from tljax.models.lowering.forms import Window


def fits(window: Window) -> bool:
    """Returns whether there is a form of Winograd."""
    return window.size == (3, 3) and window.stride == 1 and window.groups == 1


def forward_winograd(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Returns the convolution [b, oh, ow, cout]."""
    return convolved(images, of_kernel(widened(kernel)), 2, window)


def data_winograd(
    outputs: jax.Array, kernel: jax.Array, window: Window, shape
) -> jax.Array:
    """Returns the gradient [b, h, w, cin] = `shape` of the images.

    That is a convolution of the outputs by the kernel turned round.
    """
    turned = of_kernel(widened(kernel[::-1, ::-1]))
    sides = tuple((2 - low, 2 - high) for low, high in window.padding)
    return convolved(outputs, turned, 3, window._replace(padding=sides))


def convolved(images, transformed, axis: int, window: Window) -> jax.Array:
    """Returns the convolution by a transformed kernel [4, 4, cin, cout].

    `axis` of the kernel is summed over: 2 forward, 3 for the gradient of the images.
    """
    extents = window.extents(images.shape)

    def convolve(images: jax.Array) -> jax.Array:
        tiles = of_images(widened(images), window)
        places = per_place(tiles, transformed, contracted=(2, axis - 1))
        return to_outputs(places.reshape(4, 4, *tiles.shape[2:5], -1), extents)

    size = part_of(images, extents)
    return parts.by_parts(convolve, images, size).astype(images.dtype)


def weights_winograd(
    images: jax.Array, outputs: jax.Array, window: Window, shape
) -> jax.Array:
    """Returns the gradient [3, 3, cin, cout] = `shape` of the kernel."""

    def contribute(images: jax.Array, outputs: jax.Array) -> jax.Array:
        tiles = of_images(widened(images), window)
        gradients = of_outputs(widened(outputs))
        return per_place(tiles, gradients, contracted=(1, 1))

    size = part_of(images, window.extents(images.shape))
    places = parts.summed(contribute, images, outputs, size)
    return to_kernel(places.reshape(4, 4, *shape[2:])).astype(images.dtype)


def part_of(images: jax.Array, extents: tuple[int, int]) -> int:
    """Returns how many images are transformed at a time."""
    tiles = -(-extents[0] // 2) * -(-extents[1] // 2)
    return parts.size_of(len(images), 16 * tiles * images.shape[-1])


def per_place(a: jax.Array, b: jax.Array, contracted: tuple[int, int]) -> jax.Array:
    """Returns a product of matrices for each of the 16 places of tiles.

    Of a and b [4, 4, ..., c], as [16, n, c]; `contracted` are the axes of these.
    """
    a, b = (side.reshape(16, -1, side.shape[-1]) for side in (a, b))
    (left, right) = contracted
    return lax.dot_general(a, b, (((left,), (right,)), ((0,), (0,))))


# The transforms, each along one axis and then along the other.


def of_images(images: jax.Array, window: Window) -> jax.Array:
    """Returns B^T d B [4, 4, b, th, tw, c] of the tiles d of images [b, h, w, c]."""
    padding = [
        (low, high + extent % 2, 0)
        for (low, high), extent in zip(
            window.padding, window.extents(images.shape), strict=True
        )
    ]
    zero = jnp.zeros((), images.dtype)
    padded = lax.pad(images, zero, [(0, 0, 0), *padding, (0, 0, 0)])

    def along(x: jax.Array, axis: int) -> list[jax.Array]:
        last = x.shape[axis] - 4
        a, b, c, d = (lax.slice_in_dim(x, n, n + last + 1, 2, axis) for n in range(4))
        return [a - c, b + c, c - b, b - d]

    return jnp.stack([jnp.stack(along(row, 2)) for row in along(padded, 1)])


def of_kernel(kernel: jax.Array) -> jax.Array:
    """Returns G g G^T [4, 4, cin, cout] of a kernel g [3, 3, cin, cout]."""

    def along(x: jax.Array, axis: int) -> jax.Array:
        a, b, c = (lax.index_in_dim(x, n, axis, keepdims=False) for n in range(3))
        return jnp.stack([a, (a + b + c) / 2, (a - b + c) / 2, c], axis)

    return along(along(kernel, 0), 1)


def of_outputs(outputs: jax.Array) -> jax.Array:
    """Returns A y A^T [4, 4, b, th, tw, c] of 2x2 pixels y of outputs [b, h, w, c]."""
    sides = [(0, 0, 0), *((0, extent % 2, 0) for extent in outputs.shape[1:3])]
    padded = lax.pad(outputs, jnp.zeros((), outputs.dtype), [*sides, (0, 0, 0)])

    def along(x: jax.Array, axis: int) -> list[jax.Array]:
        a, b = (lax.slice_in_dim(x, n, None, 2, axis) for n in range(2))
        return [a, a + b, a - b, -b]

    return jnp.stack([jnp.stack(along(row, 2)) for row in along(padded, 1)])


def to_outputs(places: jax.Array, extents: tuple[int, int]) -> jax.Array:
    """Returns A^T m A, put together as [b, oh, ow, c], of m [4, 4, b, th, tw, c]."""

    def along(m: jax.Array) -> list[jax.Array]:
        return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]

    rows = [jnp.stack(along(row), axis=3) for row in along(places)]
    b, height, width, _, channels = rows[0].shape
    outputs = jnp.stack(rows, axis=2)
    outputs = outputs.reshape(b, 2 * height, 2 * width, channels)
    return outputs[:, : extents[0], : extents[1]]


def to_kernel(places: jax.Array) -> jax.Array:
    """Returns G^T m G [3, 3, cin, cout] of m [4, 4, cin, cout]."""

    def along(x: jax.Array, axis: int) -> jax.Array:
        a, b, c, d = (lax.index_in_dim(x, n, axis, keepdims=False) for n in range(4))
        return jnp.stack([a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d], axis)

    return along(along(places, 0), 1)


def widened(x: jax.Array) -> jax.Array:
    """Returns x in float32 at least: tiles in bfloat16 would be rounded twice."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
