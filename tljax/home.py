"""Where tljax keeps what it can make or get again."""

import os
from pathlib import Path


def home() -> Path:
    """Returns $TLJAX_HOME, by default a folder in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TLJAX_HOME") or Path(base) / "tljax")
