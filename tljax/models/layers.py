"""The convolution, normalisation and linear layers that the models share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tljax.models import convolved, devices, lowering
from tljax.models.initializers import kaiming_normal
from tljax.models.lowering import parts
from tljax.models.normalization import along_last


class Convolution(nn.Module):
    """A convolution padded by zeros, in the form that is fastest where it runs.

    Attributes:
      features: channels of the output.
      kernel_size: of a side; the kernel is [k, k, cin / groups, features].
      stride: in both directions.
      padding: pixels of zeros on each side.
      groups: into which channels are divided.
      use_bias: add a bias to each channel.
      dtype: of the computation, None for that of images and kernel.
      kernel_init: initial values of the kernel.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    use_bias: bool = False
    dtype: jnp.dtype | None = None
    kernel_init: nn.initializers.Initializer = kaiming_normal

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [b, oh, ow, features] of x [b, h, w, c]."""
        kernel, bias = self.weights(x.shape[-1])
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = lowering.convolve(x, kernel, self.window)
        return y if bias is None else y + along_last(bias, y.ndim)

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """Returns the kernel, and the bias [features] if there is one."""
        shape = (*self.window.size, channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if not self.use_bias:
            return kernel, None
        like = (self.features,), jnp.float32
        return kernel, self.param("bias", nn.initializers.zeros, *like)

    @property
    def window(self) -> lowering.Window:
        """How the kernel moves."""
        size, sides = (self.kernel_size,) * 2, ((self.padding,) * 2,) * 2
        return lowering.Window(size, self.stride, sides, self.groups)

    def pending(self, x: jax.Array) -> convolved.Pending:
        """Returns the convolution of x, still to be computed.

        Raises ValueError where it has a bias, which BatchNorm would undo.
        """
        if self.use_bias:
            raise ValueError("BatchNorm takes a convolution without a bias")
        kernel, _ = self.weights(x.shape[-1])
        x, _ = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return convolved.Pending(x, kernel, self.window)


def convolution(
    features: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    *,
    dtype: jnp.dtype | None,
    name: str,
) -> Convolution:
    """Returns a convolution without bias, padded as PyTorch pads.

    The padding is symmetric, `kernel_size // 2` on each side. XLA's "SAME" would pad
    (0, 1) at stride 2 and an even extent, which shifts every following activation.
    """
    padding = kernel_size // 2
    return Convolution(
        features, kernel_size, stride, padding, groups, dtype=dtype, name=name
    )


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as PyTorch computes it.

    Ioffe and Szegedy 2015 (arXiv 1502.03167). The batch is normalised by its biased
    variance; the running variance keeps the unbiased one, n / (n - 1) of it, where
    Flax keeps the biased. 0.9 is the weight of the old value: PyTorch's momentum 0.1 is
    that of the new one. The variance is computed in two passes, as E[x^2] - E[x]^2
    loses all digits when the mean is large beside the deviation.

    Attributes:
      use_running_average: normalise with the running statistics and leave them alone.
      frozen: names of the layers, as layer1_0/bn1, that do so in any case.
      dtype: of the output, None for that of the input. Statistics are computed in
        float32 at least, over the batch of all devices.
    """

    use_running_average: bool
    frozen: frozenset[str] = frozenset()
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        added: jax.Array | None = None,
        *,
        relu: bool = False,
        conv: Convolution | None = None,
    ) -> jax.Array:
        """Returns x [..., features], normalised, scaled and shifted.

        Then `added` is added and with `relu` the negative is cut: in one pass, which is
        faster than three. `conv` convolves x before, in the same pass where it can.
        Raises ValueError where a batch has one value a channel, and so no variance.
        """
        like = (conv.features if conv else x.shape[-1],), jnp.float32
        scale = self.param("scale", nn.initializers.ones, *like)
        bias = self.param("bias", nn.initializers.zeros, *like)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, *like)
        running_var = self.variable("batch_stats", "var", jnp.ones, *like)
        how = {"relu": relu, "dtype": self.dtype or jnp.result_type(x, scale)}
        if self.use_running_average or "/".join(self.path) in self.frozen:
            statistics = running_mean.value, running_var.value
            return convolved.normalize_by(
                statistics, x, scale, bias, added, conv=conv, **how
            )
        y, mean, var = convolved.normalize(x, scale, bias, added, conv=conv, **how)
        if not self.is_initializing():
            n = y.size // y.shape[-1] * devices.count()
            if n == 1:
                raise ValueError(
                    "BatchNorm needs more than one value a channel to train: a larger "
                    "batch or larger images"
                )
            running_mean.value = 0.9 * running_mean.value + 0.1 * mean
            running_var.value = 0.9 * running_var.value + 0.1 * var * (n / (n - 1))
        return y


def few_at_a_time(
    function: Callable[[nn.Module, jax.Array], Any],
    module: nn.Module,
    images: jax.Array,
    values: int,
) -> Any:
    """Returns function(module, images), whose rows do not depend on one another.

    On a CPU, of so few images [b, h, w, c] at a time that `values` of each stay in its
    caches. Not where the module writes variables: a loop only reads them; nor where
    oneDNN is called, which is faster with more: 1.0 to 1.1 times (Intel Xeon).
    """
    mode = lowering.current.get()
    size = parts.size_of(len(images), values, parts.AT_ONCE)
    few = mode.on_cpu and not (mode.divided or mode.plain or mode.library)
    whole = size == len(images) or not few
    kinds = ("params", "batch_stats", "intermediates")
    if whole or any(module.is_mutable_collection(kind) for kind in kinds):
        return function(module, images)
    scan = nn.scan(
        lambda module, carry, part: (carry, function(module, part)),
        variable_broadcast=True,
    )
    with lowering.inside_loop():
        _, found = scan(module, None, images.reshape(-1, size, *images.shape[1:]))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)


def drop(x: jax.Array, rate: float) -> jax.Array:
    """Returns x with a `rate` of its values 0 and the others times 1 / (1 - rate).

    Srivastava et al. 2014 (JMLR 15), as torch's `dropout`. To be called in a module
    that is given the rng "dropout", which rate 0 does not need.
    """
    return nn.Dropout(rate, deterministic=False)(x) if rate else x


def drop_rows(x: jax.Array, rate: float) -> jax.Array:
    """Returns x [b, ...] with a `rate` of its rows 0 and the others as `drop` has them.

    Huang et al. 2016 (arXiv 1603.09382), as torchvision's `stochastic_depth` in the
    mode "row": each image of a batch has a draw of its own.
    """
    rest = tuple(range(1, x.ndim))
    return nn.Dropout(rate, rest, deterministic=False)(x) if rate else x


def linear(features: int, fan_in: int, *, name: str) -> nn.Dense:
    """Returns a dense layer initialised as `torch.nn.Linear` is.

    Weight and bias are uniform in +-1/sqrt(fan_in).
    """
    bound = fan_in**-0.5

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(features, kernel_init=uniform, bias_init=uniform, name=name)
