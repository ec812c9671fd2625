"""The command `python -m tljax.data.prepare NAME`: a set of TFDS, ready to read."""

import sys

from tljax.data import records
from tljax.entry import run_command
from tljax.errors import ConfigError, DataError
from tljax.terminal import print_line

USAGE = "python -m tljax.data.prepare NAME"

HELP = f"""{USAGE}

  NAME  a set of TensorFlow Datasets: NAME, NAME/CONFIG or NAME/CONFIG:VERSION, as in
        --config.data.source=tfds:NAME

Downloads the set and writes it as ArrayRecord into $TFDS_DATA_DIR, by default
~/tensorflow_datasets. That needs TensorFlow for most sets (pip install 'tljax[tfds]');
reading it afterwards does not.
"""


def run(argv: list[str]) -> None:
    """Runs what the command line asks for; raises RunError."""
    names = argv[1:]
    if {"--help", "-help", "-h"} & set(names):
        print(HELP)
        return
    if len(names) != 1 or names[0].startswith("-"):
        raise ConfigError(f"one name is needed; usage: {USAGE}")
    builder = records.find_builder(names[0], file_format="array_record")
    try:
        builder.download_and_prepare()
    except ModuleNotFoundError as error:
        raise DataError(
            f"preparing {names[0]!r} needs {error.name}: pip install 'tljax[tfds]'"
        ) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(f"{names[0]!r} cannot be prepared: {reason}") from error
    for split, info in builder.info.splits.items():
        print_line(f"{split}: {info.num_examples:,} examples")
    print_line(f"{builder.info.full_name} is ready in {builder.data_dir}")


if __name__ == "__main__":
    sys.exit(run_command(run, sys.argv))
