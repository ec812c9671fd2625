"""Products with what comes after them, in programs that infer, on CPUs."""

import jax
import jax.numpy as jnp
import pytest

from tljax import fusion, parallel
from tljax.models.lowering import processor
from tljax.models.normalization import scale_and_shift


@pytest.fixture(autouse=True)
def optimised():
    """The other tests leave most of what XLA does out."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def block(state, x):
    """Returns the outputs of two products [n, c], normalised and cut below 0."""
    outputs = []
    for kernel, *norm in state:
        x = scale_and_shift(x @ kernel, *norm, x, relu=True, dtype=jnp.float32)
        outputs.append(x)
    return outputs


@pytest.fixture
def without_amx(monkeypatch):
    """A CPU that does not multiply bfloat16 by itself."""
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: False)


def fusions(infers):
    """Returns the loops over more than a vector in the compiled program of `block`."""
    vector = jax.ShapeDtypeStruct((128,), jnp.float32)
    kernel = jax.ShapeDtypeStruct((128, 128), jnp.float32)
    state = [(kernel, *[vector] * 4)] * 2
    program, _ = parallel.compile_step(
        block,
        state,
        jax.ShapeDtypeStruct((1024, 128), jnp.float32),
        mesh=parallel.create_mesh("cpu", 1),
        infers=infers,
    )
    lines = program.as_text().split("ENTRY")[1].splitlines()
    return [line for line in lines if " = f32[1024,128]" in line and "fusion(" in line]


def test_normalisation_is_part_of_the_products(without_amx):
    """And no array of zeros is read. Alone, a product goes through memory."""
    assert fusion.is_known()
    grown = fusions(infers=True)
    assert grown
    assert all("kind=kCustom" in line for line in grown)
    assert any("kind=kLoop" in line for line in fusions(infers=False))


def test_where_it_is_left_out(without_amx, monkeypatch):
    assert fusion.compiler_options("cpu") == fusion.GROWN
    assert fusion.compiler_options("gpu") == {}
    with monkeypatch.context() as changed:
        changed.setattr(processor, "multiplies_bfloat16", lambda: True)
        assert fusion.compiler_options("cpu") == {}
    monkeypatch.setenv("XLA_FLAGS", f"--{fusion.NAME}=-reduce")
    assert fusion.compiler_options("cpu") == {}


def test_an_xla_that_does_not_know_it(without_amx, monkeypatch):
    monkeypatch.setattr(fusion, "GROWN", {"xla_cpu_no_such_option": "1"})
    monkeypatch.setattr(fusion, "is_known", fusion.is_known.__wrapped__)
    assert fusion.compiler_options("cpu") == {}
