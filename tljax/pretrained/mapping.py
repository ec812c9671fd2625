"""torchvision's state dict and the variables of the same model: one to one, both ways.

A module's name is torchvision's with "_" for "."; a parameter's follows from its kind:

    layer1.0.downsample.1.weight        params       layer1_0/downsample_1/scale
    layer1.0.downsample.1.running_var   batch_stats  layer1_0/downsample_1/var
    layer1.0.conv1.weight  [o, i, h, w] params       layer1_0/conv1/kernel [h, w, i, o]
    fc.weight              [o, i]       params       fc/kernel             [i, o]
"""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tljax import models
from tljax.errors import WeightsError, quote
from tljax.models.resnet import BasicBlock, ResNet

# Two of the deepest networks differ in fewer; a hostile file may differ in any number.
MAX_LISTED = 2500
THREADS = 4
# Counts batches where torch is asked for a cumulative average; tljax is not.
COUNTER = "num_batches_tracked"
LEAVES = {
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
    "bias": ("params", "bias"),
}
# Names in files of timm's variants, which are other networks.
VARIANTS = {
    r"^conv1\.\d": "a stem of three convolutions (timm's resnet-c, -d, -s, -t)",
    r"\.downsample\.2\.": "a shortcut with average pooling (timm's resnet-d, -t)",
    r"\.se\.|\.attn\.": "channel attention (timm's seresnet, ecaresnet, skresnet)",
    r"\.aa\.": "antialiased strides (timm's resnet-aa)",
    r"\.gn\d|\.norm\d": "another normalisation than BatchNorm",
}


def layout(model: ResNet, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Returns {torchvision's name: shape there} of a model, in torchvision's order.

    It follows from the model's attributes alone: tracing a ResNet-152 for its shapes
    would take longer than to load it.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def conv_and_norm(conv: str, norm: str, out: int, inside: int, size: int):
        shapes[f"{conv}.weight"] = (out, inside, size, size)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{leaf}"] = (out,)

    stem_size = 3 if model.stem == "small" else 7
    conv_and_norm("conv1", "bn1", model.width, channels, stem_size)
    features = model.width
    for stage, num_blocks in enumerate(model.stage_sizes, start=1):
        planes = model.width * 2 ** (stage - 1)
        for index in range(num_blocks):
            prefix = f"layer{stage}.{index}."
            convs = block_convolutions(model, features, planes)
            for place, (out, inside, size) in enumerate(convs, start=1):
                conv, norm = f"{prefix}conv{place}", f"{prefix}bn{place}"
                conv_and_norm(conv, norm, out, inside, size)
            out = convs[-1][0]
            if index == 0 and (stage > 1 or features != out):
                shortcut = f"{prefix}downsample"
                conv_and_norm(f"{shortcut}.0", f"{shortcut}.1", out, features, 1)
            features = out
    if model.num_classes:
        shapes["fc.weight"] = (model.num_classes, features)
        shapes["fc.bias"] = (model.num_classes,)
    return shapes


def block_convolutions(model: ResNet, features: int, planes: int) -> list[tuple]:
    """Returns (features out, features in of a group, kernel size) within a block."""
    if model.block is BasicBlock:
        return [(planes, features, 3), (planes, planes, 3)]
    inner = int(planes * (model.width_per_group / 64.0)) * model.groups
    outer = planes * model.block.expansion
    return [
        (inner, features, 1),
        (inner, inner // model.groups, 3),
        (outer, inner, 1),
    ]


def path_of(name: str, ndim: int) -> tuple[str, ...]:
    """Returns the place in our variables of torchvision's `name`."""
    *modules, leaf = re.sub(r"\.(\d+)", r"_\1", name).split(".")
    if leaf == "weight":
        collection, leaf = "params", "scale" if ndim == 1 else "kernel"
    else:
        collection, leaf = LEAVES[leaf]
    return (collection, *modules, leaf)


def from_torch(array: np.ndarray) -> np.ndarray:
    """Returns a float32 copy in our order of axes: [h, w, i, o], [i, o] or [n]."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, range(array.ndim))
    # A float64 beyond float32 must not become infinite in silence.
    with np.errstate(over="raise", invalid="ignore"):
        return np.array(array.transpose(axes), np.float32, order="C")


def to_torch(array: np.ndarray) -> np.ndarray:
    """Returns a copy in torch's order of axes: [o, i, h, w], [o, i] or [n]."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, range(array.ndim))
    return np.ascontiguousarray(array.transpose(axes))


def model_of(name: str, state: dict[str, Any]) -> ResNet:
    """Returns the model called `name` with the stem, width and head of a state dict.

    Raises WeightsError where it has no first convolution.
    """
    shape = getattr(state.get("conv1.weight"), "shape", ())
    if len(shape) != 4 or 0 in shape:
        hint = variant_hint(state)
        raise WeightsError(f"it has no conv1.weight [o, i, h, w] of a ResNet{hint}")
    head = getattr(state.get("fc.weight"), "shape", ())
    num_classes = head[0] if head else 0
    stem = "small" if shape[2] == 3 else "standard"
    return models.create(name, width=shape[0], stem=stem, num_classes=num_classes)


def identify(state: dict[str, Any]) -> str:
    """Returns the name of the model whose names and shapes a state dict has.

    Raises WeightsError where there is none.
    """
    name = fitting_model(state)
    if name is None:
        raise WeightsError(
            f"it fits none of {', '.join(models.MODELS)}{variant_hint(state)}; with "
            "one of them as arch, what differs is listed"
        )
    return name


def fitting_model(state: dict[str, Any]) -> str | None:
    """Returns the name of the first model that a state dict fits, None without one."""
    state = {key: value for key, value in state.items() if not is_counter(key)}
    fits = (name for name in models.MODELS if not differences(state, name))
    return next(fits, None)


def differences(state: dict[str, Any], name: str) -> list[str]:
    """Returns what keeps a state dict from being that of the model `name`.

    "- KEY SHAPE" is not expected, "+ KEY SHAPE" is missing, others have another shape.
    A missing head is no difference, and neither is any number of image channels.
    """
    model = model_of(name, state)
    want = layout(model, channels=state["conv1.weight"].shape[1])
    have = {key: tuple(value.shape) for key, value in state.items()}
    return (
        [f"- {quote(key)} {shape}" for key, shape in have.items() if key not in want]
        + [f"+ {key} {shape}" for key, shape in want.items() if key not in have]
        + [
            f"{key} {have[key]}, not {shape}"
            for key, shape in want.items()
            if have.get(key, shape) != shape
        ]
    )


def variant_hint(state: dict[str, Any]) -> str:
    """Returns what a state dict looks to be where it is of a network we do not have."""
    for pattern, words in VARIANTS.items():
        if any(re.search(pattern, key) for key in state):
            return f"; it has {words}"
    return ""


def to_variables(state: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    """Returns {"params", "batch_stats"} in float32 of the model `name`'s state dict.

    Raises WeightsError that lists every key that is missing, unexpected or of another
    shape, and every array of other numbers than floats.
    """
    state = {key: value for key, value in state.items() if not is_counter(key)}
    listed = differences(state, name)
    if listed:
        other = fitting_model(state)
        hint = f"; it fits {other}" if other else variant_hint(state)
        if len(listed) > MAX_LISTED:
            listed[MAX_LISTED:] = [f"and {len(listed) - MAX_LISTED:,} more"]
        raise WeightsError(
            f"it does not fit {name}{hint} (- unexpected, + missing, or other shapes): "
            f"{'; '.join(listed)}"
        )
    integers = [
        key
        for key, value in state.items()
        if not jnp.issubdtype(value.dtype, jnp.floating)
    ]
    if integers:
        raise WeightsError(f"these hold no floats: {', '.join(integers)}")
    paths = [path_of(key, value.ndim) for key, value in state.items()]
    try:
        # Most of the time goes into first touches of memory, which threads share.
        with ThreadPoolExecutor(THREADS) as threads:
            values = list(threads.map(from_torch, state.values()))
    except FloatingPointError:
        raise WeightsError("it holds numbers too large for float32") from None
    return traverse_util.unflatten_dict(dict(zip(paths, values, strict=True)))


def is_counter(key: str) -> bool:
    """Returns whether a key is BatchNorm's count of batches."""
    return key.rpartition(".")[2] == COUNTER


def to_state_dict(variables: dict[str, Any], name: str) -> dict[str, np.ndarray]:
    """Returns the state dict, as torchvision names and orders it, of our variables.

    Raises WeightsError that lists what differs where they are not of the model `name`.
    """
    flat = traverse_util.flatten_dict(variables)
    state = {name_of(path): to_torch(np.asarray(leaf)) for path, leaf in flat.items()}
    listed = differences(state, name)
    if listed:
        raise WeightsError(
            f"these variables do not fit {name} (- unexpected, + missing, or other "
            f"shapes): {'; '.join(listed)}"
        )
    ordered = {}
    for key in layout(model_of(name, state)):
        ordered[key] = state[key]
        if key.endswith(".running_var"):
            ordered[key.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    return ordered


def name_of(path: tuple[str, ...]) -> str:
    """Returns torchvision's name of what stands at `path` in our variables."""
    _, *modules, leaf = path
    theirs = {"kernel": "weight", "scale": "weight"} | {
        ours: torch for torch, (_, ours) in LEAVES.items()
    }
    return re.sub(r"_(\d+)", r".\1", ".".join(modules)) + f".{theirs[leaf]}"
