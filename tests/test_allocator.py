"""What glibc is asked for, and when it is not asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tljax import allocator

glibc = pytest.mark.skipif(sys.platform != "linux", reason="glibc is that of Linux")

PROGRAM = """
import ctypes, resource
from tljax import allocator

print(int(allocator.keep_memory()))
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = ctypes.create_string_buffer(64 << 20)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    del memory
print(faults[-1])
"""


# Leaves a thousand gaps of 20 kB, as compiling does, and looks at what is handed out.
GAPS = """
import ctypes
from tljax import allocator

allocate, release = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
allocate.restype, release.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def in_gaps(size):
    pieces = [allocate(size) for _ in range(900)]
    for piece in pieces:
        release(piece)
    return sum(piece in gaps for piece in pieces)

allocator.keep_memory()
with allocator.compiling():
    gaps = [(allocate(20_000), allocate(5_000))[0] for _ in range(1_000)]
    for gap in gaps:
        release(gap)
    print(in_gaps(19_000))
print(in_gaps(19_000))
with allocator.compiling():
    print(in_gaps(19_000))
"""


def numbers(program, **variables):
    """Returns what a program prints in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in result.stdout.split()]


@glibc
def test_a_buffer_is_mapped_once():
    kept, faults = numbers(PROGRAM)
    opted_out, as_ever = numbers(PROGRAM, TLJAX_KEEP_MEMORY="0")
    assert (kept, opted_out) == (True, False)
    assert faults < 100 < 16000 < as_ever


@glibc
def test_gaps_are_for_what_compiles():
    """A step finds none, and what compiles next finds them again."""
    assert numbers(GAPS) == [900, 0, 900]
    assert numbers(GAPS, TLJAX_KEEP_MEMORY="0") == [900] * 3


def test_another_library_is_left_alone(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_memory()


def test_a_machine_with_an_accelerator_is_left_alone(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(allocator, "ACCELERATORS", ("null",))
    assert not allocator.keep_memory()
