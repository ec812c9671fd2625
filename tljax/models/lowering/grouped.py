"""The form of convolutions in groups: some groups at a time, as a convolution without.

XLA takes groups one by one, and a product of few channels costs as much as one of many.
Here groups that lie beside one another make a pack, whose kernel has zeros between
them: some times as many products, and up to 5 times as fast. What is not finite goes
from its group to the others of a pack.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from tljax.models.lowering.forms import Window

# The channels of a pack, but for groups that have more. With 8, and with 32, forward
# and gradients of a ResNeXt-50 take 1.2 and 1.3 times as long (2 cores of an AMD EPYC
# with AVX-512, jax 0.10.2).
CHANNELS = 16


def count_of(channels: int, features: int, groups: int) -> int:
    """Returns the number of packs, a divisor of that of groups.

    `channels` and `features` are those of images and outputs, in all.
    """
    widest = max(channels, features) // groups
    most = max(CHANNELS // widest, 1)
    counts = (n for n in range(1, groups + 1) if groups % n == 0)
    return next(n for n in counts if groups // n <= most)


@dataclasses.dataclass(frozen=True)
class Packed:
    """An operation in groups, whose packs are computed in a form without groups.

    Attributes:
      operation: `forward_packed`, `data_packed` or `weights_packed`.
      form: of the same operation.
    """

    operation: Callable
    form: Callable

    @property
    def __name__(self) -> str:
        """That of the operation, as other forms have one."""
        return self.operation.__name__

    def __call__(self, a: jax.Array, b: jax.Array, window: Window, *shape) -> jax.Array:
        """Returns the operation's value, as other forms do."""
        return self.operation(self.form, a, b, window, *shape)


def forward_packed(form, images: jax.Array, kernel: jax.Array, window: Window):
    """Returns the convolution [b, oh, ow, cout]."""
    packs = kernels_of(kernel, images.shape[-1], window.groups)
    alone = window._replace(groups=1)

    def compute(number: jax.Array) -> jax.Array:
        return form(piece(images, number, len(packs)), packs[number], alone)

    return by_packs(compute, len(packs))


def data_packed(form, outputs: jax.Array, kernel: jax.Array, window: Window, shape):
    """Returns the gradient [b, h, w, cin] = `shape` of the images."""
    packs = kernels_of(kernel, shape[-1], window.groups)
    alone = window._replace(groups=1)
    shape = (*shape[:-1], packs.shape[-2])

    def compute(number: jax.Array) -> jax.Array:
        return form(piece(outputs, number, len(packs)), packs[number], alone, shape)

    return by_packs(compute, len(packs))


def weights_packed(form, images: jax.Array, outputs: jax.Array, window: Window, shape):
    """Returns the gradient [kh, kw, cin / groups, cout] = `shape` of the kernel."""
    *sides, channels, features = shape
    count = count_of(images.shape[-1], features, window.groups)
    size = window.groups // count
    alone = window._replace(groups=1)
    whole = (*sides, size * channels, features // count)

    def compute(number: jax.Array) -> jax.Array:
        parts = [piece(each, number, count) for each in (images, outputs)]
        all_pairs = form(*parts, alone, whole).reshape(*sides, size, channels, size, -1)
        own = jnp.diagonal(all_pairs, axis1=2, axis2=4)
        return jnp.moveaxis(own, -1, -2).reshape(*sides, channels, -1)

    return by_packs(compute, count)


# What `Packed` can stand for.
OPERATIONS = (forward_packed, data_packed, weights_packed)


def kernels_of(kernel: jax.Array, channels: int, groups: int) -> jax.Array:
    """Returns the kernels of all packs, [packs, kh, kw, cin, cout] of a pack.

    `channels` are those of the images, in all.
    """
    *sides, own, features = kernel.shape
    count = count_of(channels, features, groups)
    size = groups // count
    each = kernel.reshape(*sides, 1, own, count, size, -1)
    each = jnp.moveaxis(each, -3, 0)
    same = jnp.eye(size, dtype=bool)[:, None, :, None]
    return jnp.where(same, each, 0).reshape(count, *sides, size * own, -1)


def piece(x: jax.Array, number: jax.Array, count: int) -> jax.Array:
    """Returns one of `count` equal pieces of the channels of x [..., c]."""
    size = x.shape[-1] // count
    return lax.dynamic_slice_in_dim(x, number * size, size, -1)


def by_packs(compute: Callable[[jax.Array], jax.Array], count: int) -> jax.Array:
    """Returns compute(0), compute(1), ... along the last axis, `count` of them."""
    like = jax.eval_shape(compute, 0)

    def add(number: jax.Array, found: jax.Array) -> jax.Array:
        part = compute(number)
        return lax.dynamic_update_slice_in_dim(found, part, number * part.shape[-1], -1)

    zeros = jnp.zeros((*like.shape[:-1], count * like.shape[-1]), like.dtype)
    return lax.fori_loop(0, count, add, zeros)
