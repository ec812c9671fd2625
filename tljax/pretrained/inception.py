"""The weights of FID's Inception, from a file that the user has: to our variables.

It is pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`: TensorFlow's weights under
torchvision's names. Nothing is downloaded.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tljax.errors import WeightsError, quote
from tljax.models.inception import SIZE, FidInception
from tljax.pretrained import files, mapping

FILE = "pt_inception-2015-12-05-6726825d.pth"
HASH_PREFIX = "6726825d"
# What measures in it are called FID and KID by.
NAME = "inception-2015-12-05"
# The classes of this file; torchvision's own Inception has 1,000, and gives no FID.
HEAD = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
# torchvision's name of a leaf of ours.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
MAX_LISTED = 20


def load(path: Path) -> tuple[dict[str, Any], str]:
    """Returns {"params", "batch_stats"} for `FidInception` and the network's name.

    The name is NAME where the file's SHA-256 begins with HASH_PREFIX, which a file
    called FILE must; for another, `inception_` and the first 8 digits of its own.
    Raises ConfigError where there is no such file, WeightsError where it is damaged or
    of another network, torchvision's Inception among them.
    """
    published = path.name == FILE
    state = files.read(path, hash_prefix=HASH_PREFIX if published else "")
    try:
        variables = to_variables(state.tensors)
    except WeightsError as error:
        raise WeightsError(f"{path} cannot be used: {error}") from None
    digits = HASH_PREFIX if published else files.sha256(path)[:8]
    return variables, NAME if digits == HASH_PREFIX else f"inception_{digits}"


def to_variables(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the variables, float32, in a state dict of FID's Inception.

    Its head is left out. Raises WeightsError that names what does not fit.
    """
    paths, shapes = layout()
    state = {key: value for key, value in state.items() if not mapping.is_counter(key)}
    have = {key: tuple(value.shape) for key, value in state.items()}
    listed = (
        [f"- {quote(key)}" for key in have if key not in shapes]
        + [f"+ {key}" for key in shapes if key not in have]
        + [
            f"{key} {have[key]}, not {shape}"
            for key, shape in shapes.items()
            if have.get(key, shape) != shape
        ]
    )
    if len(listed) > MAX_LISTED:
        listed[MAX_LISTED:] = [f"and {len(listed) - MAX_LISTED:,} more"]
    if listed:
        raise WeightsError(
            "it is not FID's Inception (- unexpected, + missing, or other shapes): "
            f"{'; '.join(listed)}"
        )
    found = {}
    for key, path in paths.items():
        if not jnp.issubdtype(state[key].dtype, jnp.floating):
            raise WeightsError(f"{key} holds no floats")
        found[path] = mapping.from_torch(state[key])
    return traverse_util.unflatten_dict(found)


def layout() -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[int, ...]]]:
    """Returns the place in our variables, and the shape, by torchvision's names.

    The head has a shape and no place.
    """
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    tree = jax.eval_shape(FidInception().init, jax.random.key(0), image)
    paths, shapes = {}, {}
    for path, leaf in traverse_util.flatten_dict(tree).items():
        _, *modules, name = path
        key = ".".join([*modules, LEAVES[name]])
        paths[key] = path
        axes = (3, 2, 0, 1) if leaf.ndim == 4 else range(leaf.ndim)
        shapes[key] = tuple(leaf.shape[axis] for axis in axes)
    return paths, shapes | HEAD
