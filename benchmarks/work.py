"""What is to be measured, and the settings that a step reads for it.

They are those of `tljax.config.Config`, which is not imported: it knows data sets and
files, and a bare accelerator machine lacks what those need. A test holds the settings
to Config's fields and defaults.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from tljax.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Transform


class Work(NamedTuple):
    """What is to be done, by the flags of `benchmarks.throughput`.

    `devices` is a platform or "", `num_devices` 0 for all; `input` says where batches
    come from: "device", of images that lie there, or "host", sent one ahead; `latent`
    is a GAN's; `often` that the program is one of a long run: see `programs.LONG`.
    """

    task: str = "classification"
    model: str = "resnet50"
    image_size: int = 224
    batch_size: int = 8
    phase: str = "train"
    precision: str = "float32"
    compile: str = "jit"
    devices: str = ""
    num_devices: int = 0
    steps_per_call: int = 1
    input: str = "device"
    stem: str = "standard"
    width: int = 64
    latent: int = 64
    channels: int = 3
    num_classes: int = 1000
    often: bool = True


def settings(work: Work) -> ConfigDict:
    """Returns what a step reads of a Config, its defaults but for `work`."""
    return ConfigDict(
        {
            "precision": work.precision,
            "num_steps": 1000,
            "model": {
                "name": work.model, "encoder": "resnet18", "width": work.width,
                "stem": work.stem,
                "dropout": 0.0, "stochastic_depth": 0.0, "remat": False,
            },
            "data": {"augment": (), "eval_views": "center"},
            "optim": {
                "name": "momentum", "learning_rate": 0.01, "momentum": 0.9, "b1": 0.9,
                "b2": 0.999, "rms_decay": 0.99, "eps": 1e-8, "weight_decay": 0.0,
                "schedule": "constant", "warmup_steps": 0, "decay_every": 100,
                "decay_factor": 0.1, "final_factor": 0.0, "clip_norm": 0.0,
                "accumulate_steps": 1, "decay_towards": "zero", "sam_radius": 0.0,
                "ema_decay": 0.0,
            },
            "autoencoder": {
                "hidden": (64,), "activation": "sigmoid", "weight_penalty": 0.0,
                "latent": 64, "noise": "none", "noise_level": 0.25, "mask_ratio": 0.0,
                "patch_size": 0, "kl_weight": 0.0,
            },
            "gan": {
                "latent": work.latent, "loss": "hinge", "gradient_penalty": 10.0,
                "r1": 0.0, "spectral_norm": False, "conditional": False,
                "discriminator_steps": 1, "discriminator_rate": 1.0, "augment": (),
                "judge": "", "num_samples": 1000,
            },
            "loss": {
                "name": "cross_entropy", "focal_gamma": 2.0, "label_smoothing": 0.0,
                "balanced": False, "class_weights": (),
            },
            "plan": {
                "preset": "full", "rows": (), "batch_norm": "auto", "phase_steps": 0,
                "factor": 0.75, "last_k": 1, "recalibration_batches": 100,
            },
        }
    )  # fmt: skip


def transform_of(work: Work) -> Transform:
    """Returns how images are made: ImageNet's scale for colours, 0.5 for others."""
    if work.channels != 3:
        return Transform(work.image_size, work.image_size)
    return Transform(work.image_size, work.image_size, IMAGENET_MEAN, IMAGENET_STD)
