"""Keeping memory that the C library would give back to the system at every step."""

import ctypes
import os
import platform

from absl import logging

# The numbers of mallopt(3) in <malloc.h>.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8

# Set to 0, the C library manages memory as it does by default.
VARIABLE = "TLJAX_KEEP_MEMORY"


def keep_memory() -> bool:
    """Asks glibc to keep what it is given back, and returns whether it will.

    Arrays of tens of megabytes are else mapped and unmapped at every step, and the
    kernel clears each of their pages. For a process that computes on CPU, before the
    first large array; nothing is done where the C library is not glibc, and with the
    environment variable TLJAX_KEEP_MEMORY=0. The price is that memory used once is kept
    until the process ends, in one arena.
    """
    if os.environ.get(VARIABLE) == "0" or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    settings = {
        MMAP_MAX: 0,  # Nothing has a mapping of its own, which would be unmapped.
        TRIM_THRESHOLD: 2**31 - 1,  # The top of the heap is kept.
        TOP_PAD: 64 << 20,  # It grows by so much at once.
        ARENA_MAX: 1,  # What one thread frees another can use.
    }
    kept = all(library.mallopt(name, value) == 1 for name, value in settings.items())
    logging.debug("mallopt: %s", kept)
    return kept
