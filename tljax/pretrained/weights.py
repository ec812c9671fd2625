"""Weights by the way `config.pretrained` writes them, e.g. `run:WORKDIR`."""

from pathlib import Path
from typing import Any, NamedTuple

from tljax import checkpoint
from tljax.errors import ConfigError


class Weights(NamedTuple):
    """Variables of a model and where they come from.

    Attributes:
      variables: {"params", "batch_stats"}, nested dicts of NumPy arrays.
      class_names: the classes of the head, in label order.
      model: the settings of the model they belong to, e.g. {"name": "resnet18", ...}.
      origin: one line for logs and results.
    """

    variables: dict[str, Any]
    class_names: tuple[str, ...]
    model: dict[str, Any]
    origin: str


def load(start: str) -> Weights:
    """Returns the weights that `start`, KIND:PLACE, names."""
    kind, _, place = start.partition(":")
    return LOADERS[kind](place)


def load_run(workdir: str) -> Weights:
    """Returns the weights of the latest checkpoint of a run.

    Raises ConfigError where there is none, CheckpointError where it is damaged.
    """
    folder = checkpoint.latest(Path(workdir).absolute() / "checkpoints")
    if folder is None:
        raise ConfigError(
            f"config.pretrained = 'run:{workdir}': there is no checkpoint there"
        )
    variables = checkpoint.restore_variables(folder)
    meta = checkpoint.read_meta(folder)
    origin = f"run:{workdir} at step {folder.name}"
    model = meta["config"]["model"]
    return Weights(variables, tuple(meta["class_names"]), model, origin)


# Both change together: who loads a kind of weights, and how it is written.
LOADERS = {"run": load_run}
FORMS = ("run:WORKDIR",)
