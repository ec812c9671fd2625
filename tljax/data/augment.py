"""Operations on batches of images inside the compiled step."""

import jax
import jax.numpy as jnp


def normalize(
    images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
    """Returns (images / 255 - mean) / std of images [b, h, w, c] in 0..255.

    `mean` and `std` hold one number for all channels or one for each. The result is
    float32, float64 under `jax_enable_x64`; XLA multiplies by reciprocals, which moves
    the last bit or two.
    """
    num_channels = images.shape[-1]
    mean = jnp.broadcast_to(jnp.asarray(mean, float), (num_channels,))
    std = jnp.broadcast_to(jnp.asarray(std, float), (num_channels,))
    shape = (1, 1, 1, num_channels)
    scaled = images.astype(float) / 255.0
    return (scaled - mean.reshape(shape)) / std.reshape(shape)
