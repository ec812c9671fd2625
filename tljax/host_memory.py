"""The memory of the host: what a process may have of it, and what this one has had."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def host_memory(cgroups: Path = CGROUPS, mount: Path = MOUNT) -> int:
    """Returns the bytes of memory of the machine, or of the least limit on a group.

    Control groups are how containers and Slurm keep a process to a part of a machine:
    the kernel kills what takes more.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *limits(cgroups, mount)])


def limits(cgroups: Path, mount: Path) -> Iterator[int]:
    """Yields the limits on this process's group and those it is in, in bytes.

    Of version 1 and 2; `cgroups` has a line NUMBER:CONTROLLERS:PATH for each. In a
    container the path may be that outside of it, of which only the root is there.
    """
    for line in read(cgroups).splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            top, name = mount / "memory", "memory.limit_in_bytes"
        elif not controllers:
            top, name = mount, "memory.max"
        else:
            continue
        group = top / path.lstrip("/")
        while group.is_relative_to(top):
            limit = read(group / name).strip()
            if limit.isdigit():  # Else there is none: "max", or no such file.
                yield int(limit)
            group = group.parent


def read(path: Path) -> str:
    """Returns the text of a file, "" where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def peak() -> int:
    """Returns the most bytes of memory that this process has held."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024
