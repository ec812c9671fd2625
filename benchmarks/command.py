"""How the benchmarks of speed begin and end: flags, --smoke, one JSON line last."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from tljax.entry import read_flags
from tljax.errors import ConfigError

HELP = {"--help", "-help", "-h"}


def parse(
    argv: list[str],
    doc: str,
    define: Callable[[flags.FlagValues], None],
    smoke: Mapping[str, Any] | None = None,
) -> flags.FlagValues | None:
    """Returns the flags of a command line, None where it asked for help, now printed.

    `define` defines them; with --smoke, the defaults are those in `smoke`. Raises
    ConfigError for what is wrong with them.
    """
    values = flags.FlagValues()
    define(values)
    flags.DEFINE_string("output", "", "append the line to FILE", flag_values=values)
    if smoke is not None:
        flags.DEFINE_bool("smoke", False, "seconds, no numbers", flag_values=values)
    if HELP & set(argv[1:]):
        print(f"{doc}\n{values.get_help()}")
        return None
    usage = f"python -m benchmarks.{Path(argv[0]).stem} --help"
    read_flags(values, argv, usage)
    if smoke is not None and values.smoke:
        for name, value in smoke.items():
            values.set_default(name, value)
    return values


def finish(result: dict[str, Any], output: str) -> None:
    """Prints a result as one JSON line, and appends it to the file `output` if given.

    Raises ConfigError where it cannot be written.
    """
    line = json.dumps(result)
    if output:
        try:
            Path(output).parent.mkdir(parents=True, exist_ok=True)
            with Path(output).open("a") as file:
                file.write(f"{line}\n")
        except OSError as error:
            print(line)
            raise ConfigError(f"--output={output} cannot be written: {error}") from None
    print(line)
