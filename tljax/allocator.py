"""Memory of the C library: kept from step to step, and without gaps to be searched."""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from absl import logging

# The numbers of mallopt(3) in <malloc.h>.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8

# Set to 0, the C library manages memory as it does by default.
VARIABLE = "TLJAX_KEEP_MEMORY"

# What drivers of NVIDIA, AMD and Google put into /dev.
ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel*")

# Sizes of the gaps that are filled, from a megabyte down to 256 bytes, each a tenth
# above the next. Larger ones are few.
GAPS = [int(2**20 / 1.1**step) & ~15 for step in range(88)]
# What glibc puts in front of each piece, and the most pieces of one size.
HEADER, MOST = 16, 10_000

# Whether `keep_memory` was heard, and the addresses of what fills gaps now.
kept = False
pieces: list[int] = []


def keep_memory() -> bool:
    """Asks glibc to keep what it is given back, and returns whether it will.

    Arrays of tens of megabytes are else mapped and unmapped at every step, and the
    kernel clears each of their pages. To be called before the first large array and
    before there are threads. Nothing is done where the C library is not glibc, where an
    accelerator computes, and with TLJAX_KEEP_MEMORY=0 in the environment. The price:
    memory used once is kept until the process ends.
    """
    global kept
    if os.environ.get(VARIABLE) == "0" or not computes_on_cpu():
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    settings = {
        MMAP_MAX: 0,  # Nothing has a mapping of its own, which would be unmapped.
        TRIM_THRESHOLD: -1,  # The top of the heap is kept, of whatever size.
        TOP_PAD: 64 << 20,  # It grows by so much at once.
        # One heap for all threads. Any other has room for 64 MB at once, and what a
        # step of a thread that has got such a one needs beyond that is mapped anew.
        ARENA_MAX: 1,
    }
    library = ctypes.CDLL(None)
    kept = all(library.mallopt(*setting) == 1 for setting in settings.items())
    logging.debug("mallopt: %s", kept)
    return kept


def computes_on_cpu() -> bool:
    """Returns whether JAX will take CPUs, without loading it."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return True
    return not any(any(Path("/dev").glob(name)) for name in ACCELERATORS)


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Leaves the gaps of a heap that is kept to what compiles within, then fills them.

    Tracing and compiling leave tens of thousands of free pieces of some kilobytes. What
    a step allocates would be looked for among them: glibc goes through lists sorted by
    size, from piece to piece, in memory that no cache holds, and other threads wait.
    """
    empty_gaps()
    try:
        yield
    finally:
        if kept:
            fill_gaps()


def fill_gaps() -> None:
    """Takes the free pieces between those in use, the largest first.

    glibc hands out the smallest piece in which there is room. Some in a row are cut
    from one large piece: there is no gap of their size any more.
    """
    # The interpreter's lock is kept: to take turns with other threads of Python at
    # every piece would take longer than all else.
    allocate = ctypes.PyDLL(None).malloc
    allocate.argtypes, allocate.restype = [ctypes.c_size_t], ctypes.c_void_p
    for size in GAPS:
        last = row = 0
        for _ in range(MOST):
            piece = allocate(size)
            if piece is None:
                return
            pieces.append(piece)
            row = row + 1 if piece == last + size + HEADER else 0
            if row == 3:
                break
            last = piece


def empty_gaps() -> None:
    """Gives back what `fill_gaps` has taken."""
    release = ctypes.PyDLL(None).free
    release.argtypes = [ctypes.c_void_p]
    with contextlib.suppress(IndexError):  # Another thread may take the last one.
        while True:
            release(pieces.pop())
