"""What the time to the first step goes to."""

import os
import time
from pathlib import Path


class Stopwatch:
    """Seconds by the name of what they went to."""

    def __init__(self, already: float = 0.0):
        """Begins to measure; `already` seconds have gone by before."""
        self.start = self.last = time.perf_counter() - already
        self.parts: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Adds the seconds since the last lap to what `name` took."""
        now = time.perf_counter()
        self.parts[name] = self.parts.get(name, 0.0) + now - self.last
        self.last = now

    def line(self, compiling: float) -> str:
        """Returns one line: the seconds to the last lap, in parts.

        Those of `compiling` went by in another thread at the same time.
        """
        parts = [f"{name} {seconds:.1f}" for name, seconds in self.parts.items()]
        total = self.last - self.start
        return (
            f"first step after {total:.1f} s: {', '.join(parts)}; beside them "
            f"compile {compiling:.1f}"
        )


def process_age() -> float:
    """Returns the seconds since this process began; its CPU time where Linux is not."""
    try:
        began = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        age = time.clock_gettime(time.CLOCK_BOOTTIME)
        return age - int(began) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.process_time()
