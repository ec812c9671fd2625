"""Photographs of any shape as arrays of one shape, for batches and for the compiler."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from tljax.data import decode, transforms
from tljax.data.decode import BadImage

# A panorama longer than that, times its shorter side, is cut at both ends: it would
# make the arrays of all images as long.
MAX_ASPECT = 2


class Canvas(NamedTuple):
    """The array that every image of a split is drawn on: uint8 [short, long, channels].

    An image keeps its shape: its shorter side becomes `short`, and what is left of the
    longer side is black. One that is higher than wide lies on its side, so that both
    kinds need the same memory; its extent (height, width) tells.
    """

    short: int
    long: int
    channels: int

    @property
    def bytes(self) -> int:
        """The size of an image."""
        return self.short * self.long * self.channels


class Drawn(NamedTuple):
    """An image on its canvas, its (height, width) there, or what is wrong with it."""

    pixels: np.ndarray
    extent: tuple[int, int]
    error: str


def fit(sizes: np.ndarray, short: int, channels: int) -> Canvas:
    """Returns the smallest canvas for images of sizes [n, 2], 0 where there is none."""
    sizes = sizes[sizes.min(axis=1) > 0].astype(np.int64)
    longer = short * sizes.max(axis=1) // np.maximum(sizes.min(axis=1), 1)
    long = int(min(max(longer, default=short), MAX_ASPECT * short))
    return Canvas(short, long, channels)


def draw(image: Image.Image, canvas: Canvas) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns an image on the canvas, and its (height, width) there.

    The shorter side is resized as `transforms.prepare` resizes it, to the last bit.
    """
    image = transforms.resize_shorter_side(image, canvas.short)
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    portrait = pixels.shape[0] > pixels.shape[1]
    if portrait:
        pixels = pixels.transpose(1, 0, 2)
    cut = max(pixels.shape[1] - canvas.long, 0) // 2
    pixels = pixels[:, cut : cut + canvas.long]
    length = pixels.shape[1]
    if length < canvas.long:
        pixels = np.pad(pixels, [(0, 0), (0, canvas.long - length), (0, 0)])
    extent = (length, canvas.short) if portrait else (canvas.short, length)
    return pixels, extent


def taken_off(drawn: Drawn) -> np.ndarray:
    """Returns an image as it was drawn, [height, width, channels], upright."""
    height, width = drawn.extent
    if height > width:
        return drawn.pixels[:width, :height].transpose(1, 0, 2)
    return drawn.pixels[:height, :width]


def check_aspect(image: Image.Image, short: int, max_pixels: int) -> None:
    """Raises BadImage where an image is so thin that it could not be resized whole."""
    if short * short * max(image.size) > max_pixels * min(image.size):
        width, height = image.size
        raise BadImage(f"{width}x{height} is too thin to be resized to {short} pixels")


class Drawings(Sequence):
    """The images of a split on their canvas, each read and drawn when asked for."""

    def __init__(self, images: Sequence | np.ndarray, canvas: Canvas, max_pixels: int):
        self.images = images
        self.canvas = canvas
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> Drawn:
        """Returns an image, black and with an error where it cannot be used."""
        try:
            image = decode.decode(
                self.images[place], self.canvas.channels, self.max_pixels
            )
            check_aspect(image, self.canvas.short, self.max_pixels)
        except BadImage as error:
            return Drawn(np.zeros(self.canvas, np.uint8), (0, 0), str(error))
        return Drawn(*draw(image, self.canvas), "")


class Sizes(Sequence):
    """The (height, width) of each image, (0, 0) where its header cannot be read."""

    def __init__(self, images: Sequence, max_pixels: int):
        self.images = images
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[int, int]:
        for read in (self.images.head, self.images.__getitem__):
            try:
                return decode.read_size(read(place), self.max_pixels)
            except BadImage:
                continue
        return 0, 0
