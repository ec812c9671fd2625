"""Devices: the mesh, how batch and state lie on it, and how a step is compiled for it.

The batch is sharded over the one mesh axis "data", the state is replicated. Under
`jit` the compiler then places the collectives: a mean over the batch, BatchNorm's
statistics among them, is a mean over the batch of all devices.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tljax.errors import ConfigError
from tljax.models import devices, lowering


def create_mesh(platform: str = "", num_devices: int = 0) -> Mesh:
    """Returns a mesh with the axis "data" over the devices of all processes.

    `platform` is "cpu", "gpu" or "tpu", "" for the best there is; `num_devices` 0 takes
    all. Raises ConfigError where there is no such device.
    """
    try:
        found = jax.devices(platform or None)
    except RuntimeError as error:
        # Which there are cannot be asked here: asking may fail for the same reason.
        reason = str(error).split("\n")[0]
        raise ConfigError(
            f"config.device = {platform!r}: there is no such device: {reason}"
        ) from None
    if num_devices > len(found):
        raise ConfigError(
            f"config.num_devices = {num_devices}, but there are {len(found)} "
            f"{found[0].platform} devices"
        )
    if jax.process_count() > 1 and num_devices not in (0, len(found)):
        raise ConfigError(
            f"config.num_devices = {num_devices} must be 0 with several processes: "
            f"they use all of their {len(found)} devices"
        )
    found = np.array(found[: num_devices or None])
    return Mesh(found, ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the state: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Returns copies of host or device arrays on every device of the mesh.

    Each has a buffer of its own, for a step to take over. All processes give the same.
    """
    if jax.process_count() > 1:
        return jax.tree.map(lambda leaf: replicate_leaf(leaf, mesh), tree)
    return jax.device_put(tree, replicated(mesh), may_alias=False)


def replicate_leaf(leaf: Any, mesh: Mesh) -> jax.Array:
    """Returns copies of an array, or of a key, on the devices of all processes."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        numbers = replicate_leaf(jax.random.key_data(leaf), mesh)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
    return jax.make_array_from_process_local_data(
        replicated(mesh), np.asarray(leaf), leaf.shape
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis divided among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def batch_shardings(batch: dict[str, Any], mesh: Mesh) -> dict[str, NamedSharding]:
    """Returns the sharding of each array of a batch, or of several ("steps").

    Of several batches one after another, [k, batch, ...], it is the second axis that is
    divided; their number lies on every device.
    """
    if "steps" not in batch:
        return dict.fromkeys(batch, batch_sharding(mesh))
    several = NamedSharding(mesh, PartitionSpec(None, "data"))
    return dict.fromkeys(batch, several) | {"steps": replicated(mesh)}


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns a host batch as arrays sharded over the mesh; does not wait for it.

    What this process gives is its part of the batch, all of it where it is alone.
    """
    shardings = batch_shardings(batch, mesh)
    return {
        name: jax.make_array_from_process_local_data(shardings[name], values)
        for name, values in batch.items()
    }


def stack_batches(
    batches: Iterator[dict[str, np.ndarray]], counts: Iterator[int], size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields host batches several at a time, for a program of `size` steps per call.

    Each is {"image": [size, b, ...], ..., "steps": int32}, of which the first `steps`
    are the next `count` batches; the rest repeats the last of them and is not looked
    at.
    """
    try:
        for count in counts:
            rows = [next(batches) for _ in range(count)]
            rows += rows[-1:] * (size - count)
            stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            yield stacked | {"steps": np.array(count, np.int32)}
    finally:
        batches.close()


def own_part(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns what this process gives of a batch that all have whole."""
    place, number = jax.process_index(), jax.process_count()
    return {name: np.split(values, number)[place] for name, values in batch.items()}


def shard_batches(
    batches: Iterator[dict[str, np.ndarray]], mesh: Mesh, whole: bool = False
) -> Iterator[dict[str, jax.Array]]:
    """Yields the batches as arrays sharded over the mesh, each sent one ahead.

    Each process has its part of them, or all of them where they are `whole`.
    """
    ahead = None
    try:
        for batch in batches:
            sent = shard_batch(own_part(batch) if whole else batch, mesh)
            if ahead is not None:
                yield ahead
            ahead = sent
        if ahead is not None:
            yield ahead
    finally:
        batches.close()


def memory_of(mesh: Mesh) -> int:
    """Returns the bytes of memory of a device; for CPUs, its share of the host's."""
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return host // len(mesh.local_devices)
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit", 0)


def memory_needed(program: jax.stages.Compiled) -> int:
    """Returns the bytes on each device that the compiler says a program takes."""
    found = program.memory_analysis()
    sizes = found.argument_size_in_bytes + found.output_size_in_bytes
    return sizes + found.temp_size_in_bytes - found.alias_size_in_bytes


def describe(mesh: Mesh) -> dict[str, Any]:
    """Returns platform, kind and number of the devices."""
    device = mesh.devices.flat[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": mesh.size,
    }


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError, naming the nearest sizes, where devices cannot share it."""
    below = batch_size // mesh.size * mesh.size
    if below == batch_size:
        return
    sizes = " or ".join(str(size) for size in (below, below + mesh.size) if size)
    raise ConfigError(
        f"config.data.batch_size = {batch_size} cannot be divided among {mesh.size} "
        f"devices; take {sizes}, or set num_devices"
    )


def jit_step(
    step: Callable[..., Any], mesh: Mesh, batch: Any, num_stored: int, donate: bool
) -> Callable[..., Any]:
    """Returns `step(state, batch, *stored)` under `jit`, only the batch divided."""
    whole = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, batch_shardings_of(batch, mesh), *[whole] * num_stored),
        out_shardings=whole,
        donate_argnums=0 if donate else (),
    )


def batch_shardings_of(batch: Any, mesh: Mesh) -> Any:
    """Returns `batch_shardings` of a dict, the sharding of a batch for all else."""
    if isinstance(batch, dict):
        return batch_shardings(batch, mesh)
    return batch_sharding(mesh)


def pmap_step(
    step: Callable[..., Any], mesh: Mesh, batch: Any, num_stored: int, donate: bool
) -> Callable[..., Any]:
    """Returns `step(state, batch, *stored)` as `pmap` runs it: a part on each device.

    The step sees its device's part of the batch, and averages over the devices itself
    (`models.devices`). This is what `jax.pmap` has been since jax 0.8, without the axis
    of devices that it wants in front of every batch.
    """

    def part(*args: Any) -> Any:
        with devices.divided("data"):
            return step(*args)

    specs = jax.tree.map(
        lambda sharding: sharding.spec, batch_shardings_of(batch, mesh)
    )
    whole = PartitionSpec()
    parts = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(whole, specs, *[whole] * num_stored),
        out_specs=whole,
        # With it, gradients would be summed over the devices before they are averaged.
        check_vma=False,
    )
    return jit_step(parts, mesh, batch, num_stored, donate)


COMPILE_MODES = {"jit": jit_step, "pmap": pmap_step}


def several_steps(step: Callable[..., Any], size: int) -> Callable[..., Any]:
    """Returns a function that takes up to `size` steps, of batches [size, batch, ...].

    It takes batches["steps"] of them, all where there is none, and returns the state
    after the last and the metrics of each, [size], 0 for steps that are not taken. That
    number is an argument, so that one program serves every number: whichever way steps
    are gathered into calls, the numbers are the same, bit for bit.
    """

    def steps(state: Any, batches: dict[str, jax.Array], *stored: Any):
        count = batches.get("steps", size)
        batches = {name: rows for name, rows in batches.items() if name != "steps"}

        def take(place: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state, told = carry
            batch = {name: rows[place] for name, rows in batches.items()}
            with lowering.inside_loop():
                state, metrics = step(state, batch, *stored)
            told = jax.tree.map(lambda all, one: all.at[place].set(one), told, metrics)
            return state, told

        first = {name: rows[0] for name, rows in batches.items()}
        _, shapes = jax.eval_shape(step, state, first, *stored)
        told = jax.tree.map(
            lambda one: jnp.zeros((size, *one.shape), one.dtype), shapes
        )
        return lax.fori_loop(0, count, take, (state, told))

    return steps


def compile_step(
    step: Callable[..., Any], state: Any, batch: Any, *stored: Any, **options: Any
) -> tuple[jax.stages.Compiled, float]:
    """Returns what `lower_step` does, compiled, and the seconds that all of it took."""
    start = time.perf_counter()
    compiled = lower_step(step, state, batch, *stored, **options).compile()
    return compiled, time.perf_counter() - start


def lower_step(
    step: Callable[..., Any],
    state: Any,
    batch: Any,
    *stored: Any,
    mesh: Mesh,
    mode: str = "jit",
    steps_per_call: int = 1,
    donate_state: bool = False,
) -> jax.stages.Lowered:
    """Returns `step(state, batch, *stored)`, ready to be compiled ahead of time.

    The arguments give shapes and dtypes; `stored` are arrays that lie whole on every
    device, for all steps. The program refuses any other shape, so that a run compiles
    each step exactly once. With `donate_state` the new state takes the buffers of the
    old, which must not be used again.

    With `steps_per_call` above 1 the batch has a leading axis of so many batches, and
    metrics come back with one: see `several_steps`.
    """
    if steps_per_call > 1:
        step = several_steps(step, steps_per_call)
    function = COMPILE_MODES[mode](step, mesh, batch, len(stored), donate_state)
    with lowering.for_platform(mesh.devices.flat[0].platform):
        return function.lower(state, batch, *stored)
