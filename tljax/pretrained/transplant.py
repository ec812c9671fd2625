"""Weights of one model into the variables of another."""

from typing import Any

import numpy as np
from flax import traverse_util

from tljax import checkpoint
from tljax.errors import ConfigError
from tljax.pretrained.weights import Weights

HEAD = "params/fc/"


def keeps_head(weights: Weights, class_names: tuple[str, ...], head: str) -> bool:
    """Returns whether a run takes the head: "auto" does where the classes are equal."""
    return head == "keep" or (head == "auto" and weights.class_names == class_names)


def check(weights: Weights, variables: Any, keep_head: bool) -> None:
    """Raises ConfigError, listing every array, where weights do not fit a model."""
    have, want = (
        {
            name: shape
            for name, shape in checkpoint.shapes(tree).items()
            if keep_head or not name.startswith(HEAD)
        }
        for tree in (weights.variables, variables)
    )
    differences = checkpoint.compare_shapes(have, want)
    if differences:
        raise ConfigError(
            f"weights of {weights.origin}, which are of the model {weights.model}, do "
            "not fit this one (- unused, + missing, or other shapes): "
            f"{'; '.join(differences)}"
        )


def transplant(weights: Weights, variables: Any, keep_head: bool) -> tuple[Any, str]:
    """Returns `variables` with the weights in them, and a line that says which.

    The backbone is taken; without `keep_head` the head stays as it was initialised.
    """
    have = traverse_util.flatten_dict(weights.variables, sep="/")
    want = traverse_util.flatten_dict(variables, sep="/")
    new = [name for name in want if name.startswith(HEAD) and not keep_head]
    taken = {
        name: np.asarray(have[name], leaf.dtype)
        for name, leaf in want.items()
        if name not in new
    }
    values = sum(leaf.size for leaf in taken.values())
    line = f"{len(taken)} arrays ({values:,} values) taken from {weights.origin}"
    if weights.left:
        line += f"; its {weights.left} other arrays are left"
    if new:
        names = ", ".join(name.removeprefix("params/") for name in new)
        line += f"; new: {names}"
    return traverse_util.unflatten_dict({**want, **taken}, sep="/"), line
