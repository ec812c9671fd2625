"""What the benchmarks that compare with torch share."""

import importlib
import importlib.util

from tljax.errors import ConfigError


def check_torch() -> None:
    """Raises ConfigError where torch or torchvision is not installed."""
    for name in ("torch", "torchvision"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{name} is not installed; pip install -e '.[parity]'")


def import_torchvision():
    """Returns torchvision, also where it was made for another build of torch.

    Its own operators do not load then, and its import fails for want of two of them.
    Defined before it is known that they are missing, they abort the process.
    """
    import torch

    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float limit) -> Tensor")
    return importlib.import_module("torchvision")
