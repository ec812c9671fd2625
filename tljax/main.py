"""The command `python -m tljax.main --config=FILE.py --workdir=DIR`."""

import signal
import sys

from absl import logging

from tljax import command_line, dry_run, terminal, train
from tljax.errors import RunError, Stopped


def main(argv: list[str]) -> int:
    """Runs what the command line asks for and returns the exit code."""
    if {"--help", "-help", "-h"} & set(argv[1:]):
        command_line.print_help()
        return 0
    # Orbax logs tracebacks of errors that are raised, and reported in a line, here.
    logging.set_verbosity(logging.FATAL)
    signal.signal(signal.SIGTERM, stop_at_once)
    signal.signal(signal.SIGINT, stop_at_once)
    try:
        options = command_line.parse(argv)
        if options.dry_run:
            dry_run.dry_run(options.config)
        else:
            result = train.train_and_evaluate(options.config, options.workdir)
            terminal.print_result(result, options.workdir)
    except RunError as error:
        print(f"tljax: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def stop_at_once(signal_number: int, frame) -> None:
    """Ends a run that is not training, and so has nothing new to save."""
    name = signal.Signals(signal_number).name
    raise Stopped(f"stopped by {name} outside of training", signal_number)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
