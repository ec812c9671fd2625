"""The command `python -m tljax.main --config=FILE.py --workdir=DIR`."""

import logging
import os
import signal
import sys

import absl.logging

from tljax.errors import RunError


def main(argv: list[str]) -> int:
    """Runs what the command line asks for and returns the exit code."""
    signal.signal(signal.SIGTERM, stop_at_once)
    signal.signal(signal.SIGINT, stop_at_once)
    try:
        return run(argv)
    except RunError as error:
        print(f"tljax: {error}", file=sys.stderr)
        return error.exit_code


def run(argv: list[str]) -> int:
    """Runs what the command line asks for; raises RunError."""
    # These imports take seconds, in which a signal may come already.
    from tljax import command_line, dry_run, terminal, train

    if {"--help", "-help", "-h"} & set(argv[1:]):
        command_line.print_help()
        return 0
    keep_failures_short()
    options = command_line.parse(argv)
    if options.dry_run:
        dry_run.dry_run(options.config)
    else:
        result = train.train_and_evaluate(options.config, options.workdir)
        terminal.print_result(result, options.workdir)
    return 0


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


def stop_at_once(signal_number: int, frame) -> None:
    """Ends a process that is not training, and so has nothing new to save.

    Not by an exception: raised in a callback that drops exceptions, it would be lost.
    """
    name = signal.Signals(signal_number).name
    os.write(2, f"tljax: stopped by {name} outside of training\n".encode())
    os._exit(128 + signal_number)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
