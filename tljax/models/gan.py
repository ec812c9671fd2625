"""GANs: a generator and a discriminator.

Those of convolutions are for squares of 8, 16, 32, 64 or 128 px, the dense one for
images of any shape.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from tljax.models import discriminators, generators
from tljax.models.gan_layers import mirrored, widths


class GAN(nn.Module):
    """A generator and a discriminator.

    Attributes:
      generator: (z [b, latent], labels int32 [b], train) -> images in [-1, 1].
      discriminator: (images [b, h, w, c], labels [b], train) -> logits float32 [b].
      latent: numbers that an image is generated from.
      num_classes: of the images.
      conditional: whether labels make a difference.
    """

    generator: nn.Module
    discriminator: nn.Module
    latent: int
    num_classes: int
    conditional: bool = False

    def __call__(self, images: jax.Array, train: bool = False):
        """Returns logits of images and of as many generated ones: initialises both."""
        labels = jnp.zeros(len(images), jnp.int32)
        generated = self.generate(jnp.zeros((len(images), self.latent)), labels, train)
        real = self.discriminate(images, labels, train)
        return real, self.discriminate(generated, labels, train)

    def generate(self, z: jax.Array, labels: jax.Array, train: bool = False):
        """Returns images float32 [b, h, w, c] in [-1, 1] of latents [b, latent]."""
        return self.generator(z, labels, train)

    def discriminate(self, images: jax.Array, labels: jax.Array, train: bool = False):
        """Returns float32 [b]: the higher, the more an image is taken for real."""
        return self.discriminator(images, labels, train)


def dense_gan(
    image_shape: tuple[int, int, int],
    *,
    latent: int,
    num_classes: int,
    conditional: bool = False,
    width: int = 64,
    dtype: jnp.dtype | None = None,
) -> GAN:
    """Returns a GAN of linear layers, with two hidden ones of 4 * width units each."""
    told = num_classes if conditional else 0
    return GAN(
        generators.DenseGenerator(image_shape, 4 * width, told, dtype),
        discriminators.DenseDiscriminator(4 * width, told, dtype),
        latent,
        num_classes,
        conditional,
    )


def dcgan(
    image_shape: tuple[int, int, int],
    *,
    latent: int,
    num_classes: int,
    conditional: bool = False,
    width: int = 64,
    batch_norm: bool = True,
    dtype: jnp.dtype | None = None,
) -> GAN:
    """Returns DCGAN's generator and discriminator.

    Raises ValueError, as the two that follow, for images of a size not in SIZES.
    """
    told = num_classes if conditional else 0
    channels = tuple(reversed(widths(image_shape, width)))
    return GAN(
        generators.PlainGenerator(image_shape[2], channels, told, dtype),
        discriminators.PlainDiscriminator(width, told, batch_norm, dtype),
        latent,
        num_classes,
        conditional,
    )


def sngan(
    image_shape: tuple[int, int, int],
    *,
    latent: int,
    num_classes: int,
    conditional: bool = False,
    width: int = 64,
    dtype: jnp.dtype | None = None,
) -> GAN:
    """Returns a residual generator and a residual discriminator."""
    told = num_classes if conditional else 0
    channels = tuple(reversed(widths(image_shape, width)))
    return GAN(
        generators.ResidualGenerator(image_shape[2], channels, told, dtype),
        discriminators.ResidualDiscriminator(width, told, dtype),
        latent,
        num_classes,
        conditional,
    )


def resnet_gan(
    image_shape: tuple[int, int, int],
    *,
    trunk: nn.Module,
    latent: int,
    num_classes: int,
    conditional: bool = False,
    width: int = 64,
    dtype: jnp.dtype | None = None,
) -> GAN:
    """Returns a residual generator and a discriminator with a ResNet in it.

    `trunk` is that ResNet, with num_classes=0; the channels of the generator are those
    of a ResNet of `width` in reverse.
    """
    told = num_classes if conditional else 0
    channels = tuple(mirrored(image_shape, width))
    return GAN(
        generators.ResidualGenerator(image_shape[2], channels, told, dtype),
        discriminators.TrunkDiscriminator(trunk, told),
        latent,
        num_classes,
        conditional,
    )
