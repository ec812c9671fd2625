"""The same work in plain PyTorch: torchvision's model, trained or asked.

Images lie on the device already, as normalised float32, where ours gathers and scales
uint8; its metrics are the loss alone. What PyTorch is good at is on: the fused
optimiser, cuDNN's search for algorithms, inference mode; bfloat16 is autocast.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_side import import_torchvision
from benchmarks.work import Work, transform_of
from benchmarks.workload import BATCHES, make_images

# How a model and its images lie in memory, and whether the model is compiled. There
# is no compiling without channels_last: torch.compile chooses that for convolutions.
MODES = {
    "eager": (torch.contiguous_format, False),
    "channels_last": (torch.channels_last, False),
    "compile": (torch.channels_last, True),
}


def device_of(platform: str) -> torch.device:
    """Returns torch's device for jax's platform, "cpu" or "gpu"."""
    return torch.device("cuda" if platform == "gpu" else "cpu")


def create_model(work: Work) -> nn.Module:
    """Returns torchvision's model with the stem, width and channels of `work`."""
    torch.manual_seed(0)
    model = import_torchvision().models.get_model(
        work.model, weights=None, num_classes=work.num_classes
    )
    if work.width != 64:
        narrow(model, work)
    size, stride = (3, 1) if work.stem == "small" else (7, 2)
    model.conv1 = nn.Conv2d(
        work.channels, work.width, size, stride, padding=size // 2, bias=False
    )
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if work.stem == "small":
        model.maxpool = nn.Identity()
    return model


def narrow(model: nn.Module, work: Work) -> None:
    """Gives a ResNet another width, which torchvision has no argument for."""
    blocks = [model.layer1, model.layer2, model.layer3, model.layer4]
    model.inplanes = work.width
    model.bn1 = nn.BatchNorm2d(work.width)
    for stage, old in enumerate(blocks):
        planes, stride = work.width * 2**stage, 1 if stage == 0 else 2
        layer = model._make_layer(type(old[0]), planes, len(old), stride)
        setattr(model, f"layer{stage + 1}", layer)
    model.fc = nn.Linear(model.inplanes, work.num_classes)


def on_device(work: Work, device: torch.device, layout: torch.memory_format):
    """Yields batches that lie there: images [b, c, h, w] float32, labels int64."""
    made = make_images(work)
    images = torch.from_numpy(made["image"]).to(device)
    labels = torch.from_numpy(made["label"]).long().to(device)
    images = normalized(images, work).contiguous(memory_format=layout)
    pairs = zip(images.chunk(BATCHES), labels.chunk(BATCHES), strict=True)
    return itertools.cycle(list(pairs))


def normalized(images: torch.Tensor, work: Work) -> torch.Tensor:
    """Returns uint8 images [b, h, w, c] as a network sees them, [b, c, h, w]."""
    transform = transform_of(work)
    mean, std = (
        torch.tensor(values, device=images.device)
        for values in (transform.mean, transform.std)
    )
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2)


def from_host(work: Work, device: torch.device, layout: torch.memory_format):
    """Yields batches as `on_device` has them, sent as uint8 one ahead."""
    made, rng = make_images(work), np.random.default_rng(1)

    def send():
        places = rng.integers(0, len(made["label"]), work.batch_size)
        pair = [torch.from_numpy(made[name][places]) for name in ("image", "label")]
        if device.type == "cuda":
            pair = [tensor.pin_memory() for tensor in pair]
        return [tensor.to(device, non_blocking=True) for tensor in pair]

    ahead = send()
    while True:
        (images, labels), ahead = ahead, send()
        yield (
            normalized(images, work).contiguous(memory_format=layout),
            labels.long(),
        )


SOURCES = {"device": on_device, "host": from_host}


def make_take(
    work: Work, platform: str, mode: str, batches: Iterator | None = None
) -> Callable[[int], None]:
    """Returns the function that takes so many steps and waits for them.

    `batches` are in place of those that `work` asks for.
    """
    layout, compiled = MODES[mode]
    device = device_of(platform)
    torch.backends.cudnn.benchmark = True
    if device.type == "cuda":  # TF32 in products too, which is jax's default there.
        torch.set_float32_matmul_precision("high")
    model = create_model(work).to(device).to(memory_format=layout)
    model.train(work.phase == "train")
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, fused=True)
    ready = torch.compile(model) if compiled else model
    batches = batches or SOURCES[work.input](work, device, layout)

    def cast():
        if work.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    def train() -> None:
        images, labels = next(batches)
        with cast():
            loss = functional.cross_entropy(ready(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def infer() -> None:
        images, _ = next(batches)
        with torch.inference_mode(), cast():
            ready(images)

    step = {"train": train, "infer": infer}[work.phase]

    def take(count: int) -> None:
        for _ in range(count):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return take
