"""Compiled programs kept on disk: JAX's persistent cache, made safe to have by default.

JAX never writes an entry again, so that one which was cut short would be missed for
ever. Each therefore has a checksum beside it, and an entry without the right one is
deleted before anything is compiled.
"""

import contextlib
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from tljax.errors import ConfigError
from tljax.home import home

# Bytes of programs that are kept; of more, those that were not used for longest go.
LIMIT = 2 * 2**30
ENTRY, CHECKSUM = "-cache", "-checksum"


@contextlib.contextmanager
def cache() -> Iterator[None]:
    """Keeps what is compiled while the context lasts, and takes what was kept before.

    In the folder `compilation_cache` of `home()`. JAX_COMPILATION_CACHE_DIR names
    another one, which is left to JAX, and JAX_ENABLE_COMPILATION_CACHE=false keeps
    nothing. Raises ConfigError for a folder that others may write to: programs in it
    are executed.
    """
    import jax

    elsewhere = jax.config.jax_compilation_cache_dir
    folder = home() / "compilation_cache"
    wanted = jax.config.jax_enable_compilation_cache and not elsewhere
    if not wanted or not open_folder(folder):
        yield
        return
    check(folder)
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    try:
        # Many small programs take as long as a large one.
        for name, value in zip(names, (str(folder), 0.0), strict=True):
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        seal(folder)


def open_folder(folder: Path) -> bool:
    """Makes the folder for this user alone; returns whether it can be written.

    Raises ConfigError where it is not this user's, or others may write to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    except OSError:  # Programs are compiled again then, every time.
        return False
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        raise ConfigError(
            f"compiled programs are not taken from {folder}, which others may write "
            f"to: chmod 700 {folder}, or set JAX_ENABLE_COMPILATION_CACHE=false"
        )
    return os.access(folder, os.W_OK)


def check(folder: Path) -> None:
    """Deletes entries that are damaged, or more than there is to be room for."""
    left = LIMIT
    entries = [(path, path.stat()) for path in folder.glob("*" + ENTRY)]
    for path, found in sorted(entries, key=lambda entry: -entry[1].st_atime):
        left -= found.st_size
        if left < 0 or checksum(path) != read(beside(path)):
            path.unlink(missing_ok=True)
            beside(path).unlink(missing_ok=True)


def seal(folder: Path) -> None:
    """Writes the checksums of entries that have none."""
    for path in folder.glob("*" + ENTRY):
        if not beside(path).exists():
            with contextlib.suppress(OSError):
                beside(path).write_text(checksum(path))


def beside(entry: Path) -> Path:
    """Returns where the checksum of an entry stands."""
    return entry.with_name(entry.name.removesuffix(ENTRY) + CHECKSUM)


def checksum(path: Path) -> str:
    """Returns the CRC-32 of a file in hexadecimal."""
    return f"{zlib.crc32(path.read_bytes()):08x}"


def read(path: Path) -> str:
    """Returns the text of a file, "" where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""
