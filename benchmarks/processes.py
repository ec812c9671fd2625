"""What is measured in a process of its own, and the memory that a process holds."""

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tljax.errors import RunError


def in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    """Returns `function(*args)` of a new process, which ends then.

    Raises what the function raises, RunError where the process dies.
    """
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(function, *args).result()
    except BrokenProcessPool:
        raise RunError("a process that measured was killed") from None


def held_bytes() -> int:
    """Returns the memory that this process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    """Returns the most memory that this process has held.

    On Linux not by getrusage: there a new process begins with the peak of the one that
    started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
