"""What the benchmarks that compare with torch share."""

import importlib.util

from tljax.errors import ConfigError


def check_torch() -> None:
    """Raises ConfigError where torch or torchvision is not installed."""
    for name in ("torch", "torchvision"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{name} is not installed; pip install -e '.[parity]'")


def import_torchvision():
    """Returns torchvision, for which a CPU build of torch lacks two operators."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(operator + signature)
    import torchvision

    return torchvision
