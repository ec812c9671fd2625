"""What glibc is asked for, and when it is not asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tljax import allocator

PROGRAM = """
import ctypes, resource
from tljax import allocator

print(allocator.keep_memory())
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = ctypes.create_string_buffer(64 << 20)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    del memory
print(faults[-1])
"""


def run(**variables):
    """Returns whether memory is kept, and the pages that a fourth buffer maps anew."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parent.parent,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = result.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is that of Linux")
def test_a_buffer_is_mapped_once():
    kept, faults = run(JAX_PLATFORMS="cpu")
    opted_out, as_ever = run(JAX_PLATFORMS="cpu", TLJAX_KEEP_MEMORY="0")
    assert (kept, opted_out) == ("True", "False")
    assert faults < 100 < 16000 < as_ever


def test_another_library_is_left_alone(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_memory()


def test_a_machine_with_an_accelerator_is_left_alone(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(allocator, "ACCELERATORS", ("null",))
    assert not allocator.keep_memory()
