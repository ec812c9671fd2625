"""Autoencoders: images from what is left of them in a code, without labels."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from tljax import models, optim
from tljax.data import augment, views
from tljax.data.transforms import Transform
from tljax.errors import ConfigError
from tljax.initial import create_variables
from tljax.models import devices
from tljax.models.decoder import Reconstruction
from tljax.plan import Phase
from tljax.state import TrainState, begin
from tljax.tasks.classification import PRECISIONS, see
from tljax.tasks.corruption import hide, inputs, obscure, patch_grid, patch_size
from tljax.tasks.reconstruction import (
    image_losses,
    kl_divergence,
    measures,
    psnr,
    to_pixels,
    whole,
)
from tljax.tasks.samples import COLUMNS, in_rows
from tljax.tasks.update import descend

# The metric that tells the best step, and its sign.
SCORE = ("psnr", +1)
# Noises whose level is a share of the pixels.
SHARES = ("masking", "salt_and_pepper")


def create_model(
    config, num_classes: int, image_shape: tuple[int, int, int]
) -> nn.Module:
    """Returns the autoencoder of `config` (a whole Config) for (h, w, c) images.

    Raises ConfigError for settings that it has no use for. What does not fit the images
    is a ValueError when the model is initialised.
    """
    check(config, image_shape)
    name, settings = config.model.name, config.autoencoder
    options = {"image_shape": image_shape, "dtype": PRECISIONS[config.precision]}
    if name == "tied_autoencoder":
        options |= {"hidden": settings.hidden, "activation": settings.activation}
        return models.AUTOENCODERS[name](**options)
    options |= {
        "latent": settings.latent,
        "width": config.model.width,
        "variational": settings.kl_weight > 0,
    }
    if name == "resnet_autoencoder":
        options |= {
            "make_encoder": models.MODELS[config.model.encoder],
            "stem": config.model.stem,
            "masked": settings.mask_ratio > 0,
        }
    return models.AUTOENCODERS[name](**options)


def check(config, image_shape: tuple[int, int, int]) -> None:
    """Raises ConfigError where settings are at odds with each other."""
    name, settings = config.model.name, config.autoencoder
    users = {
        "mask_ratio": ("resnet_autoencoder",),
        "kl_weight": ("conv_autoencoder", "resnet_autoencoder"),
        "weight_penalty": ("tied_autoencoder",),
    }
    for field, names in users.items():
        value = getattr(settings, field)
        if value and name not in names:
            raise ConfigError(
                f"config.autoencoder.{field} = {value} is of {' and '.join(names)}; "
                f"with config.model.name = {name!r} it must be 0"
            )
    if settings.noise in SHARES and settings.noise_level > 1:
        raise ConfigError(
            f"config.autoencoder.noise_level = {settings.noise_level} must be at most "
            f"1 with noise = {settings.noise!r}: it is a share of the pixels"
        )
    if settings.mask_ratio and settings.kl_weight:
        raise ConfigError(
            f"config.autoencoder.kl_weight = {settings.kl_weight} must be 0 where "
            f"mask_ratio = {settings.mask_ratio} hides patches"
        )
    if settings.mask_ratio:
        rows, columns = patch_grid(image_shape, patch_size(config, image_shape))
        if rows * columns < 2:
            raise ConfigError(
                f"config.autoencoder.patch_size = {settings.patch_size} leaves one "
                f"patch of an image of {image_shape[0]}x{image_shape[1]} pixels"
            )


def create_optimizer(
    config, schedule: optax.Schedule, rows
) -> optax.GradientTransformation:
    """Returns the optimiser of the rows of a plan."""
    return optim.create_optimizer(config.optim, schedule, rows)


def know_labels(config, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    """Returns nothing: no label is looked at."""
    return {}


def warn(step: int, metrics: dict[str, float], config) -> str:
    """Returns no warning: what goes wrong here is not finite."""
    return ""


def create_state(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    phase: Phase,
    config,
) -> TrainState:
    """Returns the state before the first step, initialised from `key`."""
    init_key, run_key = jax.random.split(key)
    variables = create_variables(model, init_key, image_shape)
    keeps = config.optim.ema_decay > 0
    return begin(variables, run_key, phase, tx, keeps_average=keeps)


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    phase: Phase,
    transform: Transform,
    config,
    **constants: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state one step on, and scalars of the step (see `descend`).

    `batch` is as in `classification.train_step`; its labels are not looked at. The
    loss is the mean of `reconstruction.image_losses`.
    """
    key = devices.own(jax.random.fold_in(state.key, state.step))
    images, _ = see(key, batch, 1, transform, config.data.augment)
    # `see` splits the key in two, which are its folds 0 and 1.
    seen, visible = obscure(jax.random.fold_in(key, 2), images, transform, config)
    sample_key = jax.random.fold_in(key, 3)
    model = model.clone(frozen_statistics=phase.frozen_statistics)

    def loss_fn(params):
        found, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            *inputs(seen, visible),
            train=True,
            mutable=["batch_stats"],
            rngs={"sample": sample_key},
        )
        losses = image_losses(found, images, visible, params, config)
        return jnp.mean(losses), (updated.get("batch_stats", {}), {})

    return descend(state, loss_fn, tx=tx, schedule=schedule, phase=phase, config=config)


def eval_step(
    variables: Any,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    transform: Transform,
    config,
) -> dict[str, jax.Array]:
    """Returns sums over the examples whose mask is 1.

    `batch` has a "mask" float32 [b] beside the images. There is no noise, codes are the
    means of their distributions, and of all images the same patches are hidden: a
    number that does not depend on how images are put into batches.
    """
    images = augment.normalize(
        views.center(batch, transform.crop), transform.mean, transform.std
    )
    visible = None
    if config.autoencoder.mask_ratio:
        once = hide(jax.random.key(0), (1, *images.shape[1:]), config)
        visible = jnp.broadcast_to(once, (len(images), *once.shape[1:]))
    found = model.apply(variables, *inputs(images, visible))
    each = {
        "examples": jnp.ones(len(images)),
        "loss": image_losses(found, images, visible, variables["params"], config),
        **measures(found.images, images, visible, transform),
    }
    if found.log_variance is not None:
        each["kl"] = kl_divergence(found.mean, found.log_variance)
    sums = {name: jnp.sum(values * batch["mask"]) for name, values in each.items()}
    return devices.total(sums)


def summarize(sums: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the metrics that follow from the sums of `eval_step` over a split.

    `loss` is in normalised units; `mse`, `psnr` (dB) and `ssim` are of levels in
    [0, 1]. `psnr` is that of the mean error, not the mean over images. A variational
    autoencoder has `kl`, nats an image.
    """
    total = float(sums["examples"])
    means = {
        name: float(value) / total for name, value in sums.items() if name != "examples"
    }
    return {"num_examples": round(total), **means, "psnr": psnr(means["mse"])}


def draw(
    variables: Any,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    model: nn.Module,
    transform: Transform,
    config,
) -> dict[str, jax.Array]:
    """Returns pictures by name, grids uint8 [rows, COLUMNS, h, w, c].

    "reconstructions" has three rows: images, what is seen of them (noise and hidden
    patches as in training), and what is made of that. "interpolation" has in each row
    the codes on the line from one image's to another's; a masked autoencoder makes no
    images of codes alone. A variational one has "samples", of codes drawn from the
    prior.
    """
    images = augment.normalize(
        views.center(batch, transform.crop), transform.mean, transform.std
    )
    images = images[jnp.arange(COLUMNS) % len(images)]
    noise_key, sample_key = jax.random.split(key)
    seen, visible = obscure(noise_key, images, transform, config)
    found: Reconstruction = model.apply(variables, *inputs(seen, visible))
    shown = seen if visible is None else seen * visible
    rows = (images, shown, whole(found.images, images, visible))
    pictures = {"reconstructions": jnp.concatenate(rows)}
    decode = functools.partial(model.apply, variables, method="decode")
    if visible is None:
        pictures["interpolation"] = decode(interpolate(found.mean))
    if found.log_variance is not None:
        codes = jax.random.normal(sample_key, (COLUMNS**2, found.mean.shape[-1]))
        pictures["samples"] = decode(codes)
    return {
        name: in_rows(as_levels(values, transform), COLUMNS)
        for name, values in pictures.items()
    }


def interpolate(codes: jax.Array) -> jax.Array:
    """Returns codes [rows * COLUMNS, ...] on the lines between pairs of codes [b, ...].

    A row leads from a code at an even place to the one after it, both included.
    """
    shares = jnp.linspace(0, 1, COLUMNS).reshape(1, COLUMNS, *[1] * (codes.ndim - 1))
    lines = codes[::2, None] * (1 - shares) + codes[1::2, None] * shares
    return lines.reshape(-1, *codes.shape[1:])


def as_levels(images: jax.Array, transform: Transform) -> jax.Array:
    """Returns normalised images as uint8, cut off at black and white."""
    pixels = jnp.clip(to_pixels(images, transform), 0, 1)
    return jnp.round(255 * pixels).astype(jnp.uint8)
