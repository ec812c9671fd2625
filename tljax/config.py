"""The one description of a run: every field with its type, default and meaning."""

import dataclasses
import re

from tljax import consistency, settings

# Config files take operations, rows and sections from here.
from tljax.data.operations import (  # noqa: F401
    ColorJitter,
    CutMix,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Mixup,
    Operation,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Rotation,
    TrivialAugmentWide,
    VerticalFlip,
)
from tljax.errors import ConfigError
from tljax.parallel import COMPILE_MODES
from tljax.plan import Row  # noqa: F401
from tljax.pretrained.weights import FORMS
from tljax.sections import (
    Autoencoder,
    Data,
    Gan,
    Loss,
    Model,
    Optim,
    Plan,
    Transfer,
)
from tljax.settings import section, setting
from tljax.tasks import TASKS
from tljax.tasks.classification import PRECISIONS


@dataclasses.dataclass(slots=True, kw_only=True)
class Config:
    """A run. Cadences count steps; 0 = only at the end."""

    task: str = setting("classification", "what is learned", choices=TASKS)
    seed: int = setting(
        0, "seed of initial weights and of the order", low=0, below=2**32
    )
    num_steps: int = setting(1000, "training steps", low=1)
    num_epochs: int = setting(
        0, "passes over the training images, in place of num_steps; 0 = none", low=0
    )
    log_every: int = setting(
        50, "steps between lines of training metrics", low=0, free=True
    )
    eval_every: int = setting(200, "steps between validations", low=0)
    checkpoint_every: int = setting(200, "steps between checkpoints", low=0)
    patience: int = setting(
        0,
        "validations of the plan's last phase without a better score after which "
        "the run ends; the result is then that of the best step; 0 = never",
        low=0,
    )
    keep_checkpoints: int = setting(
        2,
        "latest checkpoints kept; the best one validated is kept beside",
        low=1,
        free=True,
    )
    compile: str = setting(
        "jit",
        "how steps are compiled over the devices: as one program of the whole batch, "
        "or one of its part on each device, which draws numbers of its own",
        choices=COMPILE_MODES,
    )
    steps_per_call: int = setting(
        1,
        "steps that one call of the compiled program takes: for networks so small that "
        "calling it costs more than the step; with convolutions, 1 and more differ by "
        "rounding",
        low=1,
        free=True,
    )
    precision: str = setting(
        "float32",
        "of the computation; parameters, statistics and logits are float32",
        choices=PRECISIONS,
    )
    device: str = setting("", "cpu, gpu or tpu; empty = the best there is", free=True)
    num_devices: int = setting(0, "devices to use; 0 = all", low=0, free=True)
    shard_params: bool = setting(
        False,
        "have each device hold a share of parameters, optimiser and moving average in "
        "place of all of it",
        free=True,
    )
    pretrained: str = setting(
        "", f"weights to start from: {', '.join(FORMS)}; empty = random"
    )
    pretrain: "Config | None" = setting(
        None,
        "a run made first, in WORKDIR/pretrain, to start from; flags: none or build",
    )
    judge: "Config | None" = setting(
        None,
        "gan: a classifier trained first, in WORKDIR/judge, to measure samples by; "
        "flags: none or build",
    )
    baseline: bool = setting(
        False,
        "train the same from scratch too, in WORKDIR/scratch, to compare",
        free=True,
    )
    model: Model = section(Model, "the network")
    data: Data = section(Data, "the images")
    optim: Optim = section(Optim, "the optimiser")
    loss: Loss = section(Loss, "the training loss")
    transfer: Transfer = section(Transfer, "how weights to start from are taken")
    plan: Plan = section(Plan, "what trains, from which step on, how fast")
    autoencoder: Autoencoder = section(Autoencoder, "what an autoencoder is like")
    gan: Gan = section(Gan, "how a GAN is trained")


# Fields that are runs of their own. A dataclass cannot name its own type while it is
# made, and flags need the real one.
INNER = ("pretrain", "judge")
for name in INNER:
    Config.__dataclass_fields__[name].type = Config | None


def plain(name: str) -> str:
    """Returns a dotted field without the runs it is of: seed of pretrain.seed."""
    return re.sub(rf"^(({'|'.join(INNER)})\.)+", "", name)


def check_classifies(config: Config, name: str = "config") -> None:
    """Raises ConfigError where what is trained knows no classes."""
    if config.task != "classification":
        raise ConfigError(
            f"{name}.task = {config.task!r} must be 'classification': there are no "
            "classes to tell"
        )


def validate(config: Config, name: str = "config") -> Config:
    """Returns a copy whose values have the types that the fields declare.

    Raises ConfigError, one line that names the field, its value and what is allowed,
    for the first value of a wrong type, out of range, unknown, or at odds with another.
    """
    config = settings.check(config, name)
    consistency.check(config, name)
    return config
