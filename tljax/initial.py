"""The first values of a state, without running the network that they are for."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def evaluate(
    function: Callable[[], Any], wanted: Callable[[str], bool] = lambda path: True
) -> Any:
    """Returns what `function()` returns, on the default device.

    Only the operations that what is `wanted` follows from are executed, one by one, as
    they are outside of `jit`: of a `model.init` that draws kernels, which are few small
    programs, and not the network, whose shapes alone are looked at. `wanted` takes a
    path, as params/fc/bias; in place of other leaves stand their shapes.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)()
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
    ]
    outputs = [
        variable
        for variable, path in zip(closed.jaxpr.outvars, paths, strict=True)
        if wanted(path)
    ]
    values = iter(core.jaxpr_as_fun(needed(closed, outputs))())
    return tree.unflatten(
        next(values) if wanted(path) else shape
        for path, (_, shape) in zip(paths, leaves, strict=True)
    )


def needed(closed: core.ClosedJaxpr, outputs: list[Any]) -> core.ClosedJaxpr:
    """Returns the part of a program that some of its outputs follow from."""
    open_ends = {each for each in outputs if isinstance(each, core.Var)}
    kept = []
    for equation in reversed(closed.jaxpr.eqns):
        if open_ends.intersection(equation.outvars):
            kept.append(equation)
            inputs = equation.invars
            open_ends |= {each for each in inputs if isinstance(each, core.Var)}
    jaxpr = closed.jaxpr.replace(
        eqns=kept[::-1], outvars=outputs, debug_info=closed.jaxpr.debug_info
    )
    return core.ClosedJaxpr(jaxpr, closed.consts)
