"""Autoencoders: dense with tied weights, and convolutional.

Each is called on normalised images [b, h, w, c] of its `image_shape` and returns a
`decoder.Reconstruction`; `encode` and `decode` are the two halves.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from tljax.models import layers
from tljax.models.decoder import (
    Code,
    Decoder,
    Reconstruction,
    as_float32,
    check_images,
    check_size,
    halve,
)

ACTIVATIONS = {
    "sigmoid": nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "elu": nn.elu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "softplus": nn.softplus,
    "identity": lambda x: x,
}


class TiedLayer(nn.Module):
    """A dense layer whose kernel [inputs, units], transposed, leads back."""

    inputs: int
    units: int
    activation: Callable[[jax.Array], jax.Array]
    dtype: jnp.dtype | None = None

    def setup(self):
        """Makes the parameters."""
        self.kernel = self.param(
            "kernel", nn.initializers.glorot_uniform(), (self.inputs, self.units)
        )
        self.bias = self.param("bias", nn.initializers.zeros, (self.units,))

    def encode(self, x: jax.Array) -> jax.Array:
        """Returns f(x W + b) [b, units] of x [b, inputs]."""
        x, kernel, bias = nn.dtypes.promote_dtype(
            x, self.kernel, self.bias, dtype=self.dtype
        )
        return self.activation(x @ kernel + bias[None])

    def decode(self, y: jax.Array) -> jax.Array:
        """Returns y W^T [b, inputs] of y [b, units]."""
        y, kernel = nn.dtypes.promote_dtype(y, self.kernel, dtype=self.dtype)
        return y @ kernel.T


class TiedAutoencoder(nn.Module):
    """Dense layers, and back through their transposes: x -> W^T f(W x + b).

    With several layers the way back has the activation between them, and is linear at
    its end. It has no biases.

    Attributes:
      image_shape: (height, width, channels) of the images, which are flattened.
      hidden: units of each layer; the last is the code.
      activation: a name of `ACTIVATIONS`.
      frozen_statistics: of no effect, as there is no BatchNorm.
      dtype: of the computation; reconstructions are float32.
    """

    image_shape: tuple[int, int, int]
    hidden: tuple[int, ...] = (64,)
    activation: str = "sigmoid"
    frozen_statistics: frozenset[str] = frozenset()
    dtype: jnp.dtype | None = None

    def setup(self):
        """Makes encoder_0, encoder_1, ...; raises ValueError without a layer."""
        if not self.hidden:
            raise ValueError("a tied autoencoder has at least one hidden layer")
        sizes = (math.prod(self.image_shape), *self.hidden)
        activation = ACTIVATIONS[self.activation]
        self.encoder = [
            TiedLayer(inputs, units, activation, self.dtype)
            for inputs, units in zip(sizes, self.hidden, strict=False)
        ]

    def __call__(self, images: jax.Array, train: bool = False) -> Reconstruction:
        """Returns reconstructions and codes; training is no different."""
        code = self.encode(images)
        return Reconstruction(self.decode(code), code)

    def encode(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the code [b, units of the last layer]."""
        check_images(images, self.image_shape)
        x = images.reshape(len(images), -1)
        for layer in self.encoder:
            x = layer.encode(x)
        return x

    def decode(self, code: jax.Array, train: bool = False) -> jax.Array:
        """Returns images [b, h, w, c] of codes."""
        y = self.encoder[-1].decode(code)
        for layer in self.encoder[-2::-1]:
            y = layer.decode(ACTIVATIONS[self.activation](y))
        return as_float32(y).reshape(len(code), *self.image_shape)


class ConvEncoder(nn.Module):
    """3x3 convolutions of stride 2, each with BatchNorm and ReLU, flattened."""

    widths: tuple[int, ...]
    frozen_statistics: frozenset[str] = frozenset()
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, running: bool) -> jax.Array:
        """Returns [b, n] of images [b, h, w, c]."""
        for place, width in enumerate(self.widths, start=1):
            x = layers.convolution(width, 3, 2, dtype=self.dtype, name=f"conv{place}")(
                x
            )
            norm = layers.BatchNorm(
                running, self.frozen_statistics, self.dtype, name=f"bn{place}"
            )
            x = nn.relu(norm(x))
        return x.reshape(len(x), -1)


class ConvAutoencoder(nn.Module):
    """Convolutions of stride 2 down to 4x4 or less, a dense code, and back.

    Images have 8 pixels a side or more, any number: maps are cut to the extents that
    the encoder's had.

    Attributes:
      image_shape: (height, width, channels) of the images.
      latent: numbers of the code.
      width: channels of the first convolution, doubled three times at most.
      variational: the code is drawn from a normal distribution, of which mean and
        logarithm of the variance are found (Kingma and Welling 2013, arXiv 1312.6114).
      frozen_statistics, dtype: as in `resnet.ResNet`.
    """

    image_shape: tuple[int, int, int]
    latent: int = 64
    width: int = 64
    variational: bool = False
    frozen_statistics: frozenset[str] = frozenset()
    dtype: jnp.dtype | None = None

    def setup(self):
        """Makes encoder, code and decoder; raises ValueError for what does not fit."""
        check_size(self.image_shape)
        if not self.latent:
            raise ValueError("the code of a convolutional autoencoder has latent >= 1")
        extents = halve(self.image_shape[:2], lambda extent: max(extent) <= 4)
        steps = len(extents) - 1
        widths = tuple(self.width * 2 ** min(step, 3) for step in range(steps))
        options = {"frozen_statistics": self.frozen_statistics, "dtype": self.dtype}
        self.encoder = ConvEncoder(widths, **options)
        self.code = Code(self.latent, self.variational)
        self.decoder = Decoder(
            extents[::-1], (*widths[::-1], self.width), self.image_shape[2], **options
        )

    def __call__(self, images: jax.Array, train: bool = False) -> Reconstruction:
        """Returns reconstructions and codes.

        A variational one needs the rng "sample" in training; in evaluation it decodes
        the mean.
        """
        mean, log_variance = self.distribution(images, train)
        code = self.code.draw(mean, log_variance) if train else mean
        return Reconstruction(self.decode(code, train), mean, log_variance)

    def distribution(self, images: jax.Array, train: bool = False):
        """Returns mean and log-variance of codes [b, latent]; the latter may be None"""
        check_images(images, self.image_shape)
        return self.code(self.encoder(images, not train))

    def encode(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns codes [b, latent]."""
        return self.distribution(images, train)[0]

    def decode(self, code: jax.Array, train: bool = False) -> jax.Array:
        """Returns images of codes."""
        return self.decoder(code, not train)
