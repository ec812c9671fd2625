"""Weights of one model into the variables of another."""

from typing import Any

import numpy as np
from flax import traverse_util

from tljax import checkpoint
from tljax.errors import ConfigError
from tljax.pretrained.weights import Weights

HEAD = "params/fc/"


def check(weights: Weights, variables: Any) -> None:
    """Raises ConfigError, listing every array, where weights do not fit a backbone."""
    have, want = (
        {
            name: shape
            for name, shape in checkpoint.shapes(tree).items()
            if not name.startswith(HEAD)
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


def transplant(
    weights: Weights, variables: Any, class_names: tuple[str, ...]
) -> tuple[Any, str]:
    """Returns `variables` with the weights in them, and a line that says which.

    The backbone is taken. The head is taken where the weights were trained for these
    very classes in this order, and otherwise stays as it was initialised.
    """
    have = traverse_util.flatten_dict(weights.variables, sep="/")
    want = traverse_util.flatten_dict(variables, sep="/")
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
        line += f"; new, as the classes are others: {names}"
    return traverse_util.unflatten_dict({**want, **taken}, sep="/"), line
