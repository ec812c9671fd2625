"""How a photograph becomes what a network was trained to see."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tljax.errors import ConfigError

if TYPE_CHECKING:  # A step knows its transform where no image is ever decoded.
    from PIL.Image import Image

# Pixels of a side: the memory for one image is bounded by it.
MAX_SIZE = 10_000
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Transform(NamedTuple):
    """What belongs to the weights of a network: how its images are made.

    Attributes:
      resize: pixels of the shorter side, bilinear and antialiased; 0 = as it is.
      crop: pixels of the square cut from the centre; 0 = all of it.
      mean, std: of images in [0, 1]; one number for all channels or one each.
    """

    resize: int = 0
    crop: int = 0
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def describe(self) -> str:
        """Returns one line for people."""
        sizes = f"resize {self.resize}, crop {self.crop}, " if self.crop else ""
        mean, std = (
            ", ".join(f"{value:.4g}" for value in values)
            for values in (self.mean, self.std)
        )
        return f"{sizes}mean {mean}, std {std}"


IMAGENET = Transform(256, 224, IMAGENET_MEAN, IMAGENET_STD)


def as_json(transform: Transform) -> dict[str, Any]:
    """Returns a transform as JSON reads it back: lists for tuples."""
    mean, std = list(transform.mean), list(transform.std)
    return transform._asdict() | {"mean": mean, "std": std}


def from_json(record: dict[str, Any]) -> Transform:
    """Returns the transform that JSON holds; raises ValueError where it holds none."""
    try:
        mean, std = (tuple(map(float, record[name])) for name in ("mean", "std"))
        transform = Transform(int(record["resize"]), int(record["crop"]), mean, std)
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"no transform: {error}") from None
    if (
        not all(0 <= size <= MAX_SIZE for size in (transform.resize, transform.crop))
        or not (mean and std and all(map(math.isfinite, mean + std)))
        or min(std) <= 0
    ):
        raise ValueError(f"no transform: {transform}")
    return transform


def for_channels(transform: Transform, channels: int) -> Transform:
    """Returns the transform for images of another number of channels.

    Every channel then gets the mean of the means, and of the deviations.
    """
    if len(transform.mean) in (1, channels) and len(transform.std) in (1, channels):
        return transform
    mean, std = float(np.mean(transform.mean)), float(np.mean(transform.std))
    return transform._replace(mean=(mean,), std=(std,))


def check(transform: Transform, channels: int) -> None:
    """Raises ConfigError where mean or std do not fit images of so many channels."""
    for name in ("mean", "std"):
        values = getattr(transform, name)
        if len(values) not in (1, channels):
            raise ConfigError(
                f"config.data.{name} = {values} must hold one number, or one for each "
                f"of the {channels} channels"
            )


def prepare(image: "Image", transform: Transform) -> np.ndarray:
    """Returns a photograph as uint8 [crop, crop, 3], ready for `augment.normalize`.

    It is turned upright and made RGB as the images of a run are. The result is
    torchvision's `Resize`, `CenterCrop` of a PIL image, to the last bit: the longer
    side is cut to whole pixels, offsets are rounded half to even, and an image smaller
    than the crop is padded with black. Raises ConfigError for a transform without
    sizes.
    """
    from tljax.data import decode

    if not transform.crop:
        raise ConfigError("these weights come without the size of their images")
    image = decode.with_channels(image, 3)
    if transform.resize:
        image = resize_shorter_side(image, transform.resize)
    return center_crop(np.asarray(image), transform.crop)


def resize_shorter_side(image: "Image", size: int) -> "Image":
    """Returns the image with a shorter side of `size`, its shape kept."""
    width, height = image.size
    if width <= height:
        extents = size, int(size * height / width)
    else:
        extents = int(size * width / height), size
    if extents == image.size:
        return image
    from PIL.Image import Resampling

    return image.resize(extents, Resampling.BILINEAR)


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the middle [size, size, c] of an image [h, w, c], padded if smaller."""
    height, width = image.shape[:2]
    if height < size or width < size:
        missing = [max(size - extent, 0) for extent in (height, width)]
        # The smaller half goes in front, as torchvision's does.
        padding = [(total // 2, (total + 1) // 2) for total in missing]
        image = np.pad(image, [*padding, (0, 0)])
        height, width = image.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]
