"""Weights for other classes and other numbers of image channels, by explicit choice."""

from typing import Any

import numpy as np

from tljax.data import transforms
from tljax.errors import ConfigError, unknown
from tljax.pretrained.weights import Weights

# What becomes of the head: taken, made anew, or left out. "auto", which only a run
# knows, takes it where it was trained for these very classes in this order.
HEADS = ("keep", "replace", "drop")
RUN_HEADS = ("auto", "keep", "replace")
# What becomes of the first convolution where images have other channels.
INPUT_CHANNELS = ("error", "sum", "repeat")


def adapt_channels(weights: Weights, channels: int, how: str) -> Weights:
    """Returns the weights for images of `channels` channels.

    "sum" serves grey images: the kernel's sum over its channels answers them as the
    kernel answers the same image in all of its channels. "repeat" gives channel c the
    kernel's channel c modulo their number, scaled so that equal channels give what
    they gave before. Raises ConfigError where `how` does not allow it.
    """
    if how not in INPUT_CHANNELS:
        raise ConfigError(unknown("input_channels", how, INPUT_CHANNELS))
    params = weights.variables["params"]
    kernel = params["conv1"]["kernel"]
    there = kernel.shape[2]
    if there == channels:
        return weights
    if how == "error" or (how == "sum" and channels != 1):
        fitting = "'sum' or 'repeat'" if channels == 1 else "'repeat'"
        raise ConfigError(
            f"weights of {weights.origin} are for images of {there} channels, not of "
            f"{channels}: input_channels = {how!r}; {fitting} would adapt them"
        )
    if how == "sum":
        kernel = kernel.sum(axis=2, keepdims=True)
    else:
        kernel = kernel[:, :, np.arange(channels) % there] * (there / channels)
    kernel = kernel.astype(np.float32)
    return weights._replace(
        variables=weights.variables
        | {"params": params | {"conv1": {"kernel": kernel}}},
        transform=transforms.for_channels(weights.transform, channels),
        origin=f"{weights.origin}, {there} to {channels} image channels by {how}",
    )


def adapt_head(
    weights: Weights, head: str, num_classes: int | None = None, seed: int = 0
) -> Weights:
    """Returns the weights with their head kept, replaced or dropped.

    A new head has `num_classes` outputs, and the initial values of `torch.nn.Linear`:
    uniform in +-1/sqrt(features). Raises ConfigError where a head that is kept has
    another number of classes, or is not there.
    """
    if head not in HEADS:
        raise ConfigError(unknown("head", head, HEADS))
    params = dict(weights.variables["params"])
    old = params.pop("fc", None)
    if head == "keep":
        there = 0 if old is None else old["bias"].size
        if there == 0 or num_classes not in (None, there):
            wanted = "any" if num_classes is None else num_classes
            raise ConfigError(
                f"weights of {weights.origin} have a head of {there} classes, not of "
                f"{wanted}: head = 'keep'; 'replace' or 'drop' would take the rest"
            )
        return weights
    if head == "replace":
        if not num_classes or num_classes < 1:
            raise ConfigError(f"head = 'replace' needs num_classes, not {num_classes}")
        params["fc"] = new_head(weights.variables, num_classes, seed)
    return weights._replace(
        variables=weights.variables | {"params": params}, class_names=()
    )


def new_head(
    variables: dict[str, Any], num_classes: int, seed: int
) -> dict[str, np.ndarray]:
    """Returns kernel [features, num_classes] and bias of a new head."""
    features = feature_size(variables)
    bound = features**-0.5
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (features, num_classes), "bias": (num_classes,)}
    return {
        name: rng.uniform(-bound, bound, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def feature_size(variables: dict[str, Any]) -> int:
    """Returns the number of pooled features that a ResNet's variables compute."""
    last_block = variables["params"]["layer4_0"]
    last_norm = max(name for name in last_block if name.startswith("bn"))
    return last_block[last_norm]["scale"].size
