"""Which part of a state each device holds: all of it, or a share of every array.

Where it is shared, each device holds a part of every parameter, of what the optimiser
knows of it and of its moving average, divided along the longest axis that can be; the
parameters are put together again in each step (ZeRO, Rajbhandari et al. 2019, arXiv
1910.02054; FSDP). What is computed is the same.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# What of a state or of variables is shared, by a part of its path.
SHARED = ("params", "opt_state")


def placements(tree: Any, mesh: Mesh, shared: bool) -> Any:
    """Returns the sharding of every array of a state, or of a tree with variables."""

    def placement(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        inside = shared and any(name in SHARED for name in names(path))
        spec = spec_of(leaf.shape, mesh.size) if inside else PartitionSpec()
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(placement, tree)


def names(path: tuple[Any, ...]) -> list[str]:
    """Returns the names along a path of a tree."""
    return jax.tree_util.keystr(path, simple=True, separator="/").split("/")


def spec_of(shape: tuple[int, ...], number: int) -> PartitionSpec:
    """Returns how an array is divided: along its longest axis that `number` divides.

    Not at all where there is none; of equal axes, along the last.
    """
    axes = [axis for axis, size in enumerate(shape) if size and size % number == 0]
    if not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*[None] * longest, "data")


def with_whole_params(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Returns the step of a shared state: it puts the parameters together first."""
    whole = NamedSharding(mesh, PartitionSpec())

    def gather(path: tuple[Any, ...], leaf: Any) -> Any:
        found = names(path)
        needed = "params" in found and not {"opt_state", "ema"} & set(found)
        return jax.lax.with_sharding_constraint(leaf, whole) if needed else leaf

    def gathered(state: Any, *rest: Any) -> Any:
        return step(jax.tree_util.tree_map_with_path(gather, state), *rest)

    return gathered


def bytes_on_a_device(tree: Any, shardings: Any) -> int:
    """Returns the bytes of a tree, of arrays or their shapes, that a device holds."""
    sizes = jax.tree.map(
        lambda leaf, sharding: (
            math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        ),
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))
