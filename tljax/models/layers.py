"""The convolution, normalisation and linear layers that the models share."""

import jax
import jax.numpy as jnp
from flax import linen as nn

# torchvision: kaiming_normal_(mode="fan_out", nonlinearity="relu"), He et al. 2015.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolution(
    features: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    *,
    dtype: jnp.dtype | None,
    name: str,
) -> nn.Conv:
    """Returns a convolution without bias, padded as PyTorch pads.

    The padding is symmetric, `kernel_size // 2` on each side. XLA's "SAME" would pad
    (0, 1) at stride 2 and an even extent, which shifts every following activation.
    """
    padding = kernel_size // 2
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides=stride,
        padding=((padding, padding), (padding, padding)),
        feature_group_count=groups,
        use_bias=False,
        dtype=dtype,
        kernel_init=kaiming_normal,
        name=name,
    )


def batch_norm(train: bool, *, dtype: jnp.dtype | None, name: str) -> nn.BatchNorm:
    """Returns a batch normalisation over all axes but the last.

    PyTorch's momentum 0.1 is the weight of the new value, Flax's 0.9 that of the old.
    The variance is computed in two passes: E[x^2] - E[x]^2 loses all digits when the
    mean is large beside the deviation. Statistics are float32 for any `dtype`; the
    running variance is the biased one, where PyTorch keeps n / (n - 1) of it.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        use_fast_variance=False,
        dtype=dtype,
        name=name,
    )


def linear(features: int, fan_in: int, *, name: str) -> nn.Dense:
    """Returns a dense layer initialised as `torch.nn.Linear` is.

    Weight and bias are uniform in +-1/sqrt(fan_in).
    """
    bound = fan_in**-0.5

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(features, kernel_init=uniform, bias_init=uniform, name=name)
