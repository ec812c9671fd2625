"""Losses of generators and discriminators by name, and penalties on gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

log_sigmoid = jax.nn.log_sigmoid


class AdversarialLoss(NamedTuple):
    """What each side minimises: means over a batch of functions of logits.

    Attributes:
      real, fake: the discriminator's, of its logits of real and of generated images.
      generator: the generator's, of the logits of generated images.
      bound: the least value of the discriminator's loss; None where there is none.
    """

    real: Callable[[jax.Array], jax.Array]
    fake: Callable[[jax.Array], jax.Array]
    generator: Callable[[jax.Array], jax.Array]
    bound: float | None = 0.0


def discriminator_loss(
    loss: AdversarialLoss, real: jax.Array, fake: jax.Array
) -> jax.Array:
    """Returns a scalar of the logits [b] of real and of generated images."""
    return jnp.mean(loss.real(real)) + jnp.mean(loss.fake(fake))


def generator_loss(loss: AdversarialLoss, fake: jax.Array) -> jax.Array:
    """Returns a scalar of the logits [b] of generated images."""
    return jnp.mean(loss.generator(fake))


def squared_slopes(
    discriminate: Callable[[jax.Array], jax.Array], images: jax.Array
) -> jax.Array:
    """Returns the squared norm [b] of the gradient of each logit by its image.

    `discriminate` takes images [b, h, w, c] and returns logits [b], each of its image
    alone: then the gradient of their sum holds that of each.
    """
    slopes = jax.grad(lambda images: jnp.sum(discriminate(images)))(images)
    return jnp.sum(jnp.square(slopes), axis=(1, 2, 3))


def gradient_penalty(
    key: jax.Array,
    discriminate: Callable[[jax.Array], jax.Array],
    real: jax.Array,
    fake: jax.Array,
) -> jax.Array:
    """Returns the mean of (|gradient| - 1)^2 at points between real and generated.

    Gulrajani et al. 2017 (arXiv 1704.00028): one point on the line between each pair of
    images [b, h, w, c], drawn uniformly.
    """
    share = jax.random.uniform(key, (len(real), 1, 1, 1), real.dtype)
    between = share * real + (1 - share) * fake
    squares = squared_slopes(discriminate, between)
    # The root has no slope at 0.
    slopes = jnp.sqrt(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny))
    return jnp.mean(jnp.square(slopes - 1))


def r1_penalty(
    discriminate: Callable[[jax.Array], jax.Array], real: jax.Array
) -> jax.Array:
    """Returns half the mean of |gradient|^2 at real images.

    Mescheder et al. 2018 (arXiv 1801.04406).
    """
    return jnp.mean(squared_slopes(discriminate, real)) / 2


def share_told_apart(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Returns the share of pairs of which the real image has the higher logit.

    1/2 where the discriminator cannot tell, 1 where it always can; a tie counts half.
    It needs no threshold, which a critic has not.
    """
    signs = jnp.sign(real[:, None] - fake[None, :])
    # XLA's sum of a whole matrix is several times slower on CPUs than this product,
    # which is exact in any precision.
    return (jnp.mean(signs @ jnp.ones_like(fake)) / len(fake) + 1) / 2


def spread(images: jax.Array) -> jax.Array:
    """Returns the root of the mean squared distance of two images of a batch.

    Of all pairs of different images [b, h, w, c]: twice their unbiased variance, summed
    over pixels. 0 for a single image.
    """
    # As a matrix: XLA's sum over four axes is ten times slower on CPUs.
    pixels = images.reshape(len(images), -1)
    squares = jnp.square(pixels - jnp.mean(pixels, axis=0, keepdims=True))
    return jnp.sqrt(2 * jnp.sum(squares) / max(len(images) - 1, 1))


# Goodfellow et al. 2014 (arXiv 1406.2661): the discriminator maximises the value
# E[log D(x)] + E[log(1 - D(G(z)))] with D the sigmoid of its logit; the generator
# minimises it ("minimax"), or maximises E[log D(G(z))] ("non_saturating").
CROSS_ENTROPY = {
    "real": lambda logits: -log_sigmoid(logits),
    "fake": lambda logits: -log_sigmoid(-logits),
}
LOSSES = {
    "minimax": AdversarialLoss(
        **CROSS_ENTROPY, generator=lambda logits: log_sigmoid(-logits)
    ),
    "non_saturating": AdversarialLoss(
        **CROSS_ENTROPY, generator=lambda logits: -log_sigmoid(logits)
    ),
    # Lim and Ye 2017 (arXiv 1705.02894).
    "hinge": AdversarialLoss(
        real=lambda logits: jax.nn.relu(1 - logits),
        fake=lambda logits: jax.nn.relu(1 + logits),
        generator=lambda logits: -logits,
    ),
    # Arjovsky et al. 2017 (arXiv 1701.07875).
    "wasserstein": AdversarialLoss(
        real=lambda logits: -logits,
        fake=lambda logits: logits,
        generator=lambda logits: -logits,
        bound=None,
    ),
    # Mao et al. 2016 (arXiv 1611.04076), with a = 0 and b = c = 1.
    "least_squares": AdversarialLoss(
        real=lambda logits: optax.l2_loss(logits, jnp.ones_like(logits)),
        fake=lambda logits: optax.l2_loss(logits),
        generator=lambda logits: optax.l2_loss(logits, jnp.ones_like(logits)),
    ),
}
