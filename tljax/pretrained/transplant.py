"""Weights of one model into the variables of another."""

from typing import Any

import numpy as np
from flax import traverse_util

from tljax.errors import ConfigError
from tljax.pretrained.weights import Weights

HEAD = "params/fc/"


def check(weights: Weights, variables: Any) -> None:
    """Raises ConfigError, listing every array, where weights do not fit a backbone."""
    have, want = flatten(weights.variables), flatten(variables)
    problems = [
        f"- {name} {have[name].shape}"
        for name in have
        if name not in want and not name.startswith(HEAD)
    ]
    for name, leaf in want.items():
        if name.startswith(HEAD):
            continue
        if name not in have:
            problems.append(f"+ {name} {leaf.shape}")
        elif have[name].shape != leaf.shape:
            problems.append(f"{name} {have[name].shape}, not {leaf.shape}")
    if problems:
        raise ConfigError(
            f"weights of {weights.origin} do not fit the model "
            f"(- unused, + missing, or other shapes): {'; '.join(problems)}"
        )


def transplant(
    weights: Weights, variables: Any, class_names: tuple[str, ...]
) -> tuple[Any, str]:
    """Returns `variables` with the weights in them, and a line that says which.

    The backbone is taken. The head is taken where the weights were trained for these
    very classes in this order, and otherwise stays as it was initialised.
    """
    have, want = flatten(weights.variables), flatten(variables)
    keep_head = weights.class_names == class_names
    left = [name for name in want if name.startswith(HEAD) and not keep_head]
    taken = {
        name: np.asarray(have[name], leaf.dtype)
        for name, leaf in want.items()
        if name not in left
    }
    values = sum(leaf.size for leaf in taken.values())
    line = f"{len(taken)} arrays ({values:,} values) taken from {weights.origin}"
    if left:
        names = ", ".join(name.removeprefix("params/") for name in left)
        line += f"; left, for its classes are others: {names}"
    return traverse_util.unflatten_dict({**want, **taken}, sep="/"), line


def flatten(variables: Any) -> dict[str, Any]:
    """Returns {"params/conv1/kernel": array, ...}."""
    return traverse_util.flatten_dict(variables, sep="/")
