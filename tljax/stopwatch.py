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

    def line(self, beside: dict[str, float]) -> str:
        """Returns one line: the seconds to the last lap, in parts.

        `beside` are seconds of another thread, which went by at the same time.
        """
        parts, others = (
            ", ".join(f"{name} {seconds:.1f}" for name, seconds in each.items())
            for each in (self.parts, beside)
        )
        total = self.last - self.start
        return f"first step after {total:.1f} s: {parts}; beside them {others}"


def process_age() -> float:
    """Returns the seconds since this process began; its CPU time where Linux is not."""
    try:
        began = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        age = time.clock_gettime(time.CLOCK_BOOTTIME)
        return age - int(began) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.process_time()
