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

from tljax import config as config_lib
from tljax.errors import ConfigError


@contextlib.contextmanager
def hold(workdir: Path, config: config_lib.Config) -> Iterator[None]:
    """Makes the workdir and keeps it for this process and this config.

    The kernel frees the lock when its holder dies, however it dies. Raises ConfigError
    for a path that cannot be written, one that another live process holds, or one whose
    config.json differs.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
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

    A run has begun when it has saved a state: a first attempt that came to nothing is
    no reason to refuse the second.
    """
    path, asked = workdir / "config.json", as_json(config)
    saved = read_json(path)
    if saved == asked:
        return
    if saved is not None and any(workdir.glob("checkpoints/[0-9]*")):
        raise ConfigError(
            f"workdir {workdir} holds a run of another config: "
            f"{', '.join(compare(saved, asked))}; take another --workdir"
        )
    write_json(path, asked)


def as_json(config: config_lib.Config) -> dict[str, Any]:
    """Returns a config as JSON reads it back: lists for tuples."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def compare(saved: Any, asked: Any, name: str = "config") -> list[str]:
    """Returns "NAME is A there, not B" for every value in which two configs differ."""
    if isinstance(saved, dict) and isinstance(asked, dict):
        names = [*saved, *(key for key in asked if key not in saved)]
        return [
            difference
            for key in names
            for difference in compare(saved.get(key), asked.get(key), f"{name}.{key}")
        ]
    if saved == asked:
        return []
    return [f"{name} is {brief(saved)} there, not {brief(asked)}"]


def brief(value: Any) -> str:
    """Returns a value as it stands in a message."""
    return "a config" if isinstance(value, dict) else repr(value)


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds, None where there is no file.

    Raises ConfigError for a file that is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
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
