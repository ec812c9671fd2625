"""The first values of a state, without running the network that they are for."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core

from tljax.models import lowering


@functools.partial(jax.jit, static_argnums=(0, 2))
def init(
    model: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Returns the variables of a model of images (height, width, channels), from `key`.

    Traced once for a model and a shape: what the network computes in some mode, or on
    some devices, makes no difference to its variables.
    """
    with lowering.plain():  # Quicker to trace, and nothing of it is computed.
        return model.init(key, jnp.zeros((1, *image_shape)))


def create_variables(
    model: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Returns what `init` does, by the operations alone that its result follows from.

    They are traced as if they stood here, so that `evaluate` sees each of them.
    """
    traced = init.trace(model, key, image_shape)
    inputs, outputs = traced.jaxpr.jaxpr.invars, traced.jaxpr.jaxpr.outvars
    leaves = core.jaxpr_as_fun(program(traced.jaxpr, inputs, outputs))(key)
    return jax.tree.unflatten(jax.tree.structure(traced.out_info), leaves)


def shapes_of(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Returns shapes and dtypes of the variables of a model."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        init.trace(model, key, image_shape).out_info,
    )


def evaluate(
    function: Callable[[], Any],
    wanted: Callable[[str], bool] = lambda path: True,
    device: jax.Device | None = None,
) -> Any:
    """Returns what `function()` returns, on a device, by default JAX's.

    Only the operations that what is `wanted` follows from are executed: of a
    `model.init` those that draw kernels, and not the network, whose shapes alone are
    looked at. What is compiled already, as the draws of `jax.random` are, is executed
    by itself, so that kernels share its programs; the rest is one small program.
    `wanted` takes a path, as params/fc/bias; in place of other leaves stand their
    shapes.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)()
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    chosen = [
        wanted(jax.tree_util.keystr(path, simple=True, separator="/"))
        for path, _ in leaves
    ]
    variables = zip(closed.jaxpr.outvars, chosen, strict=True)
    outputs = [variable for variable, keep in variables if keep]
    draws = [
        variable
        for equation in leading_to(closed.jaxpr.eqns, outputs)
        if equation.primitive.name in ("jit", "pjit")
        for variable in equation.outvars
        if not isinstance(variable, core.DropVar)
    ]
    # Here and not above: what is traced for one device is traced again for another.
    with jax.default_device(device) if device else contextlib.nullcontext():
        drawn = core.jaxpr_as_fun(program(closed, [], draws))()
        rest = jax.jit(core.jaxpr_as_fun(program(closed, draws, outputs)))
        values = iter(rest(*drawn))
    return tree.unflatten(
        next(values) if keep else shape
        for keep, (_, shape) in zip(chosen, leaves, strict=True)
    )


def leading_to(equations: list[Any], outputs: list[Any]) -> list[Any]:
    """Returns those of the operations that some variables follow from, in order."""
    ends = {each for each in outputs if isinstance(each, core.Var)}
    kept = []
    for equation in reversed(equations):
        if ends.intersection(equation.outvars):
            kept.append(equation)
            ends |= {each for each in equation.invars if isinstance(each, core.Var)}
    return kept[::-1]


def program(
    closed: core.ClosedJaxpr, inputs: list[Any], outputs: list[Any]
) -> core.ClosedJaxpr:
    """Returns the part of a program that leads from some of its variables to others."""
    known = set(inputs)
    equations = [each for each in closed.jaxpr.eqns if not known & set(each.outvars)]
    jaxpr = closed.jaxpr.replace(
        invars=inputs, outvars=outputs, eqns=leading_to(equations, outputs)
    )
    return core.ClosedJaxpr(jaxpr, closed.consts)
