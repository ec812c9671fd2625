"""What lies in a workdir: the lock, config.json and result.json."""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax import traverse_util

from tljax import config as config_lib
from tljax import settings
from tljax.data.operations import Operation
from tljax.errors import ConfigError


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
    if ("pretrain" in there) != ("pretrain" in here):
        return [f"config.pretrain is {'none' if 'pretrain' in there else 'set'} there"]
    return [
        f"config.{name} is {there.get(name)!r} there, not {here.get(name)!r}"
        for name in there | here
        if there.get(name) != here.get(name) and name.split("pretrain.")[-1] not in free
    ]


def with_defaults(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Returns a config as JSON with the defaults of the settings it lacks."""
    filled = defaults | config
    for name, value in filled.items():
        if name == "pretrain" and value is not None:
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
