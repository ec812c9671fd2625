"""What the CPU of this machine can do."""

import functools
from pathlib import Path

INFO = Path("/proc/cpuinfo")


@functools.cache
def multiplies_bfloat16() -> bool:
    """Returns whether it multiplies matrices of bfloat16 by itself: Intel's AMX.

    False where Linux does not say so, and for bfloat16 in vectors, which were not
    measured. Machines of one run have to agree: they compile one program.
    """
    return INFO.exists() and "amx_bf16" in INFO.read_text().split()
