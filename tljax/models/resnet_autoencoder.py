"""An autoencoder around a ResNet, whose encoder a classifier can start from."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from tljax.models import layers, resnet
from tljax.models.decoder import (
    Code,
    Decoder,
    Reconstruction,
    check_images,
    check_size,
    half,
)


class Filling(nn.Module):
    """A learned vector in the place of what is hidden."""

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array) -> jax.Array:
        """Returns x [b, h, w, c] where visible [b, h, w, 1] is 1, else the vector."""
        size = x.shape[-1:]
        token = self.param("token", nn.initializers.normal(0.02), size)
        return jnp.where(visible > 0, x, layers.along_last(token, 4).astype(x.dtype))


class ResNetAutoencoder(nn.Module):
    """A ResNet as the encoder, and a light decoder.

    The code is made of the pooled features, those that a classifier will use: then they
    must say what the image shows. With latent 0 the decoder begins at layer4's map.

    A masked one (after SparK, Tian et al. 2023, arXiv 2301.03580) sees part of an image
    and decodes all stages, layer4's map first, the others added on the way. Its
    convolutions are dense, so what is hidden is set to 0 again after every block, and a
    learned vector takes its place before the decoder. Unlike SparK's sparse
    convolutions, those within a block see zeros as neighbours, and BatchNorm counts
    hidden positions too.

    Attributes:
      image_shape: (height, width, channels) of the images, 8 pixels a side or more.
      make_encoder: of `models.MODELS`, resnet.resnet18 for example.
      latent: numbers of the code; 0 = layer4's map. A masked one has no code.
      width, stem, frozen_statistics, dtype: as in `resnet.ResNet`.
      variational: as in `ConvAutoencoder`; needs latent.
      masked: whether parts of images may be hidden.
    """

    image_shape: tuple[int, int, int]
    make_encoder: Callable[..., resnet.ResNet] = resnet.resnet18
    latent: int = 64
    width: int = 64
    stem: str = "standard"
    variational: bool = False
    masked: bool = False
    frozen_statistics: frozenset[str] = frozenset()
    dtype: jnp.dtype | None = None

    def setup(self):
        """Makes encoder, code and decoder; raises ValueError for what does not fit."""
        check_size(self.image_shape)
        if self.variational and (self.masked or not self.latent):
            raise ValueError(
                "a variational autoencoder needs latent >= 1, and cannot be masked"
            )
        options = {"frozen_statistics": self.frozen_statistics, "dtype": self.dtype}
        self.encoder = self.make_encoder(
            num_classes=0, width=self.width, stem=self.stem, **options
        )
        halvings = 3 if self.stem == "small" else 5
        extents = [self.image_shape[:2]]
        for _ in range(halvings):
            extents.append(half(extents[-1]))
        widths = tuple(max(8 * self.width >> step, 1) for step in range(halvings + 1))
        self.decoder = Decoder(
            tuple(extents[::-1]), widths, self.image_shape[2], **options
        )
        if self.masked:
            self.filling = [Filling() for _ in range(4)]
        elif self.latent:
            self.code = Code(self.latent, self.variational)

    def __call__(
        self,
        images: jax.Array,
        visible: jax.Array | None = None,
        train: bool = False,
    ) -> Reconstruction:
        """Returns reconstructions and codes.

        `visible` [b, h, w, 1] is 0 where a masked one is not to look, else 1; None is
        1 everywhere. A variational one needs the rng "sample" in training.
        """
        check_images(images, self.image_shape)
        if self.masked:
            return self.fill_in(images, train, visible)
        mean, log_variance = self.distribution(images, train)
        sampled = train and self.variational
        code = self.code.draw(mean, log_variance) if sampled else mean
        return Reconstruction(self.decode(code, train), mean, log_variance)

    def distribution(self, images: jax.Array, train: bool = False):
        """Returns the code, or its mean, and its log-variance or None."""
        pooled, features = self.encoder(images, train, return_features=True)
        if self.masked:
            return pooled, None
        return self.code(pooled) if self.latent else (features["layer4"], None)

    def encode(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns codes [b, latent], or layer4's map; of a masked one, features."""
        return self.distribution(images, train)[0]

    def decode(self, code: jax.Array, train: bool = False) -> jax.Array:
        """Returns images of codes, which a masked one has none of."""
        return self.decoder(code, not train)

    def fill_in(
        self, images: jax.Array, train: bool, visible: jax.Array | None
    ) -> Reconstruction:
        """Returns images whole again, of what is visible of them."""
        if visible is None:
            visible = jnp.ones((*images.shape[:3], 1))
        with nn.intercept_methods(hide(visible)):
            pooled, features = self.encoder(
                images * visible, train, return_features=True
            )
        maps = [features[f"layer{stage}"] for stage in (4, 3, 2, 1)]
        first, *skips = (
            filling(x, shrink(visible, x))
            for filling, x in zip(self.filling, maps, strict=True)
        )
        return Reconstruction(self.decoder(first, not train, tuple(skips)), pooled)


def hide(visible: jax.Array):
    """Returns an interceptor of Flax that sets to 0 what is hidden in a block's map."""

    def intercept(call, args, kwargs, context):
        found = call(*args, **kwargs)
        if isinstance(context.module, resnet.BasicBlock | resnet.Bottleneck):
            return found * shrink(visible, found).astype(found.dtype)
        return found

    return intercept


def shrink(visible: jax.Array, like: jax.Array) -> jax.Array:
    """Returns [b, h', w', 1] for the map `like` of an image: 1 where any of it was."""
    while visible.shape[1:3] != like.shape[1:3]:
        visible = nn.max_pool(visible, (2, 2), strides=(2, 2), padding="SAME")
    return visible
