"""Devices: the mesh, how batch and state lie on it, and how a step is compiled for it.

The batch is sharded over the one mesh axis "data", the state is replicated. Under
`jit` the compiler then places the collectives: a mean over the batch, BatchNorm's
statistics among them, is a mean over the batch of all devices.
"""

import time
from collections.abc import Callable
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
    """Returns a host batch as arrays sharded over the mesh; does not wait for it."""
    return jax.device_put(batch, batch_sharding(mesh))


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
    step: Callable[..., Any], mesh: Mesh, *, donate_state: bool
) -> Callable[..., Any]:
    """Returns `step(state, batch)` under `jit`, the state replicated, batch sharded."""
    return jax.jit(
        step,
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=replicated(mesh),
        donate_argnums=0 if donate_state else (),
    )


COMPILE_MODES = {"jit": jit_step}


def compile_step(
    step: Callable[..., Any],
    state: Any,
    batch: Any,
    *,
    mesh: Mesh,
    mode: str = "jit",
    donate_state: bool = False,
) -> tuple[jax.stages.Compiled, float]:
    """Returns `step(state, batch)` compiled ahead of time, and the seconds it took.

    `state` and `batch` give shapes and dtypes. The program refuses any other shape, so
    that a run compiles each step exactly once. With `donate_state` the new state takes
    the buffers of the old, which must not be used again.
    """
    start = time.perf_counter()
    compiled = COMPILE_MODES[mode](step, mesh, donate_state=donate_state)
    compiled = compiled.lower(state, batch).compile()
    return compiled, time.perf_counter() - start
