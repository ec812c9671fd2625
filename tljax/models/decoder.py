"""The parts that autoencoders share: what they return, their codes, and the way back.

No convolution is transposed, for its gradient is slow to compute: what is smaller is
doubled by repeating pixels, and backward takes at most three times the operations of
forward.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from tljax.models import layers
from tljax.models.pooling import doubled

# Fewer pixels a side are not worth a convolution.
MIN_SIZE = 8


class Reconstruction(NamedTuple):
    """What an autoencoder makes of images.

    Attributes:
      images: reconstructions, float32 [b, h, w, c], in the units of the images.
      mean: the code [b, ...]; of a variational one, the mean of its distribution.
      log_variance: of a variational one, [b, latent]; None of another.
    """

    images: jax.Array
    mean: jax.Array
    log_variance: jax.Array | None = None


class Code(nn.Module):
    """Dense heads: mean, and of a variational autoencoder the log-variance."""

    latent: int
    variational: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Returns mean and log-variance, float32 [b, latent], of x [b, n].

        The variance begins at 1, that of the prior.
        """
        x = as_float32(x)
        mean = nn.Dense(self.latent, name="mean")(x)
        if not self.variational:
            return mean, None
        head = nn.Dense(
            self.latent, kernel_init=nn.initializers.zeros, name="log_variance"
        )
        return mean, head(x)

    def draw(self, mean: jax.Array, log_variance: jax.Array | None) -> jax.Array:
        """Returns a code of the distribution, the mean where there is no variance."""
        if log_variance is None:
            return mean
        noise = jax.random.normal(self.make_rng("sample"), mean.shape, mean.dtype)
        return mean + jnp.exp(log_variance / 2) * noise


class Decoder(nn.Module):
    """From a code to an image, through maps that double: repeat, 3x3, BatchNorm, ReLU.

    Attributes:
      extents: (height, width) of the maps, from the first to the image's.
      widths: their channels.
      channels: of the image.
      frozen_statistics, dtype: as in `resnet.ResNet`.
    """

    extents: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]
    channels: int
    frozen_statistics: frozenset[str] = frozenset()
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self, code: jax.Array, running: bool, skips: tuple[jax.Array, ...] = ()
    ) -> jax.Array:
        """Returns images, float32, of codes [b, n] or of maps of the first extent.

        `skips` are maps of the extents that follow, added there.
        """
        conv = functools.partial(layers.convolution, dtype=self.dtype)
        norm = functools.partial(
            layers.BatchNorm, running, self.frozen_statistics, dtype=self.dtype
        )
        x = nn.relu(norm(name="bn0")(self.first_map(code, conv)))
        steps = zip(self.extents[1:], self.widths[1:], strict=True)
        for place, (extent, width) in enumerate(steps, start=1):
            x = doubled(x)[:, : extent[0], : extent[1]]
            x = conv(width, 3, name=f"conv{place}")(x)
            x = nn.relu(norm(name=f"bn{place}")(x))
            if place <= len(skips):
                x = x + conv(width, 1, name=f"skip{place}")(skips[place - 1])
        last = layers.Convolution(
            self.channels, 3, padding=1, use_bias=True, dtype=self.dtype,
            kernel_init=nn.initializers.lecun_normal(), name="image",
        )  # fmt: skip
        return as_float32(last(x))

    def first_map(self, code: jax.Array, conv) -> jax.Array:
        """Returns the first map [b, *extents[0], widths[0]]."""
        shape = (*self.extents[0], self.widths[0])
        if code.ndim == 4:
            return conv(self.widths[0], 1, name="conv0")(code)
        dense = nn.Dense(math.prod(shape), dtype=self.dtype, name="dense")
        return dense(code).reshape(len(code), *shape)


def half(extent: tuple[int, int]) -> tuple[int, int]:
    """Returns the extent of a map after a convolution of stride 2."""
    return tuple((side + 1) // 2 for side in extent)


def halve(extent: tuple[int, int], done) -> tuple[tuple[int, int], ...]:
    """Returns the extents of maps, from that of an image to the first that is done."""
    return (extent,) if done(extent) else (extent, *halve(half(extent), done))


def as_float32(x: jax.Array) -> jax.Array:
    """Returns x in float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def check_size(image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError where an image has too few pixels a side."""
    height, width, _ = image_shape
    if min(height, width) < MIN_SIZE:
        raise ValueError(
            f"images of {height}x{width} pixels are too small; {MIN_SIZE} a side or "
            "more fit"
        )


def check_images(images: jax.Array, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError where images are not of the shape that they have been given."""
    if images.shape[1:] != tuple(image_shape):
        raise ValueError(
            f"images of {images.shape[1:]} where the model is for {image_shape}"
        )
