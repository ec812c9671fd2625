"""Small arrays that take long to find out, kept for the next run."""

import hashlib
import os
from collections.abc import Callable

import numpy as np

from tljax.home import home


def array(key: str, find: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the array remembered under `key`; finds and remembers it where there is
    none, or a damaged one."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    path = home() / "arrays" / f"{digest}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            return saved["array"]  # NumPy checks its CRC.
    except Exception:  # Whatever a damaged file does: it is made again.
        found = find()
    part = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(part, array=found)
        part.replace(path)
    except OSError:  # Only the time to find it again is lost.
        part.unlink(missing_ok=True)
    return found
