"""Inception v3 as FID is measured with: the features of its last pooling.

Szegedy et al. 2015 (arXiv 1512.00567) in the form of TensorFlow's file of 2015-12-05,
as pytorch-fid computes it: torchvision's `inception_v3`, but average pools leave
out what is padded, and the last block has a max pool. Names are torchvision's, a
module within another: `Mixed_5b.branch1x1.conv.weight` there is
`Mixed_5b/branch1x1/conv/kernel` here. It is never trained.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

FEATURES = 2048
SIZE = 299


class ConvNorm(nn.Module):
    """A convolution without bias, BatchNorm by its running statistics, and ReLU.

    Attributes:
      features: channels out.
      kernel: height and width of the kernel.
      stride: of both axes.
      pad: with half a kernel of zeros on each side, or with none.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    pad: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [b, h, w, features] of x [b, h, w, c]."""
        sides = [size // 2 if self.pad else 0 for size in self.kernel]
        x = nn.Conv(
            self.features,
            self.kernel,
            strides=self.stride,
            padding=[(side, side) for side in sides],
            use_bias=False,
            # A measure must not depend on the digits that an accelerator keeps.
            precision=jax.lax.Precision.HIGHEST,
            name="conv",
        )(x)
        # torchvision's eps here, where its ResNets have 1e-5.
        x = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x)
        return nn.relu(x)


def chain(x: jax.Array, name: str, *convolutions: tuple) -> jax.Array:
    """Returns x after the convolutions `name`_1, `name`_2 ... of a module.

    Each is the features and the kernel of a ConvNorm, and what else it takes.
    """
    for place, attributes in enumerate(convolutions, start=1):
        x = ConvNorm(*attributes, name=f"{name}_{place}")(x)
    return x


def average(x: jax.Array) -> jax.Array:
    """Returns the means of 3x3 pixels [b, h, w, c], of fewer at the edges."""
    padding = ((1, 1), (1, 1))
    return nn.avg_pool(x, (3, 3), padding=padding, count_include_pad=False)


def halve(x: jax.Array) -> jax.Array:
    """Returns the maxima of 3x3 pixels at stride 2, without padding."""
    return nn.max_pool(x, (3, 3), strides=(2, 2))


class BlockA(nn.Module):
    """35x35 pixels: 1x1, 5x5 and twice 3x3 side by side (torchvision's InceptionA)."""

    pool_features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [b, h, w, 224 + pool_features]."""
        five = chain(x, "branch5x5", (48,), (64, (5, 5)))
        three = chain(x, "branch3x3dbl", (64,), (96, (3, 3)), (96, (3, 3)))
        branches = [
            ConvNorm(64, name="branch1x1")(x),
            five,
            three,
            ConvNorm(self.pool_features, name="branch_pool")(average(x)),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockB(nn.Module):
    """35x35 to 17x17 pixels (torchvision's InceptionB)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [b, h/2, w/2, 480 + c] of x [b, h, w, c]."""
        last = (96, (3, 3), 2, False)
        branches = [
            ConvNorm(384, (3, 3), 2, pad=False, name="branch3x3")(x),
            chain(x, "branch3x3dbl", (64,), (96, (3, 3)), last),
            halve(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockC(nn.Module):
    """17x17 pixels: 1x1, and rows and columns of 7 (torchvision's InceptionC)."""

    inner: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [b, h, w, 768]."""
        row, column = (self.inner, (1, 7)), (self.inner, (7, 1))
        first = (self.inner,)
        branches = [
            ConvNorm(192, name="branch1x1")(x),
            chain(x, "branch7x7", first, row, (192, (7, 1))),
            chain(x, "branch7x7dbl", first, column, row, column, (192, (1, 7))),
            ConvNorm(192, name="branch_pool")(average(x)),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockD(nn.Module):
    """17x17 to 8x8 pixels (torchvision's InceptionD)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [b, h/2, w/2, 512 + c] of x [b, h, w, c]."""
        last = (192, (3, 3), 2, False)
        seven = chain(x, "branch7x7x3", (192,), (192, (1, 7)), (192, (7, 1)), last)
        three = chain(x, "branch3x3", (192,), (320, (3, 3), 2, False))
        return jnp.concatenate([three, seven, halve(x)], axis=-1)


class BlockE(nn.Module):
    """8x8 pixels: a row and a column of 3 side by side (torchvision's InceptionE).

    Attributes:
      max_pool: whether the pool is of the maximum, as FID's last block has it.
    """

    max_pool: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [b, h, w, 2048]."""
        three = chain(x, "branch3x3", (384,))
        double = chain(x, "branch3x3dbl", (448,), (384, (3, 3)))
        pooled = average(x)
        if self.max_pool:
            pooled = nn.max_pool(x, (3, 3), padding=((1, 1), (1, 1)))
        branches = [
            ConvNorm(320, name="branch1x1")(x),
            ConvNorm(384, (1, 3), name="branch3x3_2a")(three),
            ConvNorm(384, (3, 1), name="branch3x3_2b")(three),
            ConvNorm(384, (1, 3), name="branch3x3dbl_3a")(double),
            ConvNorm(384, (3, 1), name="branch3x3dbl_3b")(double),
            ConvNorm(192, name="branch_pool")(pooled),
        ]
        return jnp.concatenate(branches, axis=-1)


def prepare(images: jax.Array) -> jax.Array:
    """Returns [b, 299, 299, 3] from -1 to 1 of images [b, h, w, c] from 0 to 1.

    `c` is 1 or 3; grey images become three equal channels. They are resized bilinearly
    and without antialiasing, as pytorch-fid does with torch's `interpolate`; the first
    FID (TensorFlow's) took pixels of other places. Generated images should have been
    rounded to uint8 before, as real ones are. Raises ValueError for other channels.
    """
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"images of {images.shape[-1]} channels must have 1 or 3")
    x = jnp.broadcast_to(images, (*images.shape[:-1], 3))
    x = jax.image.resize(x, (len(x), SIZE, SIZE, 3), "bilinear", antialias=False)
    return 2 * x - 1


class FidInception(nn.Module):
    """The network that FID and KID are measured with, up to its last pooling."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns features [b, 2048] of images [b, h, w, c] as `prepare` takes them."""
        x = prepare(images)
        x = ConvNorm(32, (3, 3), 2, pad=False, name="Conv2d_1a_3x3")(x)
        x = ConvNorm(32, (3, 3), pad=False, name="Conv2d_2a_3x3")(x)
        x = halve(ConvNorm(64, (3, 3), name="Conv2d_2b_3x3")(x))
        x = ConvNorm(80, name="Conv2d_3b_1x1")(x)
        x = halve(ConvNorm(192, (3, 3), pad=False, name="Conv2d_4a_3x3")(x))
        x = BlockA(32, name="Mixed_5b")(x)
        x = BlockA(64, name="Mixed_5c")(x)
        x = BlockA(64, name="Mixed_5d")(x)
        x = BlockB(name="Mixed_6a")(x)
        x = BlockC(128, name="Mixed_6b")(x)
        x = BlockC(160, name="Mixed_6c")(x)
        x = BlockC(160, name="Mixed_6d")(x)
        x = BlockC(192, name="Mixed_6e")(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(max_pool=False, name="Mixed_7b")(x)
        x = BlockE(max_pool=True, name="Mixed_7c")(x)
        return jnp.mean(x, axis=(1, 2))
