"""From the command line to a checked Config."""

import dataclasses
import difflib
import re
import runpy
import textwrap
import traceback
import typing
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import config_flags

from tljax import config as config_lib
from tljax import settings
from tljax.config import Config, Operation, Row
from tljax.errors import ConfigError

USAGE = "python -m tljax.main --config=FILE.py --workdir=DIR [--config.FIELD=VALUE ...]"

HELP = f"""{USAGE}

  --config=FILE.py  a Python file whose get_config() returns a tljax.config.Config
  --workdir=DIR     where the run lives; run again, it resumes
  --dry_run         print model, schedule and memory, compile the steps, stop
  --help            this text

  --coordinator=HOST:PORT --num_processes=N --process_id=I
                    one of N processes that are one run, each with devices of its own;
                    HOST:PORT is where the first one, 0, can be reached. With "auto",
                    Slurm, Kubernetes and others tell; srun need not be named

Fields of the config; those of --config.pretrain and --config.judge, where they are
set, are the same again:
"""

INDENT = 6 * " "


class Options(NamedTuple):
    """What the command line of `tljax.main` asks for."""

    config: Config
    workdir: str
    dry_run: bool
    coordinator: str = ""
    num_processes: int = 1
    process_id: int = 0


def parse(argv: list[str]) -> Options:
    """Returns the checked options of a command line; argv[0] is the program.

    Raises ConfigError, one line, for whatever is wrong with it.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "where the run lives", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "show, compile, stop", flag_values=values)
    flags.DEFINE_string("coordinator", "", "of processes", flag_values=values)
    flags.DEFINE_integer("num_processes", 1, "of the run", flag_values=values)
    flags.DEFINE_integer("process_id", 0, "which this is", flag_values=values)
    config = parse_config(argv, values, USAGE)
    if not values.workdir and not values.dry_run:
        raise ConfigError(f"--workdir is missing; usage: {USAGE}")
    others = values.coordinator, values.num_processes, values.process_id
    return Options(config, values.workdir, values.dry_run, *others)


def parse_config(argv: list[str], values: flags.FlagValues, usage: str) -> Config:
    """Returns the checked config of a command line, and sets the other flags, `values`.

    Raises ConfigError, one line, for whatever is wrong with it.
    """
    argv = config_first(argv, usage)
    for arg in argv[1:]:
        check_field(arg)
    try:
        config_flags.DEFINE_config_dataclass(
            "config", Config(), flag_values=values, sys_argv=argv, parse_fn=load
        )
        rest = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        known = [name for name, _ in settings.fields(Config)]
        fields = [name for name in known if name.endswith(error.flagname)]
        hint = f" Did you mean: --config.{fields[0]} ?" if fields else ""
        raise ConfigError(one_line(error) + hint) from error
    except (flags.Error, ValueError, TypeError) as error:
        text = one_line(error)
        for name in config_lib.INNER:
            if f"{name}=build" in text:
                text = f"config.{name} is none here; give --config.{name}=build before"
        raise ConfigError(text) from error
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}; usage: {usage}")
    return config_lib.validate(values.config)


def config_first(argv: list[str], usage: str) -> list[str]:
    """Returns the arguments with --config=FILE first: overrides must come after it."""
    program, *rest = argv
    if "--config" in rest[:-1]:
        place = rest.index("--config")
        rest[place : place + 2] = [f"--config={rest[place + 1]}"]
    files = [arg for arg in rest if re.match(r"--?config=", arg)]
    if not files:
        raise ConfigError(f"--config=FILE.py is missing; usage: {usage}")
    return [program, files[-1], *(arg for arg in rest if arg not in files)]


def check_field(arg: str) -> None:
    """Raises ConfigError where `arg` overrides a field that no Config has."""
    match = re.match(r"--?(?:no)?config\.([^=]*)", arg)
    if not match:
        return
    name = match[1]
    known = [known for known, _ in settings.fields(Config)]
    # The config of a run within has all fields again, to any depth.
    plain = config_lib.plain(name)
    if plain in known:
        return
    sections = {known_name.split(".")[0] for known_name in known if "." in known_name}
    if plain in sections:
        raise ConfigError(
            f"config.{name} is a section; set --config.{name}.FIELD=VALUE"
        )
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"config has no field {name!r}{hint} (--help lists all fields)")


def load(path: str) -> Config:
    """Returns what `get_config()` of the Python file at `path` returns.

    Raises ConfigError, with the line of the file, where it cannot be run.
    """
    if not Path(path).is_file():
        raise ConfigError(f"config file {path!r} does not exist")
    try:
        namespace = runpy.run_path(path)
        config = namespace["get_config"]() if "get_config" in namespace else None
    except Exception as error:
        raise ConfigError(explain(error, path)) from error
    if "get_config" not in namespace:
        raise ConfigError(f"{path} has no function get_config()")
    if not isinstance(config, Config):
        kind = type(config).__name__
        raise ConfigError(f"{path}: get_config() returned a {kind}, not a Config")
    return config


def explain(error: Exception, path: str) -> str:
    """Returns an error raised by a config file in one line, with the nearest field."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    place = f"{path}:{lines[-1]}" if lines else path
    known = [name.rsplit(".", 1)[-1] for name, _ in settings.fields(Config)]
    known += [field.name for field in dataclasses.fields(Row)]
    misspelt = re.findall(r"'(\w+)'", str(error))[-1:]
    near = difflib.get_close_matches("".join(misspelt), known, n=1)
    # Python 3.13 names the nearest keyword by itself.
    named = not near or "Did you mean" in str(error)
    hint = "" if named else f"; did you mean {near[0]!r}?"
    return f"{place}: {type(error).__name__}: {one_line(error)}{hint}"


def one_line(error: BaseException) -> str:
    """Returns an error's text with its line breaks folded."""
    return " ".join(str(error).split())


def print_help() -> None:
    """Prints the usage, every field with its documentation, operations and rows."""
    print(HELP)
    for name, field in settings.fields(Config):
        print_field(f"--config.{name}", field)
    print("\nOperations for config.data.augment, as a config file lists them:\n")
    for operation in settings.alternatives(Operation):
        print_class(operation)
    print("\nRows for config.plan.rows, as a config file lists them:\n")
    print_class(Row)


def print_class(cls: type) -> None:
    """Prints a dataclass that config files list, with its fields."""
    print(f"  {cls.__name__}: {cls.__doc__}")
    for field in dataclasses.fields(cls):
        print_field(f"  {field.name}", field)


def print_field(name: str, field: dataclasses.Field) -> None:
    """Prints a setting with its type, default, documentation and choices."""
    kind = settings.describe_type(field.type)
    if Operation in typing.get_args(field.type):
        kind = "tuple[Operation, ...]"
    print(f"  {name}: {kind} = {field.default!r}")
    doc = field.metadata["doc"]
    if field.metadata["choices"]:
        doc = f"{doc}: {', '.join(field.metadata['choices'])}"
    print(textwrap.fill(doc, 80, initial_indent=INDENT, subsequent_indent=INDENT))
