"""The command `python -m tljax.main --config=FILE.py --workdir=DIR`."""

import gc
import sys

from tljax.entry import run_command


def run(argv: list[str]) -> None:
    """Runs what the command line asks for; raises RunError."""
    # These imports take seconds, in which a signal may come already.
    from tljax import command_line, dry_run, processes, terminal, train
    from tljax.stopwatch import Stopwatch, process_age

    gc.freeze()  # The garbage collector is not to look through all that again.
    stopwatch = Stopwatch(process_age())
    stopwatch.lap("import")
    if {"--help", "-help", "-h"} & set(argv[1:]):
        command_line.print_help()
        return
    options = command_line.parse(argv)
    processes.connect(options.coordinator, options.num_processes, options.process_id)
    if options.dry_run:
        dry_run.dry_run(options.config)
    else:
        result = train.train_and_evaluate(options.config, options.workdir, stopwatch)
        if processes.is_first():
            terminal.print_result(result, options.workdir)


if __name__ == "__main__":
    sys.exit(run_command(run, sys.argv))
