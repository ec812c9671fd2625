"""The forms of Winograd: 3x3 kernels at stride 1 with fewer products.

Lavin and Gray 2015 (arXiv 1509.09308). Images are cut into tiles that overlap by 2, of
which each gives 2x2 or 4x4 pixels of output. Transformed along both axes, each of a
tile's places is a product of its own over channels: 16 products for 36, or 36 for 144.
Beside a sum of as many terms, rounding errors are as large with 2x2 pixels, and four
times as large with 4x4. Extents are filled up to whole tiles.

Transformed tiles have 4 or 2.25 times the values of the images, and so are made of
parts of a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.polynomial import polynomial

from tljax.models.lowering import parts
from tljax.models.lowering.forms import Window, widened


class Tile(NamedTuple):
    """The transforms of tiles along an axis, in Lavin's names.

    Attributes:
      pixels: of output, m; of images there are n = m + 2.
      images: B^T [n, n].
      kernel: G [n, 3].
      outputs: A^T [m, n].
    """

    pixels: int
    images: np.ndarray
    kernel: np.ndarray
    outputs: np.ndarray

    @property
    def side(self) -> int:
        """The pixels of images along an axis."""
        return self.pixels + 2


def create_tile(points: Sequence[float]) -> Tile:
    """Returns the tile whose polynomials are evaluated at `points` and at infinity.

    After Toom and Cook: a kernel and a row of pixels are polynomials, and the values of
    their product at n points say what its coefficients are.
    """
    pixels, side = len(points) - 1, len(points) + 1
    images, kernel = np.zeros((side, side)), np.zeros((side, 3))
    outputs = np.zeros((pixels, side))
    for n, point in enumerate(points):
        others = np.delete(points, n)
        images[n, :-1] = polynomial.polyfromroots(others)
        kernel[n] = point ** np.arange(3.0) / np.prod(point - others)
        outputs[:, n] = point ** np.arange(pixels)
    images[-1] = polynomial.polyfromroots(points)
    kernel[-1, -1] = outputs[-1, -1] = 1
    images[np.abs(images) < 1e-12] = 0  # What roots of both signs cancel.
    return Tile(pixels, images, kernel, outputs)


SMALL = create_tile((0, 1, -1))
# Of the points tried, those with the least error; with 1 and 2 it is twice as large.
LARGE = create_tile((0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)))


# Sums over the rows of both sides turn the left one, which takes the library long where
# it has up to so many columns: turned before, products of 512 rows and 64 columns are
# 1.4 times as fast, and those of 128 no faster (2 cores of an AMD EPYC with AVX-512).
# But what is turned has to be in memory. jax 0.10.2 turns it while it computes it,
# whatever barrier stands between: ResNets train 1.01 to 1.10 times as fast without,
# with 0.12 up to 1.04 times as fast with it (an Intel Xeon of the fourth generation).
TURNED = 64 if jax.__version_info__ >= (0, 11) else 0


def fits(window: Window) -> bool:
    """Returns whether there is a form of Winograd."""
    return window.size == (3, 3) and window.stride == 1 and window.groups == 1


def forward_winograd2(images: jax.Array, kernel: jax.Array, window: Window):
    """Returns the convolution [b, oh, ow, cout], by 2x2 pixels."""
    return forward(SMALL, images, kernel, window)


def forward_winograd4(images: jax.Array, kernel: jax.Array, window: Window):
    """Returns the convolution [b, oh, ow, cout], by 4x4 pixels."""
    return forward(LARGE, images, kernel, window)


def data_winograd2(outputs: jax.Array, kernel: jax.Array, window: Window, shape):
    """Returns the gradient [b, h, w, cin] = `shape` of the images, by 2x2 pixels."""
    return data(SMALL, outputs, kernel, window)


def data_winograd4(outputs: jax.Array, kernel: jax.Array, window: Window, shape):
    """Returns the gradient [b, h, w, cin] = `shape` of the images, by 4x4 pixels."""
    return data(LARGE, outputs, kernel, window)


def weights_winograd2(images: jax.Array, outputs: jax.Array, window: Window, shape):
    """Returns the gradient [3, 3, cin, cout] = `shape` of the kernel, by 2x2 pixels."""
    return weights(SMALL, images, outputs, window)


def weights_winograd4(images: jax.Array, outputs: jax.Array, window: Window, shape):
    """Returns the gradient [3, 3, cin, cout] = `shape` of the kernel, by 4x4 pixels."""
    return weights(LARGE, images, outputs, window)


def forward(tile: Tile, images: jax.Array, kernel: jax.Array, window: Window):
    """Returns the convolution [b, oh, ow, cout]."""
    return convolved(tile, images, of_kernel(tile, widened(kernel)), 2, window)


def data(tile: Tile, outputs: jax.Array, kernel: jax.Array, window: Window):
    """Returns the gradient [b, h, w, cin] of the images.

    That is a convolution of the outputs by the kernel turned round.
    """
    turned = of_kernel(tile, widened(kernel[::-1, ::-1]))
    sides = tuple((2 - low, 2 - high) for low, high in window.padding)
    return convolved(tile, outputs, turned, 3, window._replace(padding=sides))


def convolved(tile: Tile, images, transformed, axis: int, window: Window) -> jax.Array:
    """Returns the convolution by a transformed kernel [n, n, cin, cout].

    `axis` of the kernel is summed over: 2 forward, 3 for the gradient of the images.
    """
    extents = window.extents(images.shape)

    def convolve(images: jax.Array) -> jax.Array:
        tiles = of_images(tile, widened(images), window)
        places = per_place(tiles, transformed, contracted=(2, axis - 1))
        return to_outputs(tile, places.reshape(*tiles.shape[:-1], -1), extents)

    values = values_of(tile, images, extents)
    size = parts.size_of(len(images), values, parts.AT_ONCE)
    return parts.by_parts(convolve, images, size).astype(images.dtype)


def weights(tile: Tile, images: jax.Array, outputs: jax.Array, window: Window):
    """Returns the gradient [3, 3, cin, cout] of the kernel."""

    def contribute(images: jax.Array, outputs: jax.Array) -> jax.Array:
        tiles = of_images(tile, widened(images), window)
        gradients = of_outputs(tile, widened(outputs))
        return per_place(tiles, gradients, contracted=(1, 1))

    values = values_of(tile, images, window.extents(images.shape))
    kept = tile.side**2 * images.shape[-1] * outputs.shape[-1]
    # To a sum that is larger than the tiles, fewer parts are added.
    size = parts.size_of(len(images), values, max(parts.AT_ONCE, kept))
    places = parts.summed(contribute, images, outputs, size)
    places = places.reshape(tile.side, tile.side, *places.shape[1:])
    return to_kernel(tile, places).astype(images.dtype)


def values_of(tile: Tile, images: jax.Array, extents: tuple[int, int]) -> int:
    """Returns how many values the tiles of an image have."""
    height, width = (-(-extent // tile.pixels) for extent in extents)
    return height * width * tile.side**2 * images.shape[-1]


def per_place(a: jax.Array, b: jax.Array, contracted: tuple[int, int]) -> jax.Array:
    """Returns a product of matrices for each place of tiles.

    Of a and b [n, n, ..., c], as [n * n, ..., c]; `contracted` are the axes of these.
    """
    a, b = (side.reshape(len(side) ** 2, -1, side.shape[-1]) for side in (a, b))
    left, right = contracted
    if left == 1 and a.shape[-1] <= TURNED:
        turned = lax.optimization_barrier(a).swapaxes(1, 2)
        a, left = lax.optimization_barrier(turned), 2
    return lax.dot_general(a, b, (((left,), (right,)), ((0,), (0,))))


# The transforms, along rows and then along columns, whose places stand first. What is
# computed along rows is kept: in one loop with the columns it is computed again and
# again.


def of_images(tile: Tile, images: jax.Array, window: Window) -> jax.Array:
    """Returns B^T d B [n, n, b, th, tw, c] of the tiles d of images [b, h, w, c]."""
    padding = [
        (low, high + -extent % tile.pixels, 0)
        for (low, high), extent in zip(
            window.padding, window.extents(images.shape), strict=True
        )
    ]
    zero = jnp.zeros((), images.dtype)
    padded = lax.pad(images, zero, [(0, 0, 0), *padding, (0, 0, 0)])

    def along(x: jax.Array, axis: int) -> jax.Array:
        end = x.shape[axis] - tile.side + 1
        pixels = [
            lax.slice_in_dim(x, n, n + end, tile.pixels, axis) for n in range(tile.side)
        ]
        return mixed(tile.images, pixels)

    return along(lax.optimization_barrier(along(padded, 1)), 3)


def of_kernel(tile: Tile, kernel: jax.Array) -> jax.Array:
    """Returns G g G^T [n, n, cin, cout] of a kernel g [3, 3, cin, cout]."""
    return along_both(tile.kernel, kernel)


def of_outputs(tile: Tile, outputs: jax.Array) -> jax.Array:
    """Returns A y A^T [n, n, b, th, tw, c] of the pixels y of outputs [b, h, w, c]."""
    more = [(0, -extent % tile.pixels, 0) for extent in outputs.shape[1:3]]
    zero = jnp.zeros((), outputs.dtype)
    padded = lax.pad(outputs, zero, [(0, 0, 0), *more, (0, 0, 0)])

    def along(x: jax.Array, axis: int) -> jax.Array:
        pixels = [
            lax.slice_in_dim(x, n, None, tile.pixels, axis) for n in range(tile.pixels)
        ]
        return mixed(tile.outputs.T, pixels)

    return along(lax.optimization_barrier(along(padded, 1)), 3)


def to_outputs(tile: Tile, places: jax.Array, extents: tuple[int, int]) -> jax.Array:
    """Returns A^T m A, put together as [b, oh, ow, c], of m [n, n, b, th, tw, c]."""
    columns = lax.optimization_barrier(mixed(tile.outputs, list(places), axis=4))
    outputs = mixed(tile.outputs, list(columns), axis=2)
    b, height, m, width, _, channels = outputs.shape
    outputs = outputs.reshape(b, m * height, m * width, channels)
    return outputs[:, : extents[0], : extents[1]]


def to_kernel(tile: Tile, places: jax.Array) -> jax.Array:
    """Returns G^T m G [3, 3, cin, cout] of m [n, n, cin, cout]."""
    return along_both(tile.kernel.T, places)


def along_both(matrix: np.ndarray, places: jax.Array) -> jax.Array:
    """Returns M p M^T [m, m, cin, cout], its axes turned, of p [n, n, cin, cout].

    As one product: with two, the sums along one axis go through memory.
    """
    both = np.einsum("ia,jb->jiab", matrix, matrix)
    return jnp.tensordot(jnp.asarray(both, places.dtype), places, 2)


def mixed(matrix: np.ndarray, parts: list[jax.Array], axis: int = 0) -> jax.Array:
    """Returns a sum of parts, weighted by a row of the matrix, for each of its rows.

    They are stacked along a new axis.
    """
    sums = []
    for row in matrix.tolist():
        weighted = [
            part if weight == 1 else weight * part
            for weight, part in zip(row, parts, strict=True)
            if weight
        ]
        sums.append(sum(weighted[1:], weighted[0]))
    return jnp.stack(sums, axis)
