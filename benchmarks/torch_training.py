"""Training a ResNet in plain torch: what the head-to-head compares tljax with."""

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from benchmarks.torch_side import import_torchvision
from tljax.config import Config
from tljax.data.splits import Split


class Trained(NamedTuple):
    """The loss of every step, and the speed of all steps but the first."""

    losses: list[float]
    images_per_second: float


def create_model(num_classes: int, seed: int) -> nn.Module:
    """Returns torchvision's ResNet-18 for small grey images.

    The stem is that of the CIFAR ResNets, a 3x3 convolution and no pool: torchvision's
    own would leave one pixel of an image of 24 px.
    """
    torch.manual_seed(seed)
    model = import_torchvision().models.resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def load_model(path: Path, num_classes: int, seed: int) -> nn.Module:
    """Returns the model in a file with a new last layer, drawn from `seed`."""
    state = torch.load(path, weights_only=True)
    model = create_model(len(state["fc.bias"]), seed)
    model.load_state_dict(state)
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model


def shuffled(num_images: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yields the images of each step, without end: epochs end to end, each shuffled."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.empty(0, dtype=torch.int64)
    while True:
        while len(row) < batch_size:
            epoch = torch.randperm(num_images, generator=generator)
            row = torch.cat([row, epoch])
        yield row[:batch_size]
        row = row[batch_size:]


def train(
    model: nn.Module, split: Split, config: Config, batches: Iterable[torch.Tensor]
) -> Trained:
    """Trains a model by the recipe of `config` on the images that `batches` names."""
    images, labels = to_tensors(split, config)
    # Kernels decay, BatchNorm and biases do not.
    kernels = [leaf for leaf in model.parameters() if leaf.ndim > 1]
    vectors = [leaf for leaf in model.parameters() if leaf.ndim == 1]
    optimizer = torch.optim.SGD(
        [
            {"params": kernels, "weight_decay": config.optim.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.optim.learning_rate,
        momentum=config.optim.momentum,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
    losses, start = [], 0.0
    model.train()
    for batch in islice(batches, config.num_steps):
        loss = functional.cross_entropy(
            model(images[batch]),
            labels[batch],
            label_smoothing=config.loss.label_smoothing,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        # The first step makes ready what the others use.
        start = start or time.perf_counter()
    seconds = time.perf_counter() - start
    return Trained(losses, config.data.batch_size * (len(losses) - 1) / seconds)


def accuracy_of(model: nn.Module, split: Split, config: Config) -> float:
    """Returns the share of a split that a model gets right."""
    images, labels = to_tensors(split, config)
    model.eval()
    with torch.no_grad():
        predictions = model(images).argmax(dim=1)
    return (predictions == labels).double().mean().item()


def to_tensors(split: Split, config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns enlarged and normalised images [n, 1, h, w], and labels [n]."""
    functional = import_torchvision().transforms.functional
    (mean,), (std,) = config.data.mean, config.data.std
    images = [
        functional.to_tensor(
            functional.resize(Image.fromarray(image[..., 0]), config.data.image_size)
        )
        for image in split.images
    ]
    return (torch.stack(images) - mean) / std, torch.from_numpy(split.labels).long()
