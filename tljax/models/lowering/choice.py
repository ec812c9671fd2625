"""Which form of a convolution's three operations is the fastest where.

`why` is XLA's own time, or that of the form it names, over that of the form, on 2 cores
of an AMD EPYC with AVX-512, float32; where it says Intel, of a Xeon of the fourth
generation, jax 0.10.2 and 0.12. Those of kernels of one pixel, of 2x2 maps and of
weight gradients in loops were measured on the machine alone, jax 0.10.2; the others by
`benchmarks/convolution.py` while others used it too, jax 0.10.2 and 0.12. On an EPYC
without AVX-512, which has but AVX2, the same rows were right, and more was gained;
groups, and what is for loops alone, were not measured there. The first row that holds
is taken. Other platforms than CPUs have XLA's own, until a measurement there says
otherwise.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from tljax.models.lowering import forms, grouped, library, planes, winograd
from tljax.models.lowering.forms import Window
from tljax.models.lowering.mode import Mode

# The fewest products of numbers for which oneDNN is called: for fewer, a ResNet-18 of
# width 16 on digits trains at 0.85 of the speed.
CALL_WORTH = 2**24
# How many times as large as the kernel an output is for which that is rewritten.
FOLD_WORTH = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution: shapes, window, dtype, and whether it is traced in a loop.

    Attributes:
      images: [b, h, w, cin].
      kernel: [kh, kw, cin / groups, cout].
      window: how the kernel moves.
      dtype: of images, kernel and outputs.
      looped, stacked, library: as in `Mode`.
    """

    images: tuple[int, ...]
    kernel: tuple[int, ...]
    window: Window
    dtype: jnp.dtype = jnp.float32
    looped: bool = False
    stacked: bool = False
    library: bool = False

    @property
    def batch(self) -> int:
        """The number of images."""
        return self.images[0]

    @property
    def extent(self) -> int:
        """The shorter side of the output."""
        return min(self.window.extents(self.images))

    @property
    def pixels(self) -> int:
        """The number of pixels of all outputs."""
        height, width = self.window.extents(self.images)
        return self.batch * height * width

    @property
    def is_pixel(self) -> bool:
        """Whether the kernel is one pixel and nothing is padded."""
        return self.window.is_pixel

    @property
    def has_tiles(self) -> bool:
        """Whether tiles of 2x2 pixels of output can be had, and are enough."""
        enough = self.pixels >= (128 if self.extent >= 7 else 512)
        return winograd.fits(self.window) and enough

    @property
    def has_large_tiles(self) -> bool:
        """Whether tiles of 4x4 can be had without filling up, and are enough."""
        enough = self.pixels >= (512 if self.extent >= 7 else 2048)
        whole = not any(extent % 4 for extent in self.window.extents(self.images))
        return winograd.fits(self.window) and whole and enough

    def has_fast_products(self, most: int) -> bool:
        """Whether it is in bfloat16 where that is fast, with channels enough for it.

        And of an extent of at most `most` at stride 1, of 28 at another: as measured.
        """
        small = self.extent <= (28 if self.window.stride > 1 else most)
        return small and self.channels >= 32 and forms.is_fast_half(self.dtype)

    @property
    def channels(self) -> int:
        """The fewer of those of images and of outputs."""
        return min(self.kernel[2:])

    @property
    def has_few_channels(self) -> bool:
        """Whether channels are as few as those of an image."""
        return self.kernel[2] <= planes.FEW_CHANNELS

    @property
    def has_planes(self) -> bool:
        """Whether pixels are many, and channels so few, or skipped, to make patches."""
        patches = self.has_few_channels or self.window.stride > 1
        return patches and self.pixels > 4096 and self.extent <= 256

    @property
    def in_library(self) -> bool:
        """Whether oneDNN may be called for it, and it is worth a call."""
        sums = self.pixels * math.prod(self.kernel)
        may = self.library and not self.stacked and sums >= CALL_WORTH
        return may and library.fits(self.window, self.images, self.dtype)

    @property
    def has_library(self) -> bool:
        """Whether oneDNN convolves faster: pixels, or extents that are not small.

        In float32, tiles of 4x4 are faster up to 8x8, where they can be had.
        """
        tiled = self.has_large_tiles and self.dtype != jnp.bfloat16
        least = 14 if tiled else 7
        return self.in_library and (self.is_pixel or self.extent >= least)

    @property
    def has_library_weights(self) -> bool:
        """Whether oneDNN multiplies faster: not those of 3x3 kernels in float32."""
        other = self.is_pixel or self.has_few_channels or self.window.stride > 1
        return self.in_library and (other or self.dtype == jnp.bfloat16)

    @property
    def is_folded(self) -> bool:
        """Whether oneDNN computes BatchNorm by fixed statistics with the convolution.

        A ResNet-50 infers 1.12 to 1.16 times as fast, in bfloat16 1.23 to 1.3 times; at
        0.97 of that where all kernels are rewritten (224 px, batch 8, Intel).
        """
        outputs = self.pixels * self.kernel[-1]
        return self.in_library and FOLD_WORTH * math.prod(self.kernel) <= outputs

    @property
    def is_centred(self) -> bool:
        """Whether oneDNN subtracts the mean, which is found of the smaller inputs.

        A ResNet-50 trains 1.03 times as fast (224 px, batch 8, Intel).
        """
        return self.in_library and self.is_pixel and self.kernel[2] < self.kernel[3]

    @property
    def is_grouped(self) -> bool:
        """Whether there are groups."""
        return self.window.groups > 1

    @property
    def pack(self) -> "Case":
        """That of some groups at a time, in a loop: see `grouped`."""
        channels, features = self.images[-1], self.kernel[-1]
        count = grouped.count_of(channels, features, self.window.groups)
        return dataclasses.replace(
            self,
            images=(*self.images[:-1], channels // count),
            kernel=(*self.kernel[:-2], channels // count, features // count),
            window=self.window._replace(groups=1),
            looped=True,
        )


class Row(NamedTuple):
    """A form, where it is taken, and how many times as fast as XLA's own it was."""

    holds: Callable[[Case], bool]
    form: Callable
    why: str


def always(case: Case) -> bool:
    """Returns True."""
    return True


FORWARD = [
    Row(lambda c: c.is_grouped, grouped.forward_packed, "1.0-4.3 in ResNeXt-50"),
    Row(
        lambda c: c.has_library,
        library.forward_library,
        "1.1-3 times as fast as the rows below, 2-10 in bfloat16; Intel",
    ),
    Row(lambda c: c.is_pixel, forms.forward_pixels, "1.2-2"),
    Row(lambda c: c.stacked, forms.forward_patches, "1.2-6, 5 models"),
    Row(
        lambda c: c.has_fast_products(most=14),
        forms.forward_patches,
        "0.9-15, 1.0-3 times as fast as by Winograd; bfloat16, Intel",
    ),
    Row(
        lambda c: c.has_large_tiles and c.channels >= 64,
        winograd.forward_winograd4,
        "1.0-2.8, 0.9-1.4 times as fast as by 2x2; 0.8-1.5 with 32 channels",
    ),
    Row(
        lambda c: c.has_tiles and c.channels >= 64,
        winograd.forward_winograd2,
        "1.1-2.1; 0.8 with 32 channels",
    ),
    Row(lambda c: c.extent <= 2, forms.forward_patches, "65 at 2x2, 512 channels"),
    Row(
        lambda c: c.extent <= 7 and c.pixels <= 512,
        forms.forward_patches,
        "1.2-1.3 at 7x7, 1.0-1.7 at 4x4; 0.8 at 4x4, batch 128",
    ),
    Row(always, forms.forward_xla, "patches: 0.4-0.9"),
]

DATA = [
    Row(lambda c: c.is_grouped, grouped.data_packed, "1.5-4.9 in ResNeXt-50"),
    Row(
        lambda c: c.has_library,
        library.data_library,
        "1.0-2.4 times as fast as the rows below, 2-8 in bfloat16; Intel",
    ),
    Row(lambda c: c.is_pixel, forms.data_pixels, "1.2-2"),
    Row(lambda c: c.stacked, forms.data_patches, "2-9, 5 models"),
    Row(
        lambda c: c.has_fast_products(most=7),
        forms.data_patches,
        "1.2-80, 1.2-3 times as fast as by Winograd; bfloat16, Intel",
    ),
    Row(
        lambda c: c.has_large_tiles and c.channels >= 64,
        winograd.data_winograd4,
        "1.0-2.8, 0.9-1.4 times as fast as by 2x2; 0.8-1.5 with 32 channels",
    ),
    Row(
        lambda c: c.has_tiles and c.channels >= 64,
        winograd.data_winograd2,
        "1.1-2.1; 0.8 with 32 channels",
    ),
    Row(
        lambda c: c.looped and c.has_large_tiles and c.channels >= 32,
        winograd.data_winograd4,
        "20-60 in a loop, 1.3-1.8 times as fast as turned with 32 channels",
    ),
    Row(
        lambda c: c.looped and c.window.stride == 1 and c.extent > 8,
        forms.data_turned,
        "10-38 in a loop, 1.1-3.3 times as fast as patches; 0.9 in a network at 8x8",
    ),
    Row(lambda c: c.looped, forms.data_patches, "13-16 in a loop, 8x8, 16 channels"),
    Row(lambda c: c.extent <= 7, forms.data_patches, "1.2-20"),
    Row(
        lambda c: c.window.stride > 1 and c.extent <= 16,
        forms.data_patches,
        "1.0-1.6; 0.7-0.9 at 28x28",
    ),
    Row(always, forms.data_xla, "patches: 0.5-1.3"),
]

WEIGHTS = [
    Row(lambda c: c.is_grouped, grouped.weights_packed, "200-560, batches of 1 and 2"),
    Row(
        lambda c: c.has_library_weights,
        library.weights_library,
        "1.0-2 times as fast as the rows below, 1-10 in bfloat16; Intel",
    ),
    Row(lambda c: c.is_pixel, forms.weights_pixels, "2-5"),
    Row(
        lambda c: c.has_large_tiles and c.channels >= 32 and not c.stacked,
        winograd.weights_winograd4,
        "1.0-1.2 times as fast as crossed with 32 channels, 1.2-2.7 with more",
    ),
    Row(
        lambda c: c.has_tiles and c.channels >= 128 and not c.stacked,
        winograd.weights_winograd2,
        "1.2-1.6 times as fast as crossed; 0.9-1 with 64 channels",
    ),
    Row(
        lambda c: c.has_planes and not c.stacked,
        planes.weights_planes,
        "1.4-1.9 times as fast as patches in 7x7 stems, 1.1-1.7 in 3x3 at stride 2, "
        "0.9-1.2 of 3 channels at stride 1; in loops too; Intel",
    ),
    Row(
        lambda c: c.window.stride == 1 and c.has_few_channels,
        forms.weights_patches,
        "1.4-2.4 times as fast as crossed, in loops too; Intel",
    ),
    Row(
        lambda c: c.window.stride == 1,
        forms.weights_crossed,
        "0.9-1.5, 1.4-2.9 at batch 128; 20-40 in a loop",
    ),
    Row(
        lambda c: c.looped or c.extent <= 256,
        forms.weights_patches,
        "1.0-1.8, 4 at batch 128, 20-40 in a loop; 5-8 of a 7x7 stem with AVX2",
    ),
    Row(always, forms.weights_xla, "not measured"),
]


def case_of(images, kernel, window: Window, dtype: jnp.dtype, mode: Mode) -> Case:
    """Returns the case of shapes and dtype of images and kernel."""
    how = mode.looped, mode.stacked, mode.library and not mode.plain
    return Case(tuple(images), tuple(kernel), window, dtype, *how)


def choose(rows: list[Row], case: Case) -> Callable:
    """Returns the form of the first row that holds."""
    return bound(next(row.form for row in rows if row.holds(case)), rows, case)


def bound(form: Callable, rows: list[Row], case: Case) -> Callable:
    """Returns a form, one of packs with the form in which it takes a pack."""
    if form in grouped.OPERATIONS:
        return grouped.Packed(form, choose(rows, case.pack))
    return form


def forms_of(rows: list[Row], case: Case) -> list[Callable]:
    """Returns all forms in a table that can compute a case."""
    found = dict.fromkeys(row.form for row in rows)
    return [bound(form, rows, case) for form in found if fits(form, case)]


def fits(form: Callable, case: Case) -> bool:
    """Returns whether a form can compute a case."""
    if form.__name__.endswith("_pixels"):
        return case.is_pixel and not case.is_grouped
    if "_winograd" in form.__name__:
        return winograd.fits(case.window)
    if form in grouped.OPERATIONS:
        return case.is_grouped
    if form.__name__.endswith("_library"):
        return library.fits(case.window, case.images, case.dtype)
    if form.__name__.endswith(("_crossed", "_turned")):
        return case.window.stride == 1 and not case.is_grouped
    return form.__name__.endswith("_xla") or not case.is_grouped


def form_of(
    rows: list[Row], images, kernel, window: Window, dtype: jnp.dtype, mode: Mode
) -> Callable:
    """Returns the form of an operation, given shapes and dtype of images and kernel."""
    if not mode.on_cpu:
        return rows[-1].form  # XLA's own, in each table.
    return choose(rows, case_of(images, kernel, window, dtype, mode))
