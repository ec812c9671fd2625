"""Generators: networks from random numbers to images.

Goodfellow et al. 2014 (arXiv 1406.2661), Radford et al. 2015 (1511.06434) and Miyato et
al. 2018 (1802.05957). The extent
doubles from 4 px on by repeating pixels before a convolution: XLA's gradient of a
transposed convolution is slow.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from tljax.models import layers
from tljax.models.gan_layers import convolution
from tljax.models.pooling import doubled


class DenseGenerator(nn.Module):
    """Goodfellow's: linear layers, here with BatchNorm between them.

    Attributes:
      image_shape: (h, w, c) of what is generated.
      units: of the two hidden layers.
      num_classes: 0 where labels make no difference.
      dtype: of the computation; images are float32.
    """

    image_shape: tuple[int, int, int]
    units: int
    num_classes: int = 0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array, train: bool) -> jax.Array:
        """Returns images float32 [b, h, w, c] in [-1, 1]."""
        norm = functools.partial(Norm, not train, self.num_classes, self.dtype)
        dense = functools.partial(
            nn.Dense, kernel_init=nn.initializers.he_normal(), dtype=self.dtype
        )
        x = z
        for number in (1, 2):
            x = dense(self.units, use_bias=False, name=f"linear{number}")(x)
            x = nn.relu(norm(name=f"norm{number}")(x, labels))
        x = dense(math.prod(self.image_shape), name="image")(x)
        return as_images(x).reshape(-1, *self.image_shape)


class PlainGenerator(nn.Module):
    """DCGAN's: a linear layer, doublings with a 3x3 convolution each, and one more.

    Attributes:
      colors: channels of what is generated.
      widths: channels of the layers from 4 px on; the extent doubles from one to the
        next.
      num_classes: 0 where labels make no difference.
      dtype: of the computation; images are float32.
    """

    colors: int
    widths: tuple[int, ...]
    num_classes: int = 0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array, train: bool) -> jax.Array:
        """Returns images float32 [b, h, w, c] in [-1, 1]."""
        first, *others = self.widths
        norm = functools.partial(Norm, not train, self.num_classes, self.dtype)
        conv = functools.partial(convolution, dtype=self.dtype)
        x = nn.Dense(16 * first, use_bias=False, dtype=self.dtype, name="linear")(z)
        x = x.reshape(-1, 4, 4, first)
        x = nn.relu(norm(name="norm0")(x, labels))
        for number, features in enumerate(others, start=1):
            x = conv(features, 3, use_bias=False, name=f"conv{number}")(doubled(x))
            x = nn.relu(norm(name=f"norm{number}")(x, labels))
        return as_images(conv(self.colors, 3, name="image")(x))


class ResidualGenerator(nn.Module):
    """SNGAN's: a linear layer and a residual block for each doubling.

    Attributes as PlainGenerator's.
    """

    colors: int
    widths: tuple[int, ...]
    num_classes: int = 0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array, train: bool) -> jax.Array:
        """Returns images float32 [b, h, w, c] in [-1, 1]."""
        first, *others = self.widths
        norm = functools.partial(Norm, not train, self.num_classes, self.dtype)
        x = nn.Dense(16 * first, dtype=self.dtype, name="linear")(z)
        x = x.reshape(-1, 4, 4, first)
        for number, features in enumerate(others, start=1):
            block = UpBlock(features, norm, self.dtype, name=f"block{number}")
            x = block(x, labels)
        x = nn.relu(norm(name="norm")(x, labels))
        conv = functools.partial(convolution, dtype=self.dtype)
        return as_images(conv(self.colors, 3, name="image")(x))


class UpBlock(nn.Module):
    """Two 3x3 convolutions at twice the extent, and a shortcut."""

    features: int
    norm: functools.partial
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns [b, 2h, 2w, features] of x [b, h, w, c]."""
        conv = functools.partial(convolution, self.features, dtype=self.dtype)
        y = nn.relu(self.norm(name="norm1")(x, labels))
        y = conv(3, use_bias=False, name="conv1")(doubled(y))
        y = nn.relu(self.norm(name="norm2")(y, labels))
        # A convolution of single pixels may come before they are repeated.
        return conv(3, name="conv2")(y) + doubled(conv(1, name="shortcut")(x))


class Norm(nn.Module):
    """BatchNorm, and with classes a scale and an offset of each class on top.

    Dumoulin et al. 2016 (arXiv 1610.07629): (1 + scale_y) * x + offset_y; at first both
    are 0.
    """

    running: bool
    num_classes: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns x [b, ..., c] normalised."""
        x = layers.BatchNorm(self.running, dtype=self.dtype, name="bn")(x)
        if not self.num_classes:
            return x
        zeros = nn.initializers.zeros
        table = nn.Embed(
            self.num_classes, 2 * x.shape[-1], embedding_init=zeros, name="classes"
        )
        of_class = table(labels).astype(x.dtype)
        of_class = of_class.reshape(len(x), *(1,) * (x.ndim - 2), -1)
        scale, offset = jnp.split(of_class, 2, axis=-1)
        return x * (1 + scale) + offset


def as_images(x: jax.Array) -> jax.Array:
    """Returns x in (-1, 1), float32 or wider."""
    return jnp.tanh(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
