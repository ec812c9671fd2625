"""Operations on batches of images inside the compiled step."""

import jax
import jax.numpy as jnp

from tljax.errors import ConfigError


def normalize(
    images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
    """Returns (images / 255 - mean) / std as float32, from uint8 [b, h, w, c].

    `mean` and `std` hold one number for all channels or one for each.
    """
    num_channels = images.shape[-1]
    mean = jnp.broadcast_to(jnp.asarray(mean, jnp.float32), (num_channels,))
    std = jnp.broadcast_to(jnp.asarray(std, jnp.float32), (num_channels,))
    shape = (1, 1, 1, num_channels)
    scaled = images.astype(jnp.float32) / 255.0
    return (scaled - mean.reshape(shape)) / std.reshape(shape)


def check_statistics(config, num_channels: int) -> None:
    """Raises ConfigError where `config.mean` or `config.std` does not fit the images.

    `config` is the `data` part of a Config.
    """
    for name, values in (("mean", config.mean), ("std", config.std)):
        if len(values) not in (1, num_channels):
            raise ConfigError(
                f"config.data.{name} = {values} must hold one number, or one for each "
                f"of the {num_channels} channels"
            )
