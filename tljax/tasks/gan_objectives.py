"""What generator and discriminator minimise, as functions of the variables of both.

Each takes `KEYS` keys, the variables, real images [b, h, w, c] normalised, with their
labels [b], and returns a scalar with (statistics of both networks, metrics).
"""

import jax
import jax.numpy as jnp

from tljax.data.transforms import Transform
from tljax.models.gan import GAN
from tljax.tasks import adversarial, diff_augment
from tljax.tasks.adversarial import LOSSES
from tljax.tasks.gan_networks import discriminate, generate, tell_apart

# Of latents, the augmentation of real and of generated images, and points between them.
KEYS = 4


def penalised(gan) -> bool:
    """Returns whether the loss of `config.gan` has a gradient penalty."""
    return gan.loss == "wasserstein" and gan.gradient_penalty > 0


def discriminator(
    keys, variables, real, labels, model: GAN, transform: Transform, config
):
    """Returns what the discriminator minimises, and (statistics, metrics)."""
    gan, loss_of = config.gan, LOSSES[config.gan.loss]
    z_key, real_key, fake_key, line_key = keys
    z = jax.random.normal(z_key, (len(real), model.latent))
    fake, _ = generate(variables, z, labels, model, transform, train=True)
    unit = diff_augment.unit_of(transform)
    real = diff_augment.augment(real_key, real, gan.augment, unit)
    fake = jax.lax.stop_gradient(fake)
    fake = diff_augment.augment(fake_key, fake, gan.augment, unit)

    real_logits, fake_logits, batch_stats = tell_apart(
        variables, real, fake, labels, model
    )
    adversary = adversarial.discriminator_loss(loss_of, real_logits, fake_logits)

    def judge_each(images):
        return discriminate(variables, images, labels, model, train=False)[0]

    loss = adversary
    if penalised(gan):
        penalty = adversarial.gradient_penalty(line_key, judge_each, real, fake)
        loss += gan.gradient_penalty * penalty
    if gan.r1:
        loss += gan.r1 * adversarial.r1_penalty(judge_each, real)
    metrics = {
        "loss": loss,
        "loss_discriminator": adversary,
        "real_logit": jnp.mean(real_logits),
        "fake_logit": jnp.mean(fake_logits),
        "told_apart": adversarial.share_told_apart(real_logits, fake_logits),
    }
    return loss, (batch_stats, metrics)


def generator(keys, variables, real, labels, model: GAN, transform: Transform, config):
    """Returns what the generator minimises, and (statistics, metrics)."""
    z_key, real_key, fake_key, _ = keys
    z = jax.random.normal(z_key, (len(real), model.latent))
    fake, batch_stats = generate(variables, z, labels, model, transform, train=True)
    unit = diff_augment.unit_of(transform)
    beside = diff_augment.augment(real_key, real, config.gan.augment, unit)
    seen = diff_augment.augment(fake_key, fake, config.gan.augment, unit)
    _, logits, _ = tell_apart(variables, beside, seen, labels, model)
    loss = adversarial.generator_loss(LOSSES[config.gan.loss], logits)
    tiny = jnp.finfo(real.dtype).tiny
    diversity = adversarial.spread(fake) / (adversarial.spread(real) + tiny)
    if len(fake) == 1:  # A single image is as different from others as any.
        diversity = jnp.ones_like(diversity)
    return loss, (batch_stats, {"loss_generator": loss, "sample_diversity": diversity})
