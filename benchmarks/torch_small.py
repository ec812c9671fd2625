"""The small models without labels in plain PyTorch, as eager code is usually written.

Of the same layers, losses and optimisers as ours: the tied autoencoder, and two GANs
with hinge loss, whose discriminator sees real and generated images as one batch.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional

from benchmarks.work import Work, settings


def make_tied(work: Work, batches: Iterator) -> Callable[[], None]:
    """Returns a step of the tied autoencoder."""
    (hidden,) = settings(work).autoencoder.hidden
    inputs = work.image_size**2 * work.channels
    weight = nn.Parameter(torch.empty(hidden, inputs))
    nn.init.xavier_uniform_(weight)
    bias = nn.Parameter(torch.zeros(hidden))
    optimizer = make_optimizer([weight, bias])

    def step() -> None:
        images, _ = next(batches)
        x = images.flatten(1)
        found = torch.sigmoid(functional.linear(x, weight, bias)) @ weight
        loss = (0.5 * (found - x).square().sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


class Doubled(nn.Module):
    """Each pixel four times."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [b, c, 2 h, 2 w]."""
        return functional.interpolate(x, scale_factor=2, mode="nearest")


def create_dense_gan(work: Work) -> tuple[nn.Module, nn.Module]:
    """Returns generator and discriminator of linear layers."""
    units, pixels = 4 * work.width, work.image_size**2 * work.channels
    generator = nn.Sequential(
        nn.Linear(work.latent, units, bias=False),
        nn.BatchNorm1d(units),
        nn.ReLU(),
        nn.Linear(units, units, bias=False),
        nn.BatchNorm1d(units),
        nn.ReLU(),
        nn.Linear(units, pixels),
        nn.Tanh(),
        nn.Unflatten(1, (work.channels, work.image_size, work.image_size)),
    )
    discriminator = nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, units),
        nn.LeakyReLU(0.2),
        nn.Linear(units, units),
        nn.LeakyReLU(0.2),
        nn.Linear(units, 1),
    )
    return generator, discriminator


def create_dcgan(work: Work) -> tuple[nn.Module, nn.Module]:
    """Returns DCGAN's generator and discriminator for images of 8 px."""
    width, latent = work.width, work.latent
    generator = nn.Sequential(
        nn.Linear(latent, 16 * width, bias=False),
        nn.Unflatten(1, (width, 4, 4)),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Doubled(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, work.channels, 3, padding=1),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(work.channels, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(16 * width, 1),
    )
    return generator, discriminator


GANS = {"dense_gan": create_dense_gan, "dcgan": create_dcgan}


def make_gan(work: Work, batches: Iterator) -> Callable[[], None]:
    """Returns a step of both networks of a GAN, the discriminator's first."""
    latent = work.latent
    generator, discriminator = GANS[work.model](work)
    for_generator = make_optimizer(generator.parameters())
    for_discriminator = make_optimizer(discriminator.parameters())

    def logits(real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made = generator(torch.randn(len(real), latent))
        return discriminator(torch.cat([real, made])).chunk(2)

    def step() -> None:
        real, _ = next(batches)
        with torch.no_grad():
            made = generator(torch.randn(len(real), latent))
        of_real, of_made = discriminator(torch.cat([real, made])).chunk(2)
        loss = functional.relu(1 - of_real).mean() + functional.relu(1 + of_made).mean()
        for_discriminator.zero_grad()
        loss.backward()
        for_discriminator.step()
        _, of_made = logits(real)
        for_generator.zero_grad()
        (-of_made.mean()).backward()
        for_generator.step()

    return step


def make_optimizer(parameters) -> torch.optim.Optimizer:
    """Returns ours: SGD with momentum."""
    return torch.optim.SGD(parameters, 0.01, 0.9, fused=True)
