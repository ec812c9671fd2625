"""Generative adversarial training: a step of both networks, samples and pictures.

Goodfellow et al. 2014 (arXiv 1406.2661). Params and statistics are {"generator": ...,
"discriminator": ...}; with spectral normalisation the statistics hold its vectors under
"spectral" too. Where the discriminator has BatchNorm:

- real and generated images pass it as one batch, in the generator's step too. In
  batches of their own, as is often done, it tells whole batches apart: its loss falls
  to its bound and its features are worth less;
- so its running statistics are of both; fine-tuning the trunk may recalibrate them;
- penalties normalise by the running statistics: the gradient of one logit by one image
  is not defined where a batch is normalised together;
- what stands in the trunk is not divided by its spectral norm, which BatchNorm undoes.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from tljax import models, optim
from tljax import plan as plan_lib
from tljax.data import augment, views
from tljax.data.operations import Mixing
from tljax.data.transforms import Transform
from tljax.errors import ConfigError
from tljax.initial import create_variables
from tljax.models import devices, spectral
from tljax.models.gan import GAN
from tljax.plan import Phase
from tljax.state import TrainState, average, begin
from tljax.tasks import classification
from tljax.tasks import gan_objectives as objectives
from tljax.tasks.adversarial import LOSSES

# What is asked of this task beside training.
from tljax.tasks.collapse import warn  # noqa: F401
from tljax.tasks.gan_networks import discriminate
from tljax.tasks.samples import draw, sample  # noqa: F401
from tljax.tasks.update import take_step

# The Frechet distance of samples, which evaluation adds: the best state has least.
SCORE = ("fd", -1)
TRUNK = "trunk"


class Optimizers(NamedTuple):
    """The optimisers of both networks; states are {"generator", "discriminator"}."""

    generator: optax.GradientTransformation
    discriminator: optax.GradientTransformation

    def init(self, trained: dict[str, Any]) -> dict[str, optax.OptState]:
        """Returns their states for row -> {"generator": ..., "discriminator": ...}."""
        return {
            name: tx.init(part(trained, name)) for name, tx in self._asdict().items()
        }


def create_model(
    config, num_classes: int, image_shape: tuple[int, int, int]
) -> nn.Module:
    """Returns the GAN of `config` (a whole Config) for images of (h, w, c).

    DCGAN's discriminator has BatchNorm unless something bounds its gradients. Raises
    ValueError for images of a size that no GAN is made for, ConfigError for images
    that are mixed where each is to have one class.
    """
    mixed = any(isinstance(each, Mixing) for each in config.data.augment)
    if config.gan.conditional and mixed:
        raise ConfigError(
            "config.data.augment: Mixup and CutMix leave images without a class; take "
            "them out, or set config.gan.conditional to False"
        )
    dtype = classification.PRECISIONS[config.precision]
    options = {}
    if config.model.name == "resnet_gan":
        options["trunk"] = models.create(
            config.model.encoder,
            num_classes=0,
            width=config.model.width,
            stem=config.model.stem,
            dtype=dtype,
        )
    if config.model.name == "dcgan":
        gan = config.gan
        options["batch_norm"] = not (
            gan.spectral_norm or gan.r1 or objectives.penalised(gan)
        )
    return models.GANS[config.model.name](
        image_shape,
        latent=config.gan.latent,
        num_classes=num_classes,
        conditional=config.gan.conditional,
        width=config.model.width,
        dtype=dtype,
        **options,
    )


def create_optimizer(config, schedule: optax.Schedule, rows) -> Optimizers:
    """Returns the optimisers of a plan's rows.

    The discriminator takes `discriminator_steps` for one of the generator; both are at
    the same place of the schedule.
    """
    steps, rate = config.gan.discriminator_steps, config.gan.discriminator_rate
    return Optimizers(
        optim.create_optimizer(config.optim, schedule, rows),
        optim.create_optimizer(
            config.optim, lambda count: rate * schedule(count // steps), rows
        ),
    )


def know_labels(config, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    """Returns {}: no argument of `train_step` follows from the training labels."""
    return {}


def create_state(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    model: GAN,
    tx: Optimizers,
    phase: Phase,
    config,
) -> TrainState:
    """Returns the state before the first step, initialised from `key`."""
    init_key, run_key = jax.random.split(key)
    variables = create_variables(model, init_key, image_shape)
    batch_stats = variables.get("batch_stats", {})
    if config.gan.spectral_norm:
        vector_key = jax.random.fold_in(init_key, 1)
        batch_stats["spectral"] = spectral.create_vectors(
            vector_key, variables["params"]["discriminator"], skip=(TRUNK,)
        )
    variables = variables | {"batch_stats": batch_stats}
    keeps = config.optim.ema_decay > 0
    return begin(variables, run_key, phase, tx, keeps_average=keeps)


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: GAN,
    tx: Optimizers,
    schedule: optax.Schedule,
    phase: Phase,
    transform: Transform,
    config,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state one step of the generator on, and scalars of the step.

    `batch` is as that of classification. Its images are dealt out to the steps of the
    discriminator, which come first; the generator's has as many images as one of them.
    Generated images have the labels of the real ones beside them. `loss` is what the
    discriminator minimises at its last step, `loss_discriminator` that without
    penalties; `sample_diversity` is the spread of generated images over that of real
    ones, 0 where all are the same. Raises ConfigError for a batch that cannot be dealt
    out equally.
    """
    steps = config.gan.discriminator_steps
    key = devices.own(jax.random.fold_in(state.key, state.step))
    # At once: each split of a key takes a small GAN on a CPU longer than a layer.
    (see_key, *_), of_generator, *of_discriminator = jax.random.split(
        key, (steps + 2, objectives.KEYS)
    )
    images, _ = classification.see(
        see_key, batch, model.num_classes, transform, config.data.augment
    )
    update = functools.partial(
        update_network, phase=phase, model=model, transform=transform, config=config
    )
    # No scan: on CPUs, XLA's gradients of convolutions are slow in loops.
    dealt = deal(images, batch["label"], steps)
    for keys, (real, labels) in zip(of_discriminator, dealt, strict=True):
        state, told, norm = update(
            objectives.discriminator, "discriminator", tx, state, keys, real, labels
        )
    state, made, generator_norm = update(
        objectives.generator, "generator", tx, state, of_generator, real, labels
    )
    ema = state.ema
    trained = plan_lib.split(state.params, phase)
    if ema:
        now = {"params": trained, "batch_stats": state.batch_stats}
        ema = average(ema, now, config.optim, state.step)

    grad_norm = jnp.hypot(norm, generator_norm)
    state_norm = optax.tree.norm((trained, state.batch_stats))
    metrics = devices.mean(told | made)
    metrics |= {
        "learning_rate": schedule(state.step // config.optim.accumulate_steps),
        "grad_norm": grad_norm,
        "finite": jnp.isfinite(sum(metrics.values()) + grad_norm + state_norm),
    }
    dtype = metrics["loss"].dtype
    metrics = {name: jnp.asarray(value, dtype) for name, value in metrics.items()}
    return state.replace(step=state.step + 1, ema=ema), metrics


def deal(images: jax.Array, labels: jax.Array, steps: int):
    """Returns so many pairs of images and labels, equal parts of a batch."""
    if len(images) % steps:
        raise ConfigError(
            f"config.gan.discriminator_steps = {steps} must divide the batch of "
            f"{len(images)} images"
        )
    return list(zip(jnp.split(images, steps), jnp.split(labels, steps), strict=True))


def update_network(
    objective,
    network: str,
    tx: Optimizers,
    state: TrainState,
    keys: jax.Array,
    real: jax.Array,
    labels: jax.Array,
    *,
    phase: Phase,
    model: GAN,
    transform: Transform,
    config,
) -> tuple[TrainState, dict[str, jax.Array], jax.Array]:
    """Returns the state after an update of one network, metrics, and a gradient norm.

    `objective` takes the params of both networks and the rest, and returns the loss of
    this one, with (statistics of both, metrics).
    """
    if network == "discriminator" and "spectral" in state.batch_stats:
        vectors = spectral.iterate(
            state.params["discriminator"], state.batch_stats["spectral"]
        )
        state = state.replace(batch_stats=state.batch_stats | {"spectral": vectors})

    def loss_fn(trained):
        params = plan_lib.join(state.params, trained)
        variables = {"params": params, "batch_stats": state.batch_stats}
        return objective(keys, variables, real, labels, model, transform, config)

    trained, opt_state, (_, (batch_stats, metrics)), grads = take_step(
        part(plan_lib.split(state.params, phase), network),
        loss_fn,
        getattr(tx, network),
        state.opt_state[network],
    )
    state = state.replace(
        params=plan_lib.join(state.params, trained),
        batch_stats=batch_stats,
        opt_state=state.opt_state | {network: opt_state},
    )
    return state, metrics, optax.tree.norm(grads)


def part(trained: dict[str, Any], network: str) -> dict[str, Any]:
    """Returns row -> what of a network trains in it."""
    return {
        row: {network: tree[network]}
        for row, tree in trained.items()
        if network in tree
    }


def eval_step(
    variables: Any,
    batch: dict[str, jax.Array],
    *,
    model: GAN,
    transform: Transform,
    config,
) -> dict[str, jax.Array]:
    """Returns sums over the examples whose mask is 1.

    Of what the discriminator says of real images: its loss on them and its logits,
    which part from those in training where it learns the training images by heart.
    """
    images = views.center(batch, transform.crop)
    images = augment.normalize(images, transform.mean, transform.std)
    logits, _ = discriminate(variables, images, batch["label"], model, train=False)
    mask = batch["mask"]
    sums = {
        "num_examples": jnp.sum(mask),
        "loss": jnp.sum(LOSSES[config.gan.loss].real(logits) * mask),
        "real_logit": jnp.sum(logits * mask),
    }
    return devices.total(sums)


def summarize(sums: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the metrics that follow from the sums of `eval_step` over a split."""
    total = float(sums["num_examples"])
    return {
        "num_examples": round(total),
        "loss": float(sums["loss"]) / total,
        "real_logit": float(sums["real_logit"]) / total,
    }
