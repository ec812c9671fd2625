"""How every command begins and ends: signals, one line for an error, exit codes."""

import os
import signal
import sys
from collections.abc import Callable

from tljax.errors import Hung, RunError


def run_command(run: Callable[[list[str]], None], argv: list[str]) -> int:
    """Calls `run(argv)` and returns the exit code."""
    signal.signal(signal.SIGTERM, stop_at_once)
    signal.signal(signal.SIGINT, stop_at_once)
    try:
        run(argv)
    except RunError as error:
        # A path may hold line breaks and terminal codes.
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
        print(f"tljax: {line}", file=sys.stderr)
        if isinstance(error, Hung):  # Python would wait for the hanging thread.
            sys.stdout.flush()
            os._exit(error.exit_code)
        return error.exit_code
    return 0


def stop_at_once(signal_number: int, frame) -> None:
    """Ends a process that is not training, and so has nothing new to save.

    Not by an exception: raised in a callback that drops exceptions, it would be lost.
    """
    name = signal.Signals(signal_number).name
    os.write(2, f"tljax: stopped by {name} outside of training\n".encode())
    os._exit(128 + signal_number)
