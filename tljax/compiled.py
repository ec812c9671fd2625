"""Compiled programs kept on disk: JAX's persistent cache, made safe to have by default.

JAX reads back whatever lies there, and never writes an entry again: one that was cut
short, by a full disk or a kill, would be missed for ever. Here each is written aside
and then takes its name, with the checksum of what was compiled in front of it, and it
is checked when it is read: what is not read costs nothing. Damage that leaves a CRC-32
as it was is not seen.
"""

import contextlib
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from tljax.errors import ConfigError
from tljax.home import home

# Bytes of programs that are kept; of more, those that were not used for longest go.
LIMIT = 2 * 2**30
# Bytes of the checksum in front of a program.
CHECKSUM = 4


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
    within = find_within_jax() if wanted else None
    if within is None or not open_folder(folder):
        yield
        return
    evict(folder)
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    make = within.get_file_cache
    try:
        within.get_file_cache = lambda path: (Store(Path(path)), path)
        within.reset_cache()
        # Many small programs take as long as a large one.
        for name, value in zip(names, (str(folder), 0.0), strict=True):
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        within.get_file_cache = make
        within.reset_cache()


def find_within_jax() -> ModuleType | None:
    """Returns the module of JAX that opens its cache, None where it is another by now.

    JAX has no public way to say how entries are read and written. Without this one
    programs are compiled again, every time.
    """
    try:
        from jax._src import compilation_cache
    except ImportError:
        return None
    needed = ("get_file_cache", "reset_cache")
    found = all(hasattr(compilation_cache, name) for name in needed)
    return compilation_cache if found else None


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


def evict(folder: Path) -> None:
    """Deletes files above `LIMIT`, those written or read longest ago; reads none.

    So it takes 3 ms for 500 programs (2 cores of an AMD EPYC). Another process may do
    the same meanwhile.
    """
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            info = path.stat()
            if stat.S_ISREG(info.st_mode):
                found.append((info.st_mtime, info.st_size, path))
    left = LIMIT
    for _, size, path in sorted(found, reverse=True):
        left -= size
        if left < 0:
            with contextlib.suppress(OSError):
                path.unlink()


class Store:
    """Programs in a folder, as JAX asks for them: bytes by the key of what they are of.

    Several processes may use one folder.
    """

    def __init__(self, folder: Path):
        self._path = folder  # JAX logs it by this name.

    def get(self, key: str) -> bytes | None:
        """Returns what was put, None for nothing and for what is damaged.

        That is deleted, so that it is put again.
        """
        path = self.place(key)
        try:
            content = path.read_bytes()
            os.utime(path)  # The time of the last use, whether or not disks note it.
        except OSError:
            return None
        program = content[CHECKSUM:]
        if content[:CHECKSUM] == checksum(program):
            return program
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keeps a program; where it cannot be written, nothing is kept."""
        path = self.place(key)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(checksum(value) + value)
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()

    def place(self, key: str) -> Path:
        """Returns where the program of a key lies."""
        return self._path / f"{key}-program"


def checksum(program: bytes) -> bytes:
    """Returns the CRC-32 of a program."""
    return zlib.crc32(program).to_bytes(CHECKSUM, "big")
