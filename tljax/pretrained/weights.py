"""Weights by the way `config.pretrained` writes them, e.g. `torchvision:resnet50`."""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from tljax import checkpoint
from tljax.data import transforms
from tljax.data.transforms import Transform
from tljax.errors import CheckpointError, ConfigError, WeightsError, quote, unknown
from tljax.models import MODELS
from tljax.pretrained import catalog, download, files, mapping


class Weights(NamedTuple):
    """Variables of a model and all that belongs to them.

    Attributes:
      variables: {"params", "batch_stats"}, nested dicts of float32 NumPy arrays.
      class_names: the classes of the head, in label order; () where nobody knows them.
      model: the settings of the model they belong to, e.g. {"name": "resnet18", ...}.
      transform: how images are made for them.
      origin: one line for logs and results.
      left: arrays beside them in what they are taken from, of no use for the model.
    """

    variables: dict[str, Any]
    class_names: tuple[str, ...]
    model: dict[str, Any]
    transform: Transform
    origin: str
    left: int = 0


def load(start: str, model: str = "", entry: str = "") -> Weights:
    """Returns the weights that `start`, KIND:PLACE, names.

    `model` is the architecture they must be of, "" for the one they are of. `entry`
    names the state dict in a file that holds several. Raises ConfigError where `start`
    names nothing, DataError or CheckpointError where it cannot be used.
    """
    if model and model not in MODELS:
        raise ConfigError(unknown("arch", model, MODELS))
    kind, _, place = start.partition(":")
    if kind not in LOADERS or not place:
        raise ConfigError(f"weights {start!r} must be {' or '.join(FORMS)}")
    return LOADERS[kind](place, model, entry)


def load_run(workdir: str, model: str, entry: str) -> Weights:
    """Returns the weights of the latest checkpoint of a run.

    The entry "ema" is their moving average. Raises ConfigError where there is none,
    CheckpointError where it is damaged.
    """
    folder = checkpoint.latest(as_path("run", workdir) / "checkpoints")
    if folder is None:
        raise ConfigError(f"weights 'run:{workdir}': there is no checkpoint there")
    meta = checkpoint.read_meta(folder)
    backbone = find_backbone(meta["config"], f"run:{workdir}")
    if model and backbone.model["name"] != model:
        raise ConfigError(
            f"run:{workdir} is of {backbone.model['name']}, not of {model}"
        )
    try:
        transform = transforms.from_json(meta["transform"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{folder} has no transform: {error}") from None
    variables = checkpoint.restore_variables(folder, entry)
    average = ", moving average" if entry else ""
    origin = f"run:{workdir} at step {folder.name}{average}"
    class_names = () if backbone.path else tuple(meta["class_names"])
    given = Weights(variables, class_names, backbone.model, transform, origin)
    return take_backbone(given, backbone)


class Backbone(NamedTuple):
    """Where in the variables of a run the network stands that others start from.

    Attributes:
      path: the modules that lead to it; () where it is the whole of a classifier.
      model: its settings, {"name": "resnet18", ...}.
    """

    path: tuple[str, ...]
    model: dict[str, Any]


def find_backbone(config: dict[str, Any], origin: str) -> Backbone:
    """Returns the backbone of the runs of a config (as JSON).

    Raises ConfigError for a network that has none of the ResNet family in it.
    """
    model = config["model"]
    if config.get("task", "classification") == "classification":
        return Backbone((), model)
    if model["name"] not in BACKBONES:
        raise ConfigError(
            f"{origin} is of a {model['name']}, in which there is no ResNet to start "
            f"from; there is one in {' and in '.join(BACKBONES)}"
        )
    return Backbone(BACKBONES[model["name"]], model | {"name": model["encoder"]})


def take_backbone(weights: Weights, backbone: Backbone) -> Weights:
    """Returns the weights of the backbone alone."""
    if not backbone.path:
        return weights
    parts = {}
    for collection, tree in weights.variables.items():
        for name in backbone.path:
            tree = tree[name]
        parts[collection] = tree
    count = len(jax.tree.leaves(parts))
    left = len(jax.tree.leaves(weights.variables)) - count
    origin = f"{'/'.join(backbone.path)} of {weights.origin}"
    return weights._replace(variables=parts, origin=origin, left=left)


def load_file(place: str, model: str, entry: str) -> Weights:
    """Returns the weights in a .pth or .safetensors file.

    A file that tljax wrote says its model, classes and transform; for one that is named
    as torchvision names it, the catalog does, and its hash is checked. For any other
    the model is the one whose names and shapes it has, and the transform ImageNet's.
    """
    path = as_path("file", place)
    published = catalog.entries().get(path.name)
    if published is not None:
        state = files.read(path, entry, published.hash_prefix)
        return from_state_dict(state, model, f"file:{place}", published)
    return from_state_dict(files.read(path, entry), model, f"file:{place}")


def as_path(kind: str, place: str) -> Path:
    """Returns the absolute path of weights, "~" being a home that there must be."""
    try:
        return Path(place).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"weights '{kind}:{place}': {error}") from None


def load_torchvision(name: str, model: str, entry: str) -> Weights:
    """Returns weights that torchvision has published, downloaded on first use."""
    published = catalog.find(name)
    if model and published.model != model:
        raise ConfigError(f"torchvision:{name} is of {published.model}, not of {model}")
    state = files.read(download.fetch(published))
    origin = f"{published.name} ({published.file}, acc@1 {published.top1})"
    return from_state_dict(state, published.model, origin, published)


def from_state_dict(
    state: files.StateDict,
    model: str,
    origin: str,
    published: catalog.Entry | None = None,
) -> Weights:
    """Returns the weights in a state dict; raises WeightsError where it is no ResNet's.

    `origin` is where it comes from, `published` what the catalog knows of it.
    """
    origin = ", ".join([origin, *state.notes])
    try:
        settings, class_names, transform = describe(state, published)
        name = model or settings.get("name") or mapping.identify(state.tensors)
        variables = mapping.to_variables(state.tensors, name)
    except WeightsError as error:
        raise WeightsError(f"{origin} cannot be used: {error}") from None
    built = mapping.model_of(name, state.tensors)
    channels = variables["params"]["conv1"]["kernel"].shape[2]
    transform = transforms.for_channels(transform, channels)
    if built.num_classes != len(class_names):
        class_names = ()
    settings = {"name": name, "width": built.width, "stem": built.stem}
    return Weights(variables, class_names, settings, transform, origin)


def describe(
    state: files.StateDict, published: catalog.Entry | None
) -> tuple[dict[str, Any], tuple[str, ...], Transform]:
    """Returns settings of the model, class names and transform of a state dict."""
    if published is not None:
        names = catalog.class_names()
        return {"name": published.model}, names, published.transform
    if not state.metadata:
        return {}, (), transforms.IMAGENET
    try:
        model = dict(state.metadata["model"])
        names = tuple(map(str, state.metadata["class_names"]))
        transform = transforms.from_json(state.metadata["transform"])
        if model["name"] not in MODELS:
            raise ValueError(f"model {model['name']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"its metadata is not tljax's: {quote(error)}") from None
    return model, names, transform


def metadata(weights: Weights, source: dict[str, str]) -> dict[str, Any]:
    """Returns what travels beside the arrays in a file that tljax writes."""
    return {
        "model": {name: weights.model[name] for name in ("name", "width", "stem")},
        "class_names": list(weights.class_names),
        "transform": transforms.as_json(weights.transform),
        "source": source,
    }


# Models that are trained without labels -> the modules that lead to the ResNet in them.
BACKBONES = {
    "resnet_autoencoder": ("encoder",),
    "resnet_gan": ("discriminator", "trunk"),
}
# Both change together: who loads a kind of weights, and how it is written.
LOADERS = {"torchvision": load_torchvision, "file": load_file, "run": load_run}
FORMS = ("torchvision:NAME", "file:PATH.pth", "file:PATH.safetensors", "run:WORKDIR")
