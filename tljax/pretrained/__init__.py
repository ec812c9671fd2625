"""Weights in and out: torchvision's, PyTorch and safetensors files, our own runs.

`load` returns variables for a model, `load_weights` all that belongs to them, and
`export` writes them as torchvision's state dict.
"""

from pathlib import Path
from typing import Any

from tljax.errors import ConfigError, unknown
from tljax.models import MODELS
from tljax.pretrained import adapt, files, mapping, weights
from tljax.pretrained.weights import Weights


def load(start: str, arch: str = "", **choices: Any) -> dict[str, Any]:
    """Returns {"params", "batch_stats"} of published weights, a file or a run.

    `start` and `choices` are those of `load_weights`, which returns all that belongs
    to the weights.
    """
    return load_weights(start, arch, **choices).variables


def load_weights(
    start: str,
    arch: str = "",
    *,
    head: str = "keep",
    num_classes: int | None = None,
    channels: int | None = None,
    input_channels: str = "error",
    entry: str = "",
    seed: int = 0,
) -> Weights:
    """Returns variables (float32), class names, model, transform and origin.

    Args:
      start: "torchvision:NAME", "file:PATH.pth", "file:PATH.safetensors" or
        "run:WORKDIR".
      arch: the architecture it must be; "" takes the one that it is.
      head: "keep", "replace" by a new one of `num_classes`, or "drop".
      num_classes: of the head; with "keep" it must be the number that is there.
      channels: of the images; None for those that the weights were trained on.
      input_channels: what happens where these differ: "error", "sum" (of the kernel,
        for grey images) or "repeat".
      entry: the state dict to take where a file holds several.
      seed: of a new head.

    Raises:
      ConfigError: `start` or a choice means nothing, or there is no such file.
      WeightsError: the file is damaged, hostile, or of another network.
    """
    given = weights.load(start, arch, entry)
    if channels is not None:
        given = adapt.adapt_channels(given, channels, input_channels)
    return adapt.adapt_head(given, head, num_classes, seed)


def export(
    variables: dict[str, Any],
    path: str | Path,
    arch: str,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Writes variables as torchvision's state dict, to .pth or .safetensors.

    `torch.load(path, weights_only=True)` reads a .pth, and torchvision's model takes it
    with `load_state_dict(strict=True)`. `metadata` travels beside the tensors. Raises
    ConfigError for an unknown `arch`, WeightsError where the variables are not of it.
    """
    if arch not in MODELS:
        raise ConfigError(unknown("arch", arch, MODELS))
    files.write(Path(path), mapping.to_state_dict(variables, arch), metadata or {})
