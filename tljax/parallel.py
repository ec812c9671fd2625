"""Devices: the mesh, how batch and state lie on it, and how a step is compiled for it.

The batch is sharded over the one mesh axis "data", the state is replicated. Under
`jit` the compiler then places the collectives: a mean over the batch, BatchNorm's
statistics among them, is a mean over the batch of all devices.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tljax import allocator, fusion, several, sharding
from tljax.errors import ConfigError
from tljax.host_memory import host_memory
from tljax.models import devices, lowering
from tljax.models.lowering import library, processor


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
    """Returns copies of host or device arrays on every device of the mesh."""
    return place(tree, jax.tree.map(lambda leaf: replicated(mesh), tree))


def place(tree: Any, shardings: Any) -> Any:
    """Returns host or device arrays as a tree of shardings says that they lie.

    A step may take them over: device arrays that were given are then gone too. All
    processes give the same.
    """
    if jax.process_count() > 1:
        return jax.tree.map(place_leaf, tree, shardings)
    return jax.device_put(tree, shardings, may_alias=False)


def place_leaf(leaf: Any, where: NamedSharding) -> jax.Array:
    """Returns an array, or a key, on the devices of all processes."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        numbers = place_leaf(jax.random.key_data(leaf), where)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(lambda leaf: leaf, out_shardings=where)(leaf)
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, where, lambda part: values[part])


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
    """Returns the bytes of memory of a device; for CPUs, its share of the host's.

    0 where the device does not tell.
    """
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        return host_memory() // len(mesh.local_devices)
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


def check_batch_size(batch_size: int, mesh: Mesh, num_images: int = 0) -> None:
    """Raises ConfigError, naming the nearest sizes, where devices cannot share it.

    No batch has more images than the training set, where their number is given.
    """
    below = batch_size // mesh.size * mesh.size
    if below == batch_size:
        return
    near = [below] if below else []
    if not num_images or below + mesh.size <= num_images:
        near.append(below + mesh.size)
    advice = f"take {' or '.join(map(str, near))}, or set" if near else "set"
    raise ConfigError(
        f"config.data.batch_size = {batch_size} cannot be divided among {mesh.size} "
        f"devices; {advice} config.num_devices"
    )


def jit_step(
    step: Callable[..., Any],
    mesh: Mesh,
    batch: Any,
    num_stored: int,
    state_shardings: Any,
    donate: bool,
    compiler_options: Mapping[str, str],
) -> Callable[..., Any]:
    """Returns `step(state, batch, *stored)` under `jit`, only the batch divided.

    The state lies as `state_shardings` say, as does the new one where it is donated;
    everything else that comes back lies on every device.
    """
    whole = replicated(mesh)
    batch = batch_shardings_of(batch, mesh)
    return jax.jit(
        step,
        in_shardings=(state_shardings, batch, *[whole] * num_stored),
        out_shardings=(state_shardings, whole) if donate else whole,
        donate_argnums=0 if donate else (),
        compiler_options=compiler_options,
    )


def batch_shardings_of(batch: Any, mesh: Mesh) -> Any:
    """Returns `batch_shardings` of a dict, the sharding of a batch for all else."""
    if isinstance(batch, dict):
        return batch_shardings(batch, mesh)
    return batch_sharding(mesh)


def pmap_step(
    step: Callable[..., Any],
    mesh: Mesh,
    batch: Any,
    num_stored: int,
    *how: Any,
) -> Callable[..., Any]:
    """Returns `step(state, batch, *stored)` as `pmap` runs it: a part on each device.

    The step sees its device's part of the batch, and averages over the devices itself
    (`models.devices`). This is what `jax.pmap` has been since jax 0.8, without the axis
    of devices that it wants in front of every batch.
    """

    def part(*args: Any) -> Any:
        with devices.divided("data"):
            return step(*args)

    specs = jax.tree.map(lambda placed: placed.spec, batch_shardings_of(batch, mesh))
    whole = PartitionSpec()
    parts = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(whole, specs, *[whole] * num_stored),
        out_specs=whole,
        # With it, gradients would be summed over the devices before they are averaged.
        check_vma=False,
    )
    return jit_step(parts, mesh, batch, num_stored, *how)


COMPILE_MODES = {"jit": jit_step, "pmap": pmap_step}


def compile_step(
    step: Callable[..., Any], state: Any, batch: Any, *stored: Any, **options: Any
) -> tuple[jax.stages.Compiled, float]:
    """Returns what `lower_step` does, compiled, and the seconds that all of it took."""
    start = time.perf_counter()
    lowered = lower_step(step, state, batch, *stored, **options)
    unkept = calls_library(options["mesh"], options.get("often", False))
    return compile_lowered(lowered, unkept), time.perf_counter() - start


def compile_lowered(lowered: jax.stages.Lowered, unkept: bool) -> jax.stages.Compiled:
    """Returns what `lower_step` returns, compiled; `unkept` if it `calls_library`."""
    with allocator.compiling(), lowering.unkept() if unkept else nullcontext():
        return lowered.compile()


def calls_library(mesh: Mesh, often: bool) -> bool:
    """Returns whether a program may call oneDNN: on one CPU where it was measured.

    It has to be compiled at every start, which takes seconds: only what is called often
    gains more. Such CPUs are known by AMX, of which oneDNN makes most in bfloat16.
    """
    single = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    return often and single and processor.multiplies_bfloat16() and library.is_there()


def lower_step(
    step: Callable[..., Any],
    state: Any,
    batch: Any,
    *stored: Any,
    mesh: Mesh,
    mode: str = "jit",
    steps_per_call: int = 1,
    donate_state: bool = False,
    shard_params: bool = False,
    infers: bool = False,
    often: bool = False,
) -> jax.stages.Lowered:
    """Returns `step(state, batch, *stored)`, ready to be compiled ahead of time.

    The arguments give shapes and dtypes; `stored` are arrays that lie whole on every
    device, for all steps. The program refuses any other shape, so that a run compiles
    each step exactly once. With `donate_state` the new state takes the buffers of the
    old, which must not be used again.

    With `steps_per_call` above 1 the batch has a leading axis of so many batches, and
    metrics come back with one: see `several.several_steps`. With `shard_params` each
    device holds a share of the state: see `sharding`. `infers` says that there are
    neither gradients nor statistics of a batch, for `fusion`; `often` that the program
    is called so often that speed counts more than compiling it: see `calls_library`.
    """
    # A new function: JAX would take what it traced of the same, for whatever devices.
    step = functools.partial(step)
    if shard_params:
        step = sharding.with_whole_params(step, mesh)
    if steps_per_call > 1:
        step = several.several_steps(step, steps_per_call)
    placed = sharding.placements(state, mesh, shard_params)
    platform = mesh.devices.flat[0].platform
    options = fusion.compiler_options(platform) if infers else {}
    function = COMPILE_MODES[mode](
        step, mesh, batch, len(stored), placed, donate_state, options
    )
    with lowering.for_devices(platform, mesh.size, calls_library(mesh, often)):
        return function.lower(state, batch, *stored)
