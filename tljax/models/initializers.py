"""First values of parameters."""

import math

import jax
import jax.numpy as jnp


def kaiming_normal(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32):
    """Returns a kernel [..., in, out] from a normal of variance 2 / fan out.

    torchvision: `kaiming_normal_(mode="fan_out", nonlinearity="relu")`, He et al. 2015
    (arXiv 1502.01852). The numbers are those of Flax's `variance_scaling(2.0,
    "fan_out", "normal")`. They are drawn in one of few lengths, so that few programs
    are compiled for the kernels of a whole network: number i of a draw does not depend
    on how many there are.
    """
    size = math.prod(shape)
    fan_out = size // shape[-2]
    length = 4 ** max(math.ceil(math.log(size, 4)), 6)
    drawn = jax.random.normal(key, (length,), dtype)[:size].reshape(shape)
    return drawn * jnp.sqrt(jnp.array(2 / fan_out, dtype))
