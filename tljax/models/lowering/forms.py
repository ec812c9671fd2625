"""A convolution, its data gradient and its weight gradient: each in several forms.

All forms of one of the three compute the same sums in another order. Images are
[b, h, w, cin], kernels [kh, kw, cin / groups, cout], outputs [b, oh, ow, cout]. Each is
linear in both arguments, and its two transposes are the other two.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tljax.models.lowering import parts, processor

NUMBERS = ("NHWC", "HWIO", "NHWC")


class Window(NamedTuple):
    """How a kernel moves over an image.

    Attributes:
      size: (height, width) of the kernel.
      stride: in both directions.
      padding: ((above, below), (left, right)), pixels of zeros.
      groups: into which channels are divided.
    """

    size: tuple[int, int]
    stride: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    groups: int = 1

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """The places (row, column) in the kernel."""
        return list(itertools.product(range(self.size[0]), range(self.size[1])))

    @property
    def is_pixel(self) -> bool:
        """Whether the kernel is one pixel and nothing is padded."""
        return self.size == (1, 1) and not any(map(any, self.padding))

    def extents(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Returns (height, width) of the output of images [b, h, w, c]."""
        return tuple(self.extent(side, shape[1 + side]) for side in (0, 1))

    def extent(self, side: int, extent: int) -> int:
        """Returns the height (side 0) or width (side 1) of the output of images."""
        return (extent + sum(self.padding[side]) - self.size[side]) // self.stride + 1


# The three operations as XLA has them.


def forward_xla(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Returns the convolution [b, oh, ow, cout]."""
    return lax.conv_general_dilated(
        images,
        kernel,
        (window.stride, window.stride),
        window.padding,
        dimension_numbers=NUMBERS,
        feature_group_count=window.groups,
    )


def data_xla(outputs: jax.Array, kernel: jax.Array, window: Window, shape) -> jax.Array:
    """Returns the gradient [b, h, w, cin] = `shape` of the images."""
    images = jax.ShapeDtypeStruct(shape, outputs.dtype)
    transpose = jax.linear_transpose(
        lambda images: forward_xla(images, kernel, window), images
    )
    return transpose(outputs)[0]


def data_turned(
    outputs: jax.Array, kernel: jax.Array, window: Window, shape
) -> jax.Array:
    """Returns the gradient of the images, at stride 1, as a convolution of the outputs.

    By the kernel turned round, which is XLA's own way. But in a loop XLA turns it
    while it convolves, 10 to 38 times slower, unless it is kept apart.
    """
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    sides = tuple(
        (size - 1 - low, size - 1 - high)
        for size, (low, high) in zip(window.size, window.padding, strict=True)
    )
    around = window._replace(padding=sides)
    return forward_xla(outputs, lax.optimization_barrier(turned), around)


def weights_xla(
    images: jax.Array, outputs: jax.Array, window: Window, shape
) -> jax.Array:
    """Returns the gradient [kh, kw, cin / groups, cout] = `shape` of the kernel."""
    kernel = jax.ShapeDtypeStruct(shape, images.dtype)
    transpose = jax.linear_transpose(
        lambda kernel: forward_xla(images, kernel, window), kernel
    )
    return transpose(outputs)[0]


# One pixel a window: a product of matrices.


def forward_pixels(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Returns the convolution by a kernel of one pixel as one product."""
    return contract(strided(images, window.stride), 3, kernel[0, 0], 0)


def data_pixels(
    outputs: jax.Array, kernel: jax.Array, window: Window, shape
) -> jax.Array:
    """Returns the gradient of the images; pixels that were skipped have 0."""
    return spread(contract(outputs, 3, kernel[0, 0], 1), window.stride, shape)


def weights_pixels(
    images: jax.Array, outputs: jax.Array, window: Window, shape
) -> jax.Array:
    """Returns the gradient of a kernel of one pixel as one product."""
    return contract_pixels(strided(images, window.stride), outputs).reshape(shape)


def strided(images: jax.Array, stride: int) -> jax.Array:
    """Returns each `stride`th pixel."""
    return images[:, ::stride, ::stride] if stride > 1 else images


def spread(images: jax.Array, stride: int, shape) -> jax.Array:
    """Returns images of `shape` with zeros between each `stride`th pixel."""
    if stride == 1:
        return images
    sides = [(extent, (side - 1) * stride + 1) for extent, side in
             zip(shape[1:3], images.shape[1:3], strict=True)]  # fmt: skip
    config = [(0, 0, 0), *((0, a - b, stride - 1) for a, b in sides), (0, 0, 0)]
    return lax.pad(images, jnp.zeros((), images.dtype), config)


# Patches: a product for all places of the kernel at once.


def forward_patches(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Returns patches [b, oh, ow, kh * kw * cin] times the kernel."""
    patches = patches_of(images, window)
    return contract(patches, 3, kernel.reshape(-1, kernel.shape[-1]), 0)


def data_patches(
    outputs: jax.Array, kernel: jax.Array, window: Window, shape
) -> jax.Array:
    """Returns the gradient of the images: that of the patches, put together."""
    patches = contract(outputs, 3, kernel.reshape(-1, kernel.shape[-1]), 1)
    channels = shape[-1]
    parts = [
        placed(lax.slice_in_dim(patches, n * channels, (n + 1) * channels, axis=3),
               offset, window, shape)
        for n, offset in enumerate(window.offsets)
    ]  # fmt: skip
    return add_up(parts)


def weights_patches(
    images: jax.Array, outputs: jax.Array, window: Window, shape, product=None
) -> jax.Array:
    """Returns the gradient of the kernel as patches times outputs.

    `product` computes it, in place of `contract_pixels`.
    """

    def contribute(images: jax.Array, outputs: jax.Array) -> jax.Array:
        patches = patches_of(images, window)
        return (product or contract_pixels)(patches, outputs)

    values = math.prod((*window.extents(images.shape), *shape[:3]))
    size = parts.size_of(len(images), values, parts.PATCHES_AT_ONCE)
    return parts.summed(contribute, images, outputs, size).reshape(shape)


def patches_of(images: jax.Array, window: Window) -> jax.Array:
    """Returns the patches of all windows, [b, oh, ow, kh * kw * cin]."""
    columns = jnp.concatenate(met_along(movable(images), 2, 1, window), axis=3)
    patches = jnp.concatenate(met_along(columns, 1, 0, window), axis=3)
    return lax.bitcast_convert_type(patches, images.dtype)


def movable(images: jax.Array) -> jax.Array:
    """Returns images, the bits of those in bfloat16 as whole numbers.

    jax 0.10.2 would widen them to move them.
    """
    if images.dtype == jnp.bfloat16:
        return lax.bitcast_convert_type(images, jnp.uint16)
    return images


def met_along(
    images: jax.Array, axis: int, side: int, window: Window
) -> list[jax.Array]:
    """Returns what each row (side 0) or column (side 1) of the kernel meets.

    `axis` is that of the images' rows or columns.
    """
    low, _ = window.padding[side]
    extent = images.shape[axis]
    last = (window.extent(side, extent) - 1) * window.stride
    met = []
    for place in range(window.size[side]):
        first = place - low
        config = [(0, 0, 0)] * 4
        # Negative padding cuts.
        config[axis] = (-first, first + last + 1 - extent, 0)
        moved = lax.pad(images, jnp.zeros((), images.dtype), config)
        met.append(lax.slice_in_dim(moved, 0, None, window.stride, axis))
    return met


# Crossed: images moved by the kernel's columns, outputs by its rows.


def weights_crossed(
    images: jax.Array, outputs: jax.Array, window: Window, shape
) -> jax.Array:
    """Returns the gradient of the kernel, at stride 1, as one product.

    images [.., kw * cin] times outputs [.., kh * cout]: two copies of kw and kh images
    instead of patches of kw * kh.
    """
    columns = jnp.concatenate(met_along(images, 2, 1, window), axis=3)
    rows = []
    for place in range(window.size[0]):
        low = place - window.padding[0][0]
        high = images.shape[1] - low - outputs.shape[1]
        config = [(0, 0, 0), (low, high, 0), (0, 0, 0), (0, 0, 0)]
        rows.append(lax.pad(outputs, jnp.zeros((), outputs.dtype), config))
    product = contract_pixels(columns, jnp.concatenate(rows, axis=3))
    height, width, cin, cout = shape
    return product.reshape(width, cin, height, cout).transpose(2, 0, 1, 3)


def placed(part: jax.Array, offset, window: Window, shape) -> jax.Array:
    """Returns images of `shape` with a part [b, oh, ow, c] where an offset meets it."""
    config = [(0, 0, 0)]
    for axis in (0, 1):
        low = offset[axis] - window.padding[axis][0]
        spanned = (part.shape[axis + 1] - 1) * window.stride + 1
        high = shape[axis + 1] - low - spanned
        config.append((low, high, window.stride - 1))
    return lax.pad(part, jnp.zeros((), part.dtype), [*config, (0, 0, 0)])


def add_up(parts: list[jax.Array]) -> jax.Array:
    """Returns the sum, which is taken in float32 at least."""
    dtype = parts[0].dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    return sum(part.astype(wide) for part in parts).astype(dtype)


# Products.


def contract(a: jax.Array, axis: int, matrix: jax.Array, side: int) -> jax.Array:
    """Returns the sum over one axis of `a` and one side of a matrix.

    In bfloat16, which some CPUs multiply five times as fast as float32, it is summed up
    in float32 and rounded once; asked for bfloat16, jax 0.10.2 computes with float32.
    """
    dtype = a.dtype
    wide = jnp.float32 if is_fast_half(dtype) else None
    axes = (((axis,), (side,)), ((), ()))
    return lax.dot_general(a, matrix, axes, preferred_element_type=wide).astype(dtype)


def is_fast_half(dtype: jnp.dtype) -> bool:
    """Returns whether this is bfloat16, on a CPU that multiplies it by itself."""
    return dtype == jnp.bfloat16 and processor.multiplies_bfloat16()


def contract_pixels(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns [ca, cb], the sum over all pixels of a [b, h, w, ca] and b [.., cb].

    As matrices: of a sum over three axes, XLA makes a transposed copy of one side, and
    computes again what stands before it; that took twice as long as all the rest.
    """
    rows = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return lax.dot_general(*rows, (((0,), (0,)), ((), ())))


def widened(x: jax.Array) -> jax.Array:
    """Returns x in float32 at least, for what would be rounded twice in bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
