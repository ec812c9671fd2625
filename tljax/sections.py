"""The sections of a config: model, data, optimiser and so on, field by field."""

import dataclasses

from tljax.data import sources
from tljax.data.examples import CACHES
from tljax.data.operations import Operation
from tljax.data.views import EVAL_VIEWS
from tljax.models import AUTOENCODERS, GANS, MODELS
from tljax.models.autoencoder import ACTIVATIONS
from tljax.optim import DECAY_TOWARDS, OPTIMIZERS, SCHEDULES
from tljax.plan import BATCH_NORMS, Row
from tljax.presets import PRESETS
from tljax.pretrained.adapt import INPUT_CHANNELS, RUN_HEADS
from tljax.settings import setting
from tljax.tasks.adversarial import LOSSES as GAN_LOSSES
from tljax.tasks.corruption import NOISES
from tljax.tasks.diff_augment import POLICIES
from tljax.tasks.losses import LOSSES


@dataclasses.dataclass(slots=True, kw_only=True)
class Model:
    """The network."""

    name: str = setting(
        "resnet18",
        "architecture",
        choices=(*MODELS, *AUTOENCODERS, *GANS),
    )
    encoder: str = setting(
        "resnet18",
        "resnet_autoencoder, resnet_gan: the encoder, the trunk of the discriminator",
        choices=MODELS,
    )
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
    remat: bool = setting(
        False,
        "classification: compute blocks again in the backward pass, in place of "
        "keeping all of their values: less memory, more time, but on CPUs, for which "
        "XLA computes nothing twice",
        free=True,
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
    decay_towards: str = setting(
        "zero",
        "what weights decay to: zero, or start, the weights that the run starts from "
        "(L2-SP), but for the last layer, which decays to zero",
        choices=DECAY_TOWARDS,
    )
    sam_radius: float = setting(
        0.0,
        "sharpness-aware minimisation: the gradient is taken this far uphill, at twice "
        "the cost; 0 = at the weights themselves",
        low=0,
    )
    ema_decay: float = setting(
        0.0,
        "of a moving average of the weights, which is evaluated beside them; 0 = none",
        low=0,
        below=1,
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
    """How the weights to start from are taken."""

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
    entry: str = setting(
        "", "state dict to take where a file holds several; empty = the usual one"
    )


@dataclasses.dataclass(slots=True, kw_only=True)
class Plan:
    """The fine-tuning plan: what trains, from which step on, how fast."""

    preset: str = setting("full", "rows by name", choices=PRESETS)
    rows: tuple[Row, ...] = setting(
        (), "in place of a preset; the first that matches a parameter holds for it"
    )
    batch_norm: str = setting(
        "auto", "presets: BatchNorm where it trains, as in rows", choices=BATCH_NORMS
    )
    phase_steps: int = setting(
        0,
        "head_then_full, gradual: steps from phase to phase; 0 = phases of one length",
        low=0,
    )
    factor: float = setting(
        0.75,
        "layerwise_decay: learning rate of a block over that of the block above",
        above=0,
        high=1,
    )
    last_k: int = setting(1, "last_k: stages that train below the last layer", low=1)
    recalibration_batches: int = setting(
        100, "batches, of one epoch at most, that recalibrate measures", low=1
    )


@dataclasses.dataclass(slots=True, kw_only=True)
class Autoencoder:
    """What an autoencoder is like, and what is hidden from it."""

    hidden: tuple[int, ...] = setting(
        (64,), "tied_autoencoder: units of each layer", low=1
    )
    activation: str = setting(
        "sigmoid", "tied_autoencoder: of each layer", choices=ACTIVATIONS
    )
    weight_penalty: float = setting(
        0.0, "tied_autoencoder: weight of the sum of squared weights", low=0
    )
    latent: int = setting(
        64, "conv_autoencoder, resnet_autoencoder: numbers in the code", low=1
    )
    noise: str = setting(
        "none", "what the images it sees are corrupted by in training", choices=NOISES
    )
    noise_level: float = setting(
        0.25,
        "gaussian: deviation, of pixels in [0, 1]; masking, salt_and_pepper: share of "
        "the pixels",
        above=0,
    )
    mask_ratio: float = setting(
        0.0,
        "resnet_autoencoder: share of the patches hidden, on which alone the loss is",
        low=0,
        below=1,
    )
    patch_size: int = setting(0, "pixels of a patch; 0 = an eighth of the image", low=0)
    kl_weight: float = setting(
        0.0, "the same two: above 0 they are variational, with this weight", low=0
    )


@dataclasses.dataclass(slots=True, kw_only=True)
class Gan:
    """How generator and discriminator are trained, and their samples measured."""

    latent: int = setting(64, "numbers that an image is generated from", low=1)
    loss: str = setting("hinge", "of both", choices=GAN_LOSSES)
    gradient_penalty: float = setting(10.0, "wasserstein: weight of the penalty", low=0)
    r1: float = setting(0.0, "weight of the R1 penalty on real images", low=0)
    spectral_norm: bool = setting(False, "normalise the discriminator's kernels")
    conditional: bool = setting(False, "generate images of a class")
    discriminator_steps: int = setting(
        1, "steps of the discriminator for one of the generator", low=1
    )
    discriminator_rate: float = setting(
        1.0, "learning rate of the discriminator over the generator's", above=0
    )
    augment: tuple[str, ...] = setting(
        (),
        "differentiable augmentations of real and generated images",
        choices=POLICIES,
    )
    judge: str = setting(
        "",
        "classifier whose features and classes measure samples: run:WORKDIR, or a "
        "file of Inception weights for FID and KID, inception:PATH.pth",
    )
    num_samples: int = setting(
        1000, "samples that are measured, which takes neighbours of each", low=4
    )
