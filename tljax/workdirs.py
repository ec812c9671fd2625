"""What lies in a workdir: the lock, config.json and result.json."""

import contextlib
import csv
import dataclasses
import errno
import fcntl
import json
import os
import socket
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flax import traverse_util

import tljax
from tljax import config as config_lib
from tljax import settings
from tljax.data.operations import Operation
from tljax.errors import ConfigError, unknown


@contextlib.contextmanager
def hold(workdir: Path, config: config_lib.Config) -> Iterator[None]:
    """Makes the workdir and keeps it for this process and this config.

    The kernel frees the lock when its holder dies, however it dies. Raises ConfigError
    for a path that cannot be written, one that another live process holds, or one whose
    config.json differs.
    """
    try:
        (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
        (workdir / "metrics.jsonl").open("a").close()
        lock = (workdir / "lock").open("a+")
    except OSError as error:
        raise ConfigError(f"cannot write to workdir {workdir}: {error}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise ConfigError(f"workdir {workdir} is in use by {holder}") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        keep_config(workdir, config)
        yield


def keep_config(workdir: Path, config: config_lib.Config) -> None:
    """Writes config.json; raises ConfigError where a run of another one has begun.

    A run has begun when it has saved something: a first attempt that came to nothing is
    no reason to refuse the second.
    """
    path, asked = workdir / "config.json", as_json(config)
    saved = read_json(path)
    saved_something = (workdir / "result.json").exists() or any(
        (workdir / "checkpoints").iterdir()
    )
    if saved is not None and saved_something:
        differences = compare(saved, asked)
        if differences:
            raise ConfigError(
                f"workdir {workdir} holds a run of another config: "
                f"{', '.join(differences)}; take another --workdir"
            )
    if saved != asked:
        write_json(path, asked)


def as_json(config: config_lib.Config) -> dict[str, Any]:
    """Returns a config as JSON reads it back: lists for tuples."""
    return json.loads(json.dumps(config, default=as_dict))


def as_dict(settings: Any) -> dict[str, Any]:
    """Returns a section of a config, or an operation with its name, as a dict."""
    values = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
    }
    if isinstance(settings, Operation):
        return {"operation": type(settings).__name__, **values}
    return values


def load_classifier(workdir: Path) -> config_lib.Config:
    """Returns the checked config of the classifier trained in a workdir.

    Raises ConfigError where none stands there, or one that this tljax cannot have.
    """
    if not workdir.is_dir():
        raise ConfigError(f"workdir {workdir} does not exist")
    path = workdir / "config.json"
    saved = read_json(path)
    if saved is None:
        raise ConfigError(f"workdir {workdir} holds no run: there is no config.json")
    if not isinstance(saved, dict):
        raise ConfigError(f"{path} is not a config")
    name = f"{path}: config"
    config = config_lib.validate(from_json(config_lib.Config, saved, name))
    config_lib.check_classifies(config, name)
    return config


def from_json(kind: Any, value: Any, name: str) -> Any:
    """Returns what `as_json` made of a value of the type `kind`.

    Lists become tuples, dicts the dataclasses that the type names, and settings that
    are not there their defaults. Raises ConfigError for a setting or an operation that
    nobody knows.
    """
    if isinstance(value, list) and typing.get_origin(kind) is tuple:
        inside = typing.get_args(kind)[0]
        return tuple(
            from_json(inside, element, f"{name}[{place}]")
            for place, element in enumerate(value)
        )
    choices = {
        choice.__name__: choice
        for choice in settings.alternatives(kind)
        if dataclasses.is_dataclass(choice)
    }
    if not choices or not isinstance(value, dict):
        return value
    chosen = value.get("operation", next(iter(choices)))
    if chosen not in choices:
        raise ConfigError(unknown(f"{name}.operation", chosen, choices))
    types = {field.name: field.type for field in dataclasses.fields(choices[chosen])}
    values = {key: inner for key, inner in value.items() if key != "operation"}
    for key in values:
        if key not in types:
            raise ConfigError(
                f"{name}.{key} is not a setting of tljax {tljax.__version__}; "
                "another version may have written it"
            )
    return choices[chosen](
        **{
            key: from_json(types[key], inner, f"{name}.{key}")
            for key, inner in values.items()
        }
    )


def compare(saved: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Returns "NAME is A there, not B" for each setting that makes two runs differ.

    A setting that a saved config does not have yet counts as the default; one that is
    free to change does not count.
    """
    free = {
        name
        for name, field in settings.fields(config_lib.Config)
        if field.metadata["free"]
    }
    there = flatten(with_defaults(saved, as_json(config_lib.Config())))
    here = flatten(asked)
    for name in config_lib.INNER:
        if (name in there) != (name in here):
            return [f"config.{name} is {'none' if name in there else 'set'} there"]
    return [
        f"config.{name} is {there.get(name)!r} there, not {here.get(name)!r}"
        for name in there | here
        if there.get(name) != here.get(name) and config_lib.plain(name) not in free
    ]


def with_defaults(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Returns a config as JSON with the defaults of the settings it lacks."""
    filled = defaults | config
    for name, value in filled.items():
        if name in config_lib.INNER and value is not None:
            filled[name] = with_defaults(value, defaults)
        elif isinstance(value, dict):
            filled[name] = defaults.get(name, {}) | value
    return filled


def flatten(config: dict[str, Any]) -> dict[str, Any]:
    """Returns {"optim.name": value, ...} of a config as JSON."""
    return traverse_util.flatten_dict(config, sep=".")


def write_entries(workdir: Path, entries: tuple[str, ...]) -> None:
    """Writes what the images of a run are, a line an example."""
    lines = (json.dumps(entry) + "\n" for entry in entries)
    (workdir / "data.jsonl").write_text("".join(lines))


def read_entries(workdir: Path) -> list[str]:
    """Returns what the images of a run were, [] where nothing tells."""
    try:
        lines = (workdir / "data.jsonl").read_text().splitlines()
        return [str(json.loads(line)) for line in lines]
    except (OSError, ValueError):
        return []


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds, None where there is no file.

    Raises ConfigError for a file that cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file in one step: a reader sees the old file or the new one."""
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def as_path(text: str) -> Path:
    """Returns the absolute path that a command line names, "~" being a home.

    Raises ConfigError for what is no path, as a name that is too long.
    """
    try:
        path = Path(text).expanduser().absolute()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"cannot use the path {text!r}: {error}") from None
    return path


def check_writable(path: Path) -> None:
    """Raises ConfigError where a file cannot be written, before it is worked for."""
    part = path.with_name(path.name + ".part")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        part.open("w").close()
        part.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes rows as CSV (RFC 4180, UTF-8), a header first, in one step.

    File names that are not UTF-8 keep their bytes. Raises ConfigError where the file
    cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open(
            "w", encoding="utf-8", errors="surrogateescape", newline=""
        ) as f:
            csv.writer(f).writerows(rows)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
