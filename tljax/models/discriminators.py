"""Discriminators: networks from images to one logit.

Goodfellow et al. 2014 (arXiv 1406.2661), Radford et al. 2015 (1511.06434), Miyato et
al. 2018 (1802.05957), and any network without a last layer, a ResNet for one.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from tljax.models import layers
from tljax.models.gan_layers import convolution, widths


class DenseDiscriminator(nn.Module):
    """Goodfellow's: linear layers, which normalise nothing by the batch.

    Attributes:
      units: of the two hidden layers.
      num_classes: 0 where labels make no difference, else it is a projection.
      dtype: of the computation; logits are float32.
    """

    units: int
    num_classes: int = 0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array, train: bool) -> jax.Array:
        """Returns logits float32 [b]."""
        x = images.reshape(len(images), -1)
        for number in (1, 2):
            x = nn.Dense(
                self.units,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"linear{number}",
            )(x)
            x = nn.leaky_relu(x, 0.2)
        return Verdict(self.num_classes, name="head")(x, labels)


class PlainDiscriminator(nn.Module):
    """DCGAN's: 4x4 convolutions that halve the extent to 4 px, and a linear layer.

    A 3x3 convolution stands in front, as in SNGAN's plain network: without it, images
    of 8 px would meet one convolution only.

    Attributes:
      width: channels at the full extent and at half of it, 2 * width at a quarter.
      num_classes: 0 where labels make no difference, else it is a projection.
      batch_norm: normalise by the batch, but for the first two convolutions.
      dtype: of the computation; logits are float32.
    """

    width: int = 64
    num_classes: int = 0
    batch_norm: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array, train: bool) -> jax.Array:
        """Returns logits float32 [b]."""
        first, *others = widths(images.shape[1:], self.width)
        conv = functools.partial(convolution, dtype=self.dtype)
        x = nn.leaky_relu(conv(first, 3, name="conv0")(images), 0.2)
        for number, features in enumerate(others, start=1):
            normed = self.batch_norm and number > 1
            name = f"conv{number}"
            x = conv(features, 4, 2, use_bias=not normed, name=name)(x)
            if normed:
                norm = layers.BatchNorm(
                    not train, dtype=self.dtype, name=f"norm{number}"
                )
                x = norm(x)
            x = nn.leaky_relu(x, 0.2)
        return Verdict(self.num_classes, name="head")(x.reshape(len(x), -1), labels)


class ResidualDiscriminator(nn.Module):
    """SNGAN's: residual blocks that halve the extent to 4 px, and one that does not.

    It normalises nothing by the batch. Attributes as PlainDiscriminator's.
    """

    width: int = 64
    num_classes: int = 0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array, train: bool) -> jax.Array:
        """Returns logits float32 [b]."""
        x = images
        _, *halving = widths(images.shape[1:], self.width)
        for number, features in enumerate([*halving, halving[-1]], start=1):
            halves = number <= len(halving)
            block = DownBlock(features, halves, self.dtype, name=f"block{number}")
            x = block(x, is_image=number == 1)
        x = nn.relu(x)
        pooled = jnp.sum(x, (1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
        return Verdict(self.num_classes, name="head")(pooled, labels)


class DownBlock(nn.Module):
    """Two 3x3 convolutions, the mean of each 2x2 pixels, and a shortcut."""

    features: int
    halves: bool
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x: jax.Array, is_image: bool) -> jax.Array:
        """Returns [b, h/2, w/2, features], or [b, h, w, features]."""
        conv = functools.partial(convolution, self.features, dtype=self.dtype)
        shrink = halved if self.halves else lambda x: x
        y = conv(3, name="conv1")(x if is_image else nn.relu(x))
        y = shrink(conv(3, name="conv2")(nn.relu(y)))
        if self.halves or x.shape[-1] != self.features:
            # A convolution of single pixels may come after their mean.
            x = conv(1, name="shortcut")(shrink(x))
        return y + x


class TrunkDiscriminator(nn.Module):
    """A network without a last layer, and a linear layer on its pooled features.

    Attributes:
      trunk: (images, train) -> features [b, f], as a ResNet with num_classes=0.
      num_classes: 0 where labels make no difference, else it is a projection.
    """

    trunk: nn.Module
    num_classes: int = 0

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array, train: bool) -> jax.Array:
        """Returns logits float32 [b]."""
        pooled = self.trunk(images, train)
        return Verdict(self.num_classes, name="head")(pooled, labels)


class Verdict(nn.Module):
    """The last layer: linear, and with classes the projection discriminator's.

    Miyato and Koyama 2018 (arXiv 1802.05637): the logit of features h and class y is
    w^T h + b + embedding_y^T h.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns logits float32 [b] of features [b, f]."""
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        logits = nn.Dense(1, name="linear")(features)[:, 0]
        if self.num_classes:
            table = nn.Embed(self.num_classes, features.shape[-1], name="classes")
            logits += jnp.sum(table(labels) * features, axis=-1)
        return logits


def halved(x: jax.Array) -> jax.Array:
    """Returns the means of 2x2 pixels: [b, h/2, w/2, c]."""
    return nn.avg_pool(x, (2, 2), strides=(2, 2))
