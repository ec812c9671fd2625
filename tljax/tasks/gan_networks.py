"""The two networks of a GAN as functions of their variables."""

import functools

import jax.numpy as jnp

from tljax.data import augment
from tljax.data.transforms import Transform
from tljax.models import spectral
from tljax.models.gan import GAN

METHODS = {"generator": GAN.generate, "discriminator": GAN.discriminate}


def generate(variables, z, labels, model: GAN, transform: Transform, *, train: bool):
    """Returns normalised images [b, h, w, c] of z [b, latent], and new statistics."""
    images, batch_stats = run(variables, "generator", model, z, labels, train)
    grey_levels = 127.5 * (images + 1)
    return augment.normalize(grey_levels, transform.mean, transform.std), batch_stats


def discriminate(variables, images, labels, model: GAN, *, train: bool):
    """Returns logits float32 [b] of normalised images, and new statistics."""
    params, batch_stats = variables["params"], variables["batch_stats"]
    if "spectral" in batch_stats:
        vectors = batch_stats["spectral"]
        normal = spectral.normalize(params["discriminator"], vectors)
        variables = variables | {"params": params | {"discriminator": normal}}
    return run(variables, "discriminator", model, images, labels, train)


def tell_apart(variables, real, fake, labels, model: GAN):
    """Returns logits of real and of generated images [b], and new statistics.

    As in training. Where there is BatchNorm, they are one batch.
    """
    if "discriminator" not in variables["batch_stats"]:
        judge = functools.partial(discriminate, variables, labels=labels, model=model)
        logits, batch_stats = judge(real, train=True)
        return logits, judge(fake, train=True)[0], batch_stats
    both, labels = jnp.concatenate([real, fake]), jnp.concatenate([labels, labels])
    logits, batch_stats = discriminate(variables, both, labels, model, train=True)
    return logits[: len(real)], logits[len(real) :], batch_stats


def run(variables, network: str, model: GAN, inputs, labels, train: bool):
    """Returns what a network makes of its inputs, and the statistics of both."""
    batch_stats = variables["batch_stats"]
    own = {name: tree for name, tree in batch_stats.items() if name == network}
    outputs, updated = model.apply(
        {"params": variables["params"], "batch_stats": own},
        inputs,
        labels,
        train,
        method=METHODS[network],
        mutable=["batch_stats"],
    )
    return outputs, batch_stats | updated.get("batch_stats", {})
