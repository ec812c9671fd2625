"""Which form of a convolution's three operations is the fastest where.

Every row was measured by `benchmarks/convolution.py`, on 2 cores of an AMD EPYC with
AVX-512, float32, jax 0.10.2. The first row that holds is taken. Other platforms than
CPUs have XLA's own, until a measurement there says otherwise.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from tljax.models.lowering import forms
from tljax.models.lowering.forms import Window
from tljax.models.lowering.mode import Mode


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution: shapes, window, and whether it is traced in a loop.

    Attributes:
      images: [b, h, w, cin].
      kernel: [kh, kw, cin / groups, cout].
      window: how the kernel moves.
      looped, stacked: as in `Mode`.
    """

    images: tuple[int, ...]
    kernel: tuple[int, ...]
    window: Window
    looped: bool = False
    stacked: bool = False

    @property
    def batch(self) -> int:
        """The number of images."""
        return self.images[0]

    @property
    def extent(self) -> int:
        """The shorter side of the output."""
        return min(self.window.extents(self.images))

    @property
    def is_pixel(self) -> bool:
        """Whether the kernel is one pixel and nothing is padded."""
        return self.window.size == (1, 1) and not any(map(any, self.window.padding))

    @property
    def is_grouped(self) -> bool:
        """Whether there are groups."""
        return self.window.groups > 1


class Row(NamedTuple):
    """A form, where it is taken, and what was measured there."""

    holds: Callable[[Case], bool]
    form: Callable
    why: str


def always(case: Case) -> bool:
    """Returns True."""
    return True


FORWARD = [
    Row(lambda c: c.is_grouped, forms.forward_xla, "not measured"),
    Row(lambda c: c.is_pixel, forms.forward_pixels, "1.2-2 times"),
    Row(lambda c: c.stacked, forms.forward_patches, "1.2-6 times, 5 models"),
    Row(lambda c: c.extent <= 2, forms.forward_patches, "65 times at 2x2, 512"),
    Row(always, forms.forward_xla, "the fastest or near it"),
]

DATA = [
    Row(lambda c: c.is_grouped, forms.data_xla, "not measured"),
    Row(lambda c: c.is_pixel, forms.data_pixels, "1.2-2 times"),
    Row(lambda c: c.stacked, forms.data_patches, "2-9 times, 5 models"),
    Row(lambda c: c.extent <= 7, forms.data_patches, "1.3-65 times"),
    Row(lambda c: c.window.stride > 1, forms.data_patches, "1-1.3 times"),
    Row(always, forms.data_xla, "the fastest or near it"),
]

WEIGHTS = [
    Row(lambda c: c.is_grouped, forms.weights_xla, "not measured"),
    Row(lambda c: c.is_pixel, forms.weights_pixels, "2-5 times"),
    Row(lambda c: c.looped or c.batch == 1, forms.weights_patches, "20-40 times"),
    Row(
        lambda c: c.window.stride > 1 and c.extent <= 28,
        forms.weights_patches,
        "1-4 times",
    ),
    Row(lambda c: c.batch >= 64, forms.weights_rows, "1.2-4 times"),
    Row(always, forms.weights_xla, "the fastest or near it"),
]


def choose(rows: list[Row], case: Case) -> Callable:
    """Returns the form of the first row that holds."""
    return next(row.form for row in rows if row.holds(case))


def form_of(rows: list[Row], images, kernel, window: Window, mode: Mode) -> Callable:
    """Returns the form of an operation, given the shapes of images and kernel."""
    if not mode.on_cpu:
        return rows[-1].form
    shapes = tuple(images), tuple(kernel)
    return choose(rows, Case(*shapes, window, mode.looped, mode.stacked))
