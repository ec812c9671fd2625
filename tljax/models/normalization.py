"""Normalisation by the statistics of the batch, with its gradient written out.

Ioffe and Szegedy 2015 (arXiv 1502.03167). What automatic differentiation makes of it
goes over the images once more. ReLU and the sum of a residual block are part of it, so
that their masks are taken from the output, which the next layer keeps in any case.
"""

import functools

import jax
import jax.numpy as jnp

from tljax.models import devices
from tljax.models.lowering import mode

# PyTorch's.
EPS = 1e-5


def normalize_batch(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    added: jax.Array | None = None,
    *,
    relu: bool = False,
    centred: bool = False,
    dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the normalised x [..., c] in `dtype`, mean [c] and biased variance [c].

    `added` is added to it, then `relu` cuts what is negative. Statistics are computed
    in float32 at least, the variance in two passes: E[x^2] - E[x]^2 loses all digits
    when the mean is large beside the deviation. `centred` says that the mean is 0, but
    for rounding. Can be differentiated backward as often as wanted, forward within
    `lowering.plain()`.
    """
    if mode.current.get().plain:
        return normalize(x, scale, bias, added, relu, centred, dtype)[0]
    return normalize_with_gradient(x, scale, bias, added, relu, centred, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def normalize_with_gradient(x, scale, bias, added, relu, centred, dtype):
    """Returns what `normalize_batch` returns."""
    return normalize(x, scale, bias, added, relu, centred, dtype)[0]


def normalize(x, scale, bias, added, relu, centred, dtype):
    """Returns what `normalize_batch` returns, and what its gradient needs."""
    axes = tuple(range(x.ndim - 1))
    wide = widen(x, dtype)
    mean = jnp.zeros(x.shape[-1], wide.dtype)
    if not centred:
        mean = devices.mean(jnp.mean(wide, axes))
    var = devices.mean(jnp.mean(jnp.square(wide - along_last(mean, x.ndim)), axes))
    y = scale_and_shift(x, mean, var, scale, bias, added, relu=relu, dtype=dtype)
    return (y, mean, var), (x, scale, mean, var, added, y if relu else None)


def scale_and_shift(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    added: jax.Array | None = None,
    *,
    relu: bool,
    dtype: jnp.dtype,
) -> jax.Array:
    """Returns x [..., c] normalised by mean and variance [c], as `normalize_batch`."""
    wide, factor = widen(x, dtype), factor_of(var, scale)
    y = (wide - along_last(mean, x.ndim)) * along_last(factor, x.ndim)
    y = y + along_last(bias, x.ndim)
    if added is not None:
        y = y + widen(added, dtype)
    return (cut_below(y, bias) if relu else y).astype(dtype)


def factor_of(var: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns by what BatchNorm multiplies [c]."""
    return jax.lax.rsqrt(var + EPS) * scale


def cut_below(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns jax.nn.relu of y [..., c], to which bias [c] has been added.

    Where a library is to read a constant 0 (`tljax.fusion`), XLA makes one array of
    zeros for all layers of a shape, as large as y. So on CPUs the 0 is computed; it is
    NaN where y is.
    """
    if not mode.current.get().on_cpu:
        return jax.nn.relu(y)
    return greater(y, along_last(0 * bias, y.ndim))


@jax.custom_jvp
def greater(y: jax.Array, zero: jax.Array) -> jax.Array:
    """Returns the greater of y and a zero, with the derivative of jax.nn.relu."""
    return jnp.maximum(y, zero)


greater.defjvps(
    lambda dy, out, y, zero: jnp.where(y > 0, dy, jnp.zeros((), dy.dtype)), None
)


def gradients(relu, centred, dtype, saved, cotangents):
    """Returns the gradients of x, scale, bias and what was added.

    With z = (x - mean) / deviation: two sums over the batch, of dy and of dy * z, and
    dx is linear in dy and z. What comes to mean and variance goes into its factors.
    """
    x, scale, mean, var, added, y = saved
    dy, dmean, dvar = cotangents
    ndim, axes, size = x.ndim, tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    if relu:
        dy = jnp.where(y > 0, dy, jnp.zeros((), dy.dtype))
    wide, centred = widen(dy, dtype), widen(x, dtype) - along_last(mean, ndim)
    inverse = jax.lax.rsqrt(var + EPS)
    dbias = jnp.sum(wide, axes)
    dscale = jnp.sum(wide * centred, axes) * inverse
    factor = scale * inverse
    # Scale and bias are of each device; mean and variance are of all of them.
    slope = devices.mean(2 * dvar - factor * inverse * dscale) / size
    shift = devices.mean(dmean - factor * dbias) / size
    dx = wide * along_last(factor, ndim) + centred * along_last(slope, ndim)
    dx = dx + along_last(shift, ndim)
    dadded = None if added is None else dy.astype(added.dtype)
    return dx.astype(x.dtype), dscale, dbias, dadded


normalize_with_gradient.defvjp(normalize, gradients)


def widen(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns x in float32 at least, in which it is reckoned with."""
    return x.astype(jnp.promote_types(dtype, jnp.float32))


def along_last(values: jax.Array, ndim: int) -> jax.Array:
    """Returns values [features] with the rank `ndim`: [1, ..., 1, features]."""
    return values.reshape((1,) * (ndim - 1) + values.shape)
