"""What a result was made with."""

import platform

import flax
import jax

import tljax


def versions() -> dict[str, str]:
    """Returns the versions that numbers depend on."""
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "tljax": tljax.__version__,
    }
