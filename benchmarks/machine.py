"""What a number was measured on: devices, host, versions, memory, peak of products."""

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jax.sharding import Mesh

from benchmarks import processes
from tljax.versions import versions

ROOT = Path(__file__).parent.parent
# What products are computed with, of which twice the width is up to twice the speed.
VECTORS = ("avx512f", "avx2", "avx", "sve", "asimd")
# Rows of the square matrices that are multiplied to find the peak.
ROWS = {"cpu": 1024}
OTHER_ROWS = 8192


def describe(mesh: Mesh) -> dict[str, Any]:
    """Returns devices, host, versions and the commit, for a line of results."""
    device, cpu = mesh.devices.flat[0], first_processor()
    known = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "num_devices": mesh.size,
        "hardware": {
            "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
            "vectors": next((name for name in VECTORS if name in known), None),
            "cores": cores(),
            "memory_gb": round(host_bytes() / 2**30, 1),
            # Above the number of cores, others were at work, and times say little.
            "load": round(os.getloadavg()[0], 2),
        },
        "jax": jax.__version__,
        "versions": versions() | {"jaxlib": jaxlib.__version__},
        "commit": commit(),
    }


def first_processor() -> dict[str, str]:
    """Returns what Linux says of the first processor; {} elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host_bytes() -> int:
    """Returns the bytes of memory of the host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def commit() -> str | None:
    """Returns the commit that the code stands at, with "+" where it was changed."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=10"]
    command += ["--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def peak_memory(mesh: Mesh) -> int | None:
    """Returns the most bytes held: by a device, by this process where devices are CPUs.

    None where a device does not say.
    """
    device = mesh.devices.flat[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("peak_bytes_in_use")
    return processes.peak_bytes()


def matmul_peak(mesh: Mesh, dtype: jnp.dtype, repeats: int = 10) -> float:
    """Returns the FLOP/s of the fastest of some products of large square matrices.

    Of one device and of that precision, times the number of devices; CPU devices are
    the cores of one host, and share what one of them finds.
    """
    device = mesh.devices.flat[0]
    rows = ROWS.get(device.platform, OTHER_ROWS)
    matrix = jax.device_put(jnp.full((rows, rows), 0.5, dtype), device)
    product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        times.append(time.perf_counter() - start)
    count = 1 if device.platform == "cpu" else mesh.size
    return count * 2 * rows**3 / min(times)


def flops(step, arguments: tuple[Any, ...]) -> float | None:
    """Returns the FLOPs of a step by XLA's analysis, before it is optimised.

    Of the program before, as afterwards convolutions may be calls into libraries, of
    which XLA knows nothing. None where the platform has no such analysis.
    """
    found = jax.jit(step).lower(*arguments).cost_analysis()
    return (found or {}).get("flops")
