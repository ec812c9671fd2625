"""The one description of a run: every field with its type, default and meaning."""

import dataclasses

from tljax import settings
from tljax.data import operations, sources
from tljax.data.examples import CACHES

# Config files take the operations from here.
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
from tljax.data.views import EVAL_VIEWS
from tljax.errors import ConfigError
from tljax.models import MODELS
from tljax.optim import BATCH_NORMS, OPTIMIZERS, SCHEDULES
from tljax.parallel import COMPILE_MODES
from tljax.pretrained import catalog
from tljax.pretrained.adapt import INPUT_CHANNELS, RUN_HEADS
from tljax.pretrained.weights import FORMS, LOADERS
from tljax.settings import section, setting
from tljax.tasks import TASKS
from tljax.tasks.classification import PRECISIONS
from tljax.tasks.losses import LOSSES


@dataclasses.dataclass(slots=True, kw_only=True)
class Model:
    """The network."""

    name: str = setting("resnet18", "architecture", choices=MODELS)
    width: int = setting(64, "channels of the first stage", low=1)
    stem: str = setting(
        "standard",
        '"small" (3x3, stride 1, no pool) is for images of 64 px and less',
        choices=("standard", "small"),
    )
    dropout: float = setting(
        0.0, "share of the last layer's inputs dropped in training", low=0, below=1
    )
    stochastic_depth: float = setting(
        0.0,
        "share of images that skip the last block in training; less for the blocks "
        "before it, linearly down to 0 for the first",
        low=0,
        below=1,
    )


@dataclasses.dataclass(slots=True, kw_only=True)
class Data:
    """The images, and how they are split, chosen, kept, augmented and scaled."""

    source: str = setting(
        "digits", f"where images come from: {', '.join(sources.FORMS)}"
    )
    image_size: int = setting(
        0,
        "height and width in pixels of what the network sees; 0 = that of the weights "
        "to start from, as stored where all images have one size, or 224",
        low=0,
    )
    resize: int = setting(
        0,
        "shorter side in pixels that photographs are resized to; 0 = that of the "
        "weights to start from, or 8/7 of image_size",
        low=0,
    )
    train_resize: int = setting(
        0, "the same for training images, of which crops are taken; 0 = resize", low=0
    )
    channels: int = setting(
        3, "of folders: 3 for colours, 1 for grey; of the synthetic source: any", low=1
    )
    augment: tuple[Operation, ...] = setting(
        (), "what happens to training images, in order; the operations stand below"
    )
    eval_views: str = setting(
        "center",
        "crops that an image is evaluated on, their probabilities averaged",
        choices=EVAL_VIEWS,
    )
    batch_size: int = setting(
        64, "images a step over all devices; 0 = the whole training set", low=0
    )
    balanced: bool = setting(False, "show each class equally often in training")
    classes: tuple[str, ...] = setting(
        (), "names of the classes to keep, in label order; empty = all"
    )
    allow_empty_classes: bool = setting(
        False, "folder: keep classes that have no training image"
    )
    labels_per_class: int = setting(
        0, "training images kept of each class; 0 = all", low=0
    )
    train_fraction: float = setting(
        1.0, "share of the training images to keep, of each class", above=0, high=1
    )
    val_fraction: float = setting(
        0.15, "share for validation, where the source has none", above=0, below=1
    )
    test_fraction: float = setting(
        0.2, "share for the test, where there is but one split", above=0, below=1
    )
    train_split: str = setting(
        "", "tfds: slice to train on, as train[:90%]; empty = train"
    )
    val_split: str = setting("", "tfds: slice to validate on; empty = its own, if any")
    test_split: str = setting(
        "", "tfds: slice to test on; empty = test, if there is one"
    )
    seed: int = setting(
        0, "seed of splits and of chosen training images", low=0, below=2**32
    )
    mean: tuple[float, ...] = setting(
        (),
        "subtracted from images in [0, 1]; one for all channels or one each; empty = "
        "what the weights to start from were trained with, 0.5 from scratch",
    )
    std: tuple[float, ...] = setting((), "divides them then; empty as with mean")
    cache: str = setting(
        "auto",
        "decode images once and keep those of training on the device, keep them on "
        "disk, or decode them every time (none); auto: by their size",
        choices=CACHES,
        free=True,
    )
    num_threads: int = setting(
        0, "threads that read images; 0 = one a core, 16 at most", low=0, free=True
    )
    num_workers: int = setting(
        0, "processes that read images; 0 = threads of this one", low=0, free=True
    )
    timeout: float = setting(
        120.0, "seconds to wait for an image before the run ends", above=0, free=True
    )
    max_bad_fraction: float = setting(
        0.001, "share of images that may be unusable", low=0, high=1, free=True
    )
    max_megapixels: float = setting(
        64.0, "10^6 pixels above which an image is not decoded", above=0, high=178
    )
    num_examples: int = setting(1024, "images of the synthetic source", low=1)
    num_classes: int = setting(10, "classes of the synthetic source", low=2)


@dataclasses.dataclass(slots=True, kw_only=True)
class Optim:
    """The optimiser and its learning rate over time."""

    name: str = setting("momentum", "optimiser", choices=OPTIMIZERS)
    learning_rate: float = setting(0.01, "highest learning rate", above=0)
    momentum: float = setting(0.9, "of momentum, nesterov and lars", low=0, below=1)
    b1: float = setting(0.9, "Adam family: decay of the mean", low=0, below=1)
    b2: float = setting(0.999, "Adam family: decay of the square", low=0, below=1)
    rms_decay: float = setting(0.99, "RMSprop: decay of the square", low=0, below=1)
    eps: float = setting(1e-8, "added to the root in Adam's family, RMSprop", above=0)
    weight_decay: float = setting(
        0.0, "of kernels; BatchNorm and biases are never decayed", low=0
    )
    schedule: str = setting(
        "constant", "learning rate over the steps", choices=SCHEDULES
    )
    warmup_steps: int = setting(
        0, "steps of linear warm-up from 0 (one_cycle has its own)", low=0
    )
    decay_every: int = setting(100, "step schedule: steps between decays", low=1)
    decay_factor: float = setting(0.1, "step schedule: factor of a decay", above=0)
    final_factor: float = setting(
        0.0, "linear, cosine: last learning rate over the highest", low=0, high=1
    )
    clip_norm: float = setting(
        0.0, "largest global norm of the gradient; 0 = no clipping", low=0
    )
    accumulate_steps: int = setting(
        1, "steps whose gradients are averaged into one update", low=1
    )


@dataclasses.dataclass(slots=True, kw_only=True)
class Loss:
    """The training loss."""

    name: str = setting("cross_entropy", "what is minimised", choices=LOSSES)
    focal_gamma: float = setting(
        2.0, "focal: how little what is right already counts; 0 = cross_entropy", low=0
    )
    label_smoothing: float = setting(
        0.0, "share of the target spread over all classes", low=0, below=1
    )
    balanced: bool = setting(
        False, "weigh classes by the inverse of how often they occur in training"
    )
    class_weights: tuple[float, ...] = setting(
        (), "weight of each class, in label order; empty = equal", low=0
    )


@dataclasses.dataclass(slots=True, kw_only=True)
class Transfer:
    """How the weights to start from are taken, and what of them is trained."""

    head: str = setting(
        "auto",
        "the last layer: keep the trained one, replace it by a new one, or auto: keep "
        "it where it was trained for these very classes in this order",
        choices=RUN_HEADS,
    )
    input_channels: str = setting(
        "error",
        "the first convolution where images have other channels than the weights: "
        "error, the sum of its kernel (for grey images), or its kernel repeated",
        choices=INPUT_CHANNELS,
    )
    batch_norm: str = setting(
        "train",
        "train, frozen_statistics (normalise with the statistics of the weights, train "
        "scales and offsets), or frozen (train nothing of it)",
        choices=BATCH_NORMS,
    )
    entry: str = setting(
        "", "state dict to take where a file holds several; empty = the usual one"
    )


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
    keep_checkpoints: int = setting(
        2,
        "latest checkpoints kept; the best one validated is kept beside",
        low=1,
        free=True,
    )
    compile: str = setting(
        "jit", "how steps are compiled over the devices", choices=COMPILE_MODES
    )
    precision: str = setting(
        "float32",
        "of the computation; parameters, statistics and logits are float32",
        choices=PRECISIONS,
    )
    device: str = setting("", "cpu, gpu or tpu; empty = the best there is", free=True)
    num_devices: int = setting(0, "devices to use; 0 = all", low=0, free=True)
    pretrained: str = setting(
        "", f"weights to start from: {', '.join(FORMS)}; empty = random"
    )
    pretrain: "Config | None" = setting(
        None,
        "a run made first, in WORKDIR/pretrain, to start from; flags: none or build",
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


# A dataclass cannot name its own type while it is made, and flags need the real one.
Config.__dataclass_fields__["pretrain"].type = Config | None


def validate(config: Config, name: str = "config") -> Config:
    """Returns a copy whose values have the types that the fields declare.

    Raises ConfigError, one line that names the field, its value and what is allowed,
    for the first value of a wrong type, out of range, unknown, or at odds with another.
    """
    config = settings.check(config, name)
    check_together(config, name)
    return config


def check_together(config: Config, prefix: str) -> None:
    """Raises ConfigError where fields that are right alone are at odds."""
    if config.pretrain is not None:
        check_together(config.pretrain, f"{prefix}.pretrain")
    data, optim = config.data, config.optim
    if config.pretrained and config.pretrain is not None:
        raise ConfigError(
            f"{prefix}.pretrained = {config.pretrained!r} and {prefix}.pretrain are "
            "both set; a run starts from one of them"
        )
    check_pretrained(config, prefix)
    sources.check(data.source, f"{prefix}.data.source")
    operations.check(data.augment)
    if config.loss.balanced and config.loss.class_weights:
        raise ConfigError(
            f"{prefix}.loss.balanced and {prefix}.loss.class_weights are both set"
        )
    if data.val_fraction + data.test_fraction >= 1:
        raise ConfigError(
            f"{prefix}.data.val_fraction = {data.val_fraction} and test_fraction = "
            f"{data.test_fraction} leave nothing to train on"
        )
    if min(data.std, default=1) <= 0:
        raise ConfigError(f"{prefix}.data.std = {data.std} must be above 0")
    if not config.num_epochs:
        check_steps(config, prefix)
    if optim.warmup_steps and optim.schedule == "one_cycle":
        raise ConfigError(
            f"{prefix}.optim.warmup_steps = {optim.warmup_steps} must be 0 with the "
            "one_cycle schedule, which warms up by itself"
        )


def check_steps(config: Config, prefix: str) -> None:
    """Raises ConfigError where settings are at odds with the number of steps."""
    optim = config.optim
    if optim.warmup_steps >= config.num_steps:
        raise ConfigError(
            f"{prefix}.optim.warmup_steps = {optim.warmup_steps} must be below "
            f"{prefix}.num_steps = {config.num_steps}"
        )
    for name, steps in (
        ("num_steps", config.num_steps),
        ("optim.warmup_steps", optim.warmup_steps),
        ("optim.decay_every", optim.decay_every if optim.schedule == "step" else 0),
    ):
        if steps % optim.accumulate_steps:
            raise ConfigError(
                f"{prefix}.{name} = {steps} must be a multiple of "
                f"{prefix}.optim.accumulate_steps = {optim.accumulate_steps}"
            )


def check_pretrained(config: Config, prefix: str) -> None:
    """Raises ConfigError where `pretrained` names nothing, or another architecture."""
    kind, _, place = config.pretrained.partition(":")
    if config.pretrained and (kind not in LOADERS or not place):
        raise ConfigError(
            f"{prefix}.pretrained = {config.pretrained!r} must be empty or "
            + " or ".join(FORMS)
        )
    if kind == "torchvision" and catalog.find(place).model != config.model.name:
        raise ConfigError(
            f"{prefix}.pretrained = {config.pretrained!r} is a "
            f"{catalog.find(place).model}; {prefix}.model.name = {config.model.name!r}"
        )
