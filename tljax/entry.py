"""How every command begins and ends: signals, one line for an error, exit codes."""

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable

import absl.logging
from absl import flags

from tljax import allocator
from tljax.errors import ConfigError, Hung, RunError


def run_command(run: Callable[[list[str]], None], argv: list[str]) -> int:
    """Calls `run(argv)` and returns the exit code."""
    signal.signal(signal.SIGTERM, stop_at_once)
    signal.signal(signal.SIGINT, stop_at_once)
    keep_failures_short()
    allocator.keep_memory()
    # What is imported and traced stays. Looking for garbage in it each time that there
    # are 700 objects more, Python's default, takes a fifth of a second of start-up.
    gc.set_threshold(20_000)
    import jax  # It takes a second, in which a signal may come already.

    from tljax import compiled

    try:
        with compiled.cache():
            run(argv)
    except RunError as error:
        # A path may hold line breaks and terminal codes.
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
        print(f"tljax: {line}", file=sys.stderr)
        # Python would wait for a hanging thread, JAX for the other processes.
        if isinstance(error, Hung) or jax.process_count() > 1:
            sys.stdout.flush()
            os._exit(error.exit_code)
        return error.exit_code
    return 0


def read_flags(
    values: flags.FlagValues, argv: list[str], usage: str, files: int = 0
) -> list[str]:
    """Sets flags from a command line, and returns what else is in it.

    Raises ConfigError for what is wrong with it, as more else than so many `files`.
    """
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        raise ConfigError(" ".join(str(error).split())) from None
    if rest[files:]:
        raise ConfigError(f"unexpected argument {rest[files]!r}; usage: {usage}")
    return rest


def stop_at_once(signal_number: int, frame) -> None:
    """Ends a process that is not training, and so has nothing new to save.

    Not by an exception: raised in a callback that drops exceptions, it would be lost.
    """
    name = signal.Signals(signal_number).name
    os.write(2, f"tljax: stopped by {name} outside of training\n".encode())
    os._exit(128 + signal_number)


def keep_failures_short() -> None:
    """Silences the pages that a failed save would add to the one line that it ends in.

    Orbax logs the traceback of what it raises, asyncio that of every write left over
    by it, and TensorStore reports to an event loop that has gone.
    """

    def report(unraisable) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            sys.__unraisablehook__(unraisable)

    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = report
