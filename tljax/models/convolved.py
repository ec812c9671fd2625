"""A convolution and the BatchNorm after it, in one where oneDNN convolves.

It adds to what it has summed up, and cuts what is negative, before it writes the
numbers to memory; XLA's convolutions do not. So the statistics of BatchNorm go into
kernel and sums where they are known, and the mean of a batch where it is soon found.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from tljax.models import lowering
from tljax.models.lowering import choice, forms
from tljax.models.normalization import (
    along_last,
    factor_of,
    normalize_batch,
    scale_and_shift,
)


class Pending(NamedTuple):
    """A convolution that is still to be computed.

    Attributes:
      images: [b, h, w, cin].
      kernel: [kh, kw, cin / groups, cout], of any dtype.
      window: how it moves.
    """

    images: jax.Array
    kernel: jax.Array
    window: lowering.Window

    @property
    def case(self) -> choice.Case:
        """What is known of it."""
        how = self.window, self.images.dtype, lowering.current.get()
        return choice.case_of(self.images.shape, self.kernel.shape, *how)

    def compute(
        self,
        kernel: jax.Array,
        shift: jax.Array,
        added: jax.Array | None = None,
        relu: bool = False,
    ) -> jax.Array:
        """Returns it by another kernel, with what `lowering.convolve_and_add` adds."""
        kernel = kernel.astype(self.images.dtype)
        return lowering.convolve_and_add(
            self.images, kernel, shift, added, self.window, relu
        )


def normalize_by(
    statistics: tuple[jax.Array, jax.Array],
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    added: jax.Array | None,
    *,
    conv: nn.Module | None,
    relu: bool,
    dtype: jnp.dtype,
) -> jax.Array:
    """Returns x, by `conv` if there is one, normalised by (mean, variance) [c].

    As `normalization.scale_and_shift`. What it multiplies by goes into the kernel,
    where that is small: it is rewritten each time.
    """
    mean, var = statistics
    if conv is not None:
        pending = conv.pending(x)
        if pending.case.is_folded:
            factor = factor_of(var, scale)
            kernel = pending.kernel * along_last(factor, 4)
            return pending.compute(kernel, bias - mean * factor, added, relu)
        x = conv(x)
    return scale_and_shift(x, mean, var, scale, bias, added, relu=relu, dtype=dtype)


def normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    added: jax.Array | None,
    *,
    conv: nn.Module | None,
    relu: bool,
    dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns x, by `conv` if there is one, normalised, its mean and its variance.

    As `normalization.normalize_batch`. The mean of a product is the product of the
    mean: of kernels of one pixel with few inputs it is found first, and subtracted by
    the convolution. No gradient goes that way: what BatchNorm gives back sums up to 0.
    """
    how = {"relu": relu, "dtype": dtype}
    if conv is not None:
        pending = conv.pending(x)
        if pending.case.is_centred:
            mean = jax.lax.stop_gradient(mean_of(pending))
            x = pending.compute(pending.kernel, -mean)
            y, _, var = normalize_batch(x, scale, bias, added, centred=True, **how)
            return y, mean, var
        x = conv(x)
    return normalize_batch(x, scale, bias, added, **how)


def mean_of(pending: Pending) -> jax.Array:
    """Returns the mean [cout] of the convolution by a kernel of one pixel."""
    pixels = forms.strided(pending.images, pending.window.stride)
    # In the dtype of the images: as it will be multiplied.
    matrix = pending.kernel[0, 0].astype(pixels.dtype)
    return jnp.mean(forms.widened(pixels), (0, 1, 2)) @ forms.widened(matrix)
