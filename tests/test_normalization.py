"""BatchNorm with its gradient written out, and max pooling: what JAX makes of both."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tljax.models import layers, lowering
from tljax.models.normalization import cut_below, normalize_batch
from tljax.models.pooling import max_pool


def arguments(shape=(3, 4, 2, 5), mean=0.0):
    """Returns x, scale, bias and what is added, float64."""
    rng = np.random.default_rng(0)
    sizes = shape, shape[-1:], shape[-1:], shape
    x, *others = (rng.normal(size=size) for size in sizes)
    return x + mean, *others


def loss(x, scale, bias, added, relu, dtype):
    """Returns a number on which output, mean and variance have an influence."""
    y, mean, var = normalize_batch(x, scale, bias, added, relu=relu, dtype=dtype)
    y = y.astype(jnp.promote_types(dtype, jnp.float32))
    return jnp.sum(jnp.sin(y) * jnp.arange(y.size).reshape(y.shape)) + jnp.sum(
        mean**2 + var**3
    )


def penalty(x, *others, **how):
    """Returns the squared norm of a gradient."""
    grad = jax.grad(functools.partial(loss, **how))
    return jnp.sum(grad(x, *others) ** 2)


def test_what_cuts_below_zero_is_relu():
    """At 0 too, where a maximum would have half of the derivative, and at NaN."""
    y = jnp.array([[-2.0, -0.0, 0.0, 1e-30, 3.0, jnp.nan, jnp.inf, -jnp.inf]])
    bias = jnp.arange(8.0)
    found, gradient = jax.vjp(lambda y: cut_below(y, bias), y)
    wanted, relus = jax.vjp(jax.nn.relu, y)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(gradient(bias[None] + 1), relus(bias[None] + 1))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("adds", [False, True])
def test_gradients_of_both_orders_are_jaxs(relu, adds):
    """Of x, scale, bias and what is added, in float64, one by one and for examples."""
    with jax.enable_x64(True):
        given = [jnp.asarray(part) for part in arguments()]
        given[3] = given[3] if adds else None
        places = (0, 1, 2, 3) if adds else (0, 1, 2)
        how = {"relu": relu, "dtype": jnp.float64}

        def derivatives(*given):
            examples = jax.vmap(
                jax.grad(functools.partial(loss, **how), places),
                (0, None, None, 0 if adds else None),
            )
            return (
                jax.grad(functools.partial(loss, **how), places)(*given),
                jax.grad(functools.partial(penalty, **how), places)(*given),
                examples(*given),
            )

        @jax.jit
        def compute(*given):
            ours = derivatives(*given)
            with lowering.plain():
                return ours, derivatives(*given)

        for ours, plain in zip(*map(jax.tree.leaves, compute(*given)), strict=True):
            assert ours.dtype == jnp.float64
            scale = np.abs(plain).max()
            np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-10 * scale)


def test_a_mean_that_is_large_costs_no_digits():
    """E[x^2] - E[x]^2 would lose all: deviations are 1 and the mean is 10,000."""
    x, scale, bias, _ = (part.astype(np.float32) for part in arguments(mean=1e4))
    y, _, var = normalize_batch(x, scale, bias, dtype=jnp.float32)
    wide = x.astype(np.float64)
    exact = wide.var((0, 1, 2))
    np.testing.assert_allclose(var, exact, rtol=1e-3)
    expected = (wide - wide.mean((0, 1, 2))) / np.sqrt(exact + 1e-5) * scale + bias
    np.testing.assert_allclose(y, expected, atol=5e-3)


def test_bfloat16_leaves_no_float32_images_in_memory():
    """Sums are in float32, but all that the program writes of x's size is bfloat16."""
    shape = (8, 6, 7, 16)
    half = jnp.zeros(shape, jnp.bfloat16)
    ones = jnp.ones(16)

    def step(x, scale, bias, added, dy):
        def run(x, scale, bias, added):
            normed = normalize_batch(
                x, scale, bias, added, relu=True, dtype=jnp.bfloat16
            )
            return normed[0]

        y, backward = jax.vjp(run, x, scale, bias, added)
        return y, backward(dy)

    # A library of CPUs would take the sums, and with them what it cannot fuse.
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
    lowered = jax.jit(step).lower(half, ones, ones, half, half)
    program = lowered.compile(compiler_options=options).as_text()
    written = re.findall(r"= \(?(\w+)\[8,6,7,16\]", program[program.index("\nENTRY") :])
    assert "bf16" in written and set(written) <= {"bf16", "pred"}


def test_the_layer_adds_and_cuts_in_either_form():
    """With the statistics of the batch and with the running ones, it is one pass."""
    x, scale, bias, added = (
        jnp.asarray(part.astype(np.float32)) for part in arguments()
    )
    stats = {"mean": bias, "var": scale**2}
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
    for running in (False, True):
        layer = layers.BatchNorm(running)
        found, _ = layer.apply(variables, x, added, relu=True, mutable=["batch_stats"])
        plain, _ = layer.apply(variables, x, mutable=["batch_stats"])
        np.testing.assert_allclose(found, nn.relu(plain + added), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 7, 8, 3), (1, 4, 1, 2)])
def test_pooling_is_xlas_with_its_gradient(shape):
    """Whole numbers, many of them equal: the first in a window has the gradient."""
    x = jnp.asarray(np.random.default_rng(0).integers(0, 4, shape), jnp.float32)
    xlas = functools.partial(
        nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1))
    )
    ours = functools.partial(max_pool, size=3, stride=2, padding=1)

    @jax.jit
    def compute(x):
        found = []
        for pool in (ours, xlas):
            y, backward = jax.vjp(pool, x)
            weights = jnp.arange(y.size, dtype=y.dtype).reshape(y.shape) + 1
            found.append((y, backward(weights)[0]))
        return found

    found, expected = compute(x)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_pooling_of_bfloat16_rounds_its_gradient_once():
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.randint(keys[0], (2, 9, 9, 3), 0, 4).astype(jnp.bfloat16)
    weights = jax.random.normal(keys[1], (2, 5, 5, 3), jnp.bfloat16)

    @jax.jit
    def compute(x, weights):
        y, backward = jax.vjp(lambda x: max_pool(x, 3, 2, 1), x)
        return y, backward(weights)[0]

    found = compute(x, weights)
    wide = compute(x.astype(jnp.float32), weights.astype(jnp.float32))
    expected = [each.astype(jnp.bfloat16) for each in wide]
    jax.tree.map(np.testing.assert_array_equal, found, tuple(expected))


def test_pooling_keeps_what_is_not_a_number_and_what_is_infinite():
    x = jnp.full((1, 4, 4, 1), -jnp.inf).at[0, 0, 0, 0].set(jnp.nan)
    y = max_pool(x, 3, 2, 1)[0, :, :, 0]
    assert jnp.isnan(y[0, 0]) and (y.ravel()[1:] == -jnp.inf).all()
