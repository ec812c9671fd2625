"""One number, or one choice, for each image of a batch."""

import jax
import jax.numpy as jnp


def numbers(values: jax.Array) -> jax.Array:
    """Returns values [b] as [b, 1, 1, 1], beside images [b, h, w, c]."""
    return values.reshape(-1, 1, 1, 1)


def select(chosen: jax.Array, images: jax.Array, others: jax.Array) -> jax.Array:
    """Returns images [b, h, w, c] where chosen, bool [b], and the others elsewhere."""
    return jnp.where(numbers(chosen), images, others)


def chance(key: jax.Array, p: float, num_images: int) -> jax.Array:
    """Returns bool [b], true with probability `p`: never for 0, always for 1."""
    return jax.random.bernoulli(key, p, (num_images,))


def uniform(
    key: jax.Array, num_images: int, low: float = 0.0, high: float = 1.0
) -> jax.Array:
    """Returns float32 [b], uniform in [low, high)."""
    return jax.random.uniform(key, (num_images,), jnp.float32, low, high)


def whole(key: jax.Array, counts: jax.Array) -> jax.Array:
    """Returns whole numbers float32, uniform in 0 .. counts - 1 each, as `counts`."""
    drawn = jnp.floor(jax.random.uniform(key, counts.shape, jnp.float32) * counts)
    # The product of a number just below 1 may round up to the count.
    return jnp.minimum(drawn, counts - 1)
