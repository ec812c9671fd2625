"""The command `python -m tljax.main --config=FILE.py --workdir=DIR`."""

import logging
import sys

import absl.logging

from tljax.entry import run_command


def run(argv: list[str]) -> None:
    """Runs what the command line asks for; raises RunError."""
    # These imports take seconds, in which a signal may come already.
    from tljax import command_line, dry_run, terminal, train

    if {"--help", "-help", "-h"} & set(argv[1:]):
        command_line.print_help()
        return
    keep_failures_short()
    options = command_line.parse(argv)
    if options.dry_run:
        dry_run.dry_run(options.config)
    else:
        result = train.train_and_evaluate(options.config, options.workdir)
        terminal.print_result(result, options.workdir)


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


if __name__ == "__main__":
    sys.exit(run_command(run, sys.argv))
