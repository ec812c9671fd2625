"""How the benchmarks begin and end: flags, mistakes, --smoke, one JSON line last."""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from tljax.entry import read_flags, run_command
from tljax.errors import ConfigError, RunError, unknown

HELP = {"--help", "-help", "-h"}
# Fields of a config whose flags have other names.
FLAGS = {
    "device": "devices",
    "model.name": "model",
    "data.num_examples": "images",
    "data.labels_per_class": "labels",
}


def main(run: Callable[[list[str]], None]) -> None:
    """Calls `run(argv)` and ends the process; no error but a bug is a traceback.

    All is compiled anew, as compiling is measured too, unless
    JAX_COMPILATION_CACHE_DIR asks for a cache.
    """
    import jax

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_enable_compilation_cache", False)
    sys.exit(run_command(run, sys.argv))


def parse(
    argv: list[str],
    doc: str,
    define: Callable[[flags.FlagValues], None],
    smoke: Mapping[str, Any] | None = None,
    files: tuple[str, ...] = (),
) -> flags.FlagValues | None:
    """Returns the flags of a command line, None where it asked for help, now printed.

    `define` defines them; with --smoke, the defaults are those in `smoke`. `files` are
    flags that may be given without their names, in this order. Raises ConfigError for
    what is wrong with them.
    """
    values = flags.FlagValues()
    define(values)
    if "output" not in values:
        flags.DEFINE_string("output", "", "append the line to FILE", flag_values=values)
    if smoke is not None:
        flags.DEFINE_bool("smoke", False, "seconds, no numbers", flag_values=values)
    if HELP & set(argv[1:]):
        print(f"{doc}\n{values.get_help()}")
        return None
    usage = f"python -m benchmarks.{Path(argv[0]).stem} --help"
    given = read_flags(values, argv, usage, len(files))
    for name, path in zip(files, given, strict=False):
        values[name].value = path
    if smoke is not None and values.smoke:
        for name, value in smoke.items():
            values.set_default(name, value)
    return values


def define_numbers(
    values: flags.FlagValues, low: int = 1, **rows: tuple[int, str]
) -> None:
    """Defines flags that are integers of `low` or more: name=(default, doc)."""
    for name, (default, doc) in rows.items():
        flags.DEFINE_integer(name, default, doc, low, flag_values=values)


def check(values: flags.FlagValues, **choices: Iterable[str]) -> None:
    """Raises ConfigError where a flag, or one of a list, is none of its choices."""
    for flag, allowed in choices.items():
        given = values[flag].value
        if given == []:
            names = ", ".join(allowed)
            raise ConfigError(f"--{flag} is empty; choose from: {names}")
        for name in [given] if isinstance(given, str) else given:
            if name not in allowed:
                raise ConfigError(unknown(f"--{flag}", name, allowed))


@contextlib.contextmanager
def words_of(values: flags.FlagValues) -> Iterator[None]:
    """Lets an error name the flag that a field of a config was set by.

    Flags may ask for more memory than there is, too.
    """

    def flag(match: re.Match) -> str:
        field = match[1]
        for name in (FLAGS.get(field), field.rpartition(".")[2]):
            if name in values:
                return f"--{name}"
        return match[0]

    try:
        yield
    except RunError as error:
        text = re.sub(r"config\.([a-z0-9_.]*[a-z0-9_])", flag, str(error))
        if text == str(error):
            raise
        raise ConfigError(text) from error
    except MemoryError as error:
        raise ConfigError(f"out of memory: {error}") from None


def finish(result: dict[str, Any], output: str = "") -> None:
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
