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
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tljax.errors import ConfigError


def create_mesh(platform: str = "", num_devices: int = 0) -> Mesh:
    """Returns a mesh with the axis "data" over local devices.

    `platform` is "cpu", "gpu" or "tpu", "" for the best there is; `num_devices` 0 takes
    all. Raises ConfigError where there is no such device.
    """
    try:
        devices = jax.local_devices(backend=platform or None)
    except RuntimeError as error:
        # Which there are cannot be asked here: asking may fail for the same reason.
        reason = str(error).split("\n")[0]
        raise ConfigError(
            f"config.device = {platform!r}: there is no such device: {reason}"
        ) from None
    if num_devices > len(devices):
        raise ConfigError(
            f"config.num_devices = {num_devices}, but there are {len(devices)} "
            f"{devices[0].platform} devices"
        )
    devices = np.array(devices[: num_devices or None])
    return Mesh(devices, ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the state: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis divided among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns a host batch as arrays sharded over the mesh; does not wait for it.

    What this process gives is its part of the batch, all of it where it is alone.
    """
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, values)
        for name, values in batch.items()
    }


def shard_batches(
    batches: Iterator[dict[str, np.ndarray]], mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    """Yields the batches as arrays sharded over the mesh, each sent one ahead."""
    ahead = None
    try:
        for batch in batches:
            sent = shard_batch(batch, mesh)
            if ahead is not None:
                yield ahead
            ahead = sent
        if ahead is not None:
            yield ahead
    finally:
        batches.close()


def memory_of(mesh: Mesh) -> int:
    """Returns the bytes of memory of a device; for CPUs, its share of the host's."""
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return host // mesh.size
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit", 0)


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
    step: Callable[..., Any], mesh: Mesh, num_stored: int, *, donate_state: bool
) -> Callable[..., Any]:
    """Returns `step(state, batch, *stored)` under `jit`, only the batch divided."""
    whole = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, batch_sharding(mesh), *[whole] * num_stored),
        out_shardings=whole,
        donate_argnums=0 if donate_state else (),
    )


COMPILE_MODES = {"jit": jit_step}


def compile_step(
    step: Callable[..., Any],
    state: Any,
    batch: Any,
    *stored: Any,
    mesh: Mesh,
    mode: str = "jit",
    donate_state: bool = False,
) -> tuple[jax.stages.Compiled, float]:
    """Returns `step(state, batch, *stored)` compiled ahead of time, and the seconds.

    The arguments give shapes and dtypes; `stored` are arrays that lie whole on every
    device, for all steps. The program refuses any other shape, so that a run compiles
    each step exactly once. With `donate_state` the new state takes the buffers of the
    old, which must not be used again.
    """
    start = time.perf_counter()
    function = COMPILE_MODES[mode](step, mesh, len(stored), donate_state=donate_state)
    compiled = function.lower(state, batch, *stored).compile()
    return compiled, time.perf_counter() - start
