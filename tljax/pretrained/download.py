"""Published files into a cache on disk, verified at download and at every use."""

import fcntl
import hashlib
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)

from tljax.errors import ConfigError, DataError
from tljax.home import home
from tljax.pretrained import catalog, files
from tljax.pretrained.catalog import Entry

CHUNK = 1024**2
TIMEOUT_SECONDS = 30
# Waits before the second, third, ... attempt.
BACKOFF_SECONDS = (1, 2, 4, 8)
# What may pass. Other errors of the system are of the disk.
NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


def fetch(entry: Entry, waits: Sequence[float] = BACKOFF_SECONDS) -> Path:
    """Returns the path of a published file, downloaded where it is in no cache.

    It is looked for in torch's cache and in ours. Its SHA-256 must begin with the hash
    in its name, and must be the one of its first use here. Raises DataError where it
    does not, or cannot be had.
    """
    kept = [torch_cache() / entry.file, our_cache() / entry.file]
    path = next((path for path in kept if path.is_file()), None)
    if path is None:
        path = our_cache() / entry.file
        download(entry, path, waits)
    verify(entry, path)
    return path


def our_cache() -> Path:
    """Returns where downloaded weights are kept."""
    return home() / "weights"


def torch_cache() -> Path:
    """Returns where `torch.hub` keeps weights."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("TORCH_HOME") or Path(base) / "torch"
    return Path(home) / "hub" / "checkpoints"


def base_url() -> str:
    """Returns $TLJAX_WEIGHTS_URL, a mirror, or torchvision's own."""
    url = os.environ.get("TLJAX_WEIGHTS_URL") or catalog.URL
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"TLJAX_WEIGHTS_URL = {url!r} must begin with http(s)://")
    return url.rstrip("/")


def verify(entry: Entry, path: Path) -> None:
    """Raises DataError where a file is not the published one, or not as at first use.

    Eight digits guard against damage; the whole hash, kept in FILE.sha256 in our cache
    from the first use on, against all else that may change the file later.
    """
    digest = files.sha256(path)
    if not digest.startswith(entry.hash_prefix):
        raise DataError(
            f"{path} is damaged: its SHA-256 is {digest}, which does not begin with "
            f"{entry.hash_prefix}; delete it to have it downloaded anew"
        )
    record = our_cache() / f"{entry.file}.sha256"
    try:
        if not record.is_file():
            record.parent.mkdir(parents=True, exist_ok=True)
            files.replace(record, lambda file: file.write(digest.encode()))
        first = record.read_text().strip()
    except (OSError, DataError):
        return  # A cache that cannot be written has no record.
    if first != digest:
        raise DataError(
            f"{path} has changed: its SHA-256 is {digest}, at its first use it was "
            f"{first} ({record})"
        )


def download(entry: Entry, path: Path, waits: Sequence[float]) -> None:
    """Downloads a published file to `path`, where it is whole or not at all.

    What an attempt leaves in FILE.part, the next one goes on from, in this process or
    in a later one; the file is locked, so that two processes do not write into it.
    """
    url = f"{base_url()}/{entry.file}"
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_space(entry, path.parent)
        with part.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.is_file():
                return  # Another process was faster.
            attempt_often(entry, url, file, waits)
            check_download(entry, url, file, part)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from None


def check_space(entry: Entry, folder: Path) -> None:
    """Raises DataError where the disk cannot hold a file."""
    free = shutil.disk_usage(folder).free / 1024**2
    if free < entry.mebibytes:
        raise DataError(
            f"{folder} has {free:.0f} MiB free, {entry.file} takes "
            f"{entry.mebibytes:.0f}; set TLJAX_HOME to another place"
        )


def attempt_often(entry: Entry, url: str, file, waits: Sequence[float]) -> None:
    """Appends to `file` what is missing of it, trying again after each wait."""
    for wait in (*waits, None):
        try:
            return receive(entry, url, file)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # There is more in the part than in the file.
                file.truncate(0)
            elif error.code < 500 and error.code not in (408, 429):
                raise failed(entry, url, f"HTTP {error.code} {error.reason}") from None
            reason = f"HTTP {error.code} {error.reason}"
        except NETWORK_ERRORS as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        if wait is None:
            raise failed(entry, url, reason)
        time.sleep(wait)


def failed(entry: Entry, url: str, reason: str) -> DataError:
    """Returns the error for a file that cannot be downloaded."""
    return DataError(
        f"{url} cannot be downloaded: {reason}; without a network, put the file into "
        f"{our_cache()} or name it with pretrained=file:PATH/{entry.file}"
    )


def receive(entry: Entry, url: str, file) -> None:
    """Appends to `file` what the server sends from its end on.

    Raises HTTPException where the connection ends early, DataError where the server
    sends more than the file has.
    """
    have = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "tljax", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        if response.status != 206:  # The server sends all of it, from the beginning.
            file.truncate(0)
            have = 0
        total = have + int(response.headers.get("Content-Length") or 0)
        limit = int(entry.mebibytes * 1.01 * 1024**2) + CHUNK
        with progress(entry, total) as bar:
            task = bar.add_task(entry.file, total=total or None, completed=have)
            while chunk := response.read(CHUNK):
                have += len(chunk)
                if have > limit:
                    file.truncate(0)
                    raise DataError(f"{url} sends more than {entry.file} has")
                file.write(chunk)
                bar.update(task, completed=have)
        if have < total:
            raise http.client.IncompleteRead(b"", total - have)


def progress(entry: Entry, total: int) -> Progress:
    """Returns a progress bar on stderr, nothing but a line where it is no terminal."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.print(f"downloading {entry.file}, {total / 1024**2:.1f} MiB")
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def check_download(entry: Entry, url: str, file, part: Path) -> None:
    """Removes what was downloaded and raises DataError where it is another file."""
    file.flush()
    file.seek(0)
    head = file.read(64).lstrip()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest.startswith(entry.hash_prefix):
        return
    part.unlink()
    what = "an HTML page" if head.startswith(b"<") else f"a file of SHA-256 {digest}"
    raise DataError(
        f"{url} is {what}, which does not begin with {entry.hash_prefix}; deleted"
    )
