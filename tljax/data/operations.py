"""The operations on training images that a config lists, with their settings."""

import dataclasses
import typing

from tljax.errors import ConfigError
from tljax.settings import setting

PLACE = "config.data.augment"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RandomResizedCrop:
    """Cuts a box of random area and shape and resizes it to the size of the images."""

    scale: tuple[float, float] = setting(
        (0.08, 1.0), "share of the image's area, from and to", above=0.0, high=1.0
    )
    ratio: tuple[float, float] = setting(
        (3 / 4, 4 / 3), "width / height of the box, from and to", above=0.0
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RandomCrop:
    """Pads the image on all sides and cuts its old size from a random place."""

    padding: int = setting(4, "pixels added on each side", low=0)
    mode: str = setting(
        "constant",
        "what is added: black, or the mirrored image",
        choices=("constant", "reflect"),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HorizontalFlip:
    """Swaps left and right."""

    p: float = setting(0.5, "probability for each image", low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerticalFlip:
    """Swaps top and bottom."""

    p: float = setting(0.5, "probability for each image", low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Turns the image about its centre, anticlockwise for positive angles."""

    degrees: tuple[float, float] = setting(
        (-10.0, 10.0), "angle, from and to", low=-360.0, high=360.0
    )
    interpolation: str = setting(
        "nearest", "between pixels", choices=("nearest", "bilinear")
    )
    fill: float = setting(0.0, "grey level where the image ends", low=0.0, high=255.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ColorJitter:
    """Changes brightness, contrast, saturation and hue in random order."""

    brightness: float = setting(
        0.0, "factor within 1 - this and 1 + this, never below 0", low=0.0
    )
    contrast: float = setting(
        0.0, "factor within 1 - this and 1 + this, never below 0", low=0.0
    )
    saturation: float = setting(
        0.0, "factor within 1 - this and 1 + this, never below 0", low=0.0
    )
    hue: float = setting(
        0.0, "share of the colour circle, to either side", low=0.0, high=0.5
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grayscale:
    """Takes the colours away and keeps three channels."""

    p: float = setting(0.1, "probability for each image", low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GaussianBlur:
    """Blurs with a Gaussian of random width (SimCLR's kernel is a tenth of a side)."""

    kernel_size: int = setting(23, "pixels of a side of the kernel, odd", low=1)
    sigma: tuple[float, float] = setting(
        (0.1, 2.0), "standard deviation in pixels, from and to", above=0.0
    )
    p: float = setting(0.5, "probability for each image", low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RandAugment:
    """Applies some of fourteen operations, drawn at random, all of one magnitude."""

    num_ops: int = setting(2, "operations for each image", low=0)
    magnitude: int = setting(9, "place in the bins, 0 for the weakest", low=0)
    num_bins: int = setting(31, "steps from the weakest to the strongest", low=2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrivialAugmentWide:
    """Applies one of fourteen operations, it and its magnitude drawn at random."""

    num_bins: int = setting(31, "steps from the weakest to the strongest", low=2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RandomErasing:
    """Paints a box of random area, shape and place over."""

    p: float = setting(0.5, "probability for each image", low=0.0, high=1.0)
    scale: tuple[float, float] = setting(
        (0.02, 0.33), "share of the image's area, from and to", low=0.0, high=1.0
    )
    ratio: tuple[float, float] = setting(
        (0.3, 3.3), "height / width of the box, from and to", above=0.0
    )
    value: str = setting(
        "mean",
        "the mean colour, which normalising makes 0, or a random level each pixel",
        choices=("mean", "noise"),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mixup:
    """Blends each image and its target with another of the batch."""

    alpha: float = setting(0.2, "of the shares' Beta(alpha, alpha)", above=0.0)
    p: float = setting(1.0, "probability for each image", low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CutMix:
    """Pastes a box of another image of the batch, and its share of the target."""

    alpha: float = setting(1.0, "of the shares' Beta(alpha, alpha)", above=0.0)
    p: float = setting(1.0, "probability for each image", low=0.0, high=1.0)


Crop = RandomResizedCrop | RandomCrop
Mixing = Mixup | CutMix
Operation = (
    RandomResizedCrop
    | RandomCrop
    | HorizontalFlip
    | VerticalFlip
    | Rotation
    | ColorJitter
    | Grayscale
    | GaussianBlur
    | RandAugment
    | TrivialAugmentWide
    | RandomErasing
    | Mixup
    | CutMix
)


def check(operations: tuple[Operation, ...]) -> None:
    """Raises ConfigError where the list is out of order or a setting has no meaning.

    One crop at most, and first; Mixup and CutMix once at most, and last.
    """
    names = [type(operation).__name__ for operation in operations]
    for place, operation in enumerate(operations):
        if isinstance(operation, Crop) and place > 0:
            raise ConfigError(
                f"{PLACE}: {names[place]} must be the first, and the only crop"
            )
        if isinstance(operation, Mixing):
            if not all(isinstance(later, Mixing) for later in operations[place:]):
                raise ConfigError(
                    f"{PLACE}: {names[place]} must stand at the end, where only Mixup "
                    "or CutMix may follow"
                )
            if names.count(names[place]) > 1:
                raise ConfigError(f"{PLACE}: {names[place]} must stand there once")
        check_settings(operation, f"{PLACE}[{place}]: {names[place]}")


def check_settings(operation: Operation, name: str) -> None:
    """Raises ConfigError for a reversed range, an even kernel, a missing bin."""
    for field in dataclasses.fields(operation):
        value = getattr(operation, field.name)
        if typing.get_args(field.type) == (float, float) and value[0] > value[1]:
            raise ConfigError(
                f"{name}.{field.name} = {value} must begin with its lower end"
            )
    if isinstance(operation, GaussianBlur) and operation.kernel_size % 2 == 0:
        raise ConfigError(f"{name}.kernel_size = {operation.kernel_size} must be odd")
    if isinstance(operation, RandAugment) and (
        operation.magnitude >= operation.num_bins
    ):
        raise ConfigError(
            f"{name}.magnitude = {operation.magnitude} must be below num_bins = "
            f"{operation.num_bins}"
        )
