"""Signs in the metrics of a step that a GAN has collapsed."""

from tljax.tasks.adversarial import LOSSES

# Discriminator's loss, and spread of samples over that of images, below which it has.
LEAST_LOSS, LEAST_DIVERSITY = 0.01, 0.05


def warn(step: int, metrics: dict[str, float], config) -> str:
    """Returns a warning where the metrics of a step tell a collapse, else "".

    A generator that makes the same image of everything has collapsed; from a
    discriminator whose loss is at its bound it learns little.
    """
    bound = LOSSES[config.gan.loss].bound
    found, diversity = metrics["loss_discriminator"], metrics["sample_diversity"]
    if diversity < LEAST_DIVERSITY:
        return (
            f"step {step}: the generated images differ {diversity:.3f} times as much "
            "as the real ones: the generator has collapsed; try gan.augment, gan.r1, "
            "another gan.loss, or a lower learning rate"
        )
    if bound is not None and found < bound + LEAST_LOSS:
        return (
            f"step {step}: the discriminator's loss is {found:.4f}, at its bound: the "
            "generator learns little from it; try gan.augment, gan.r1, "
            "gan.spectral_norm, or a lower gan.discriminator_rate"
        )
    return ""
