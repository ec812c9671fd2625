"""How a convolution is computed: chosen at trace time, by platform and shape."""

from tljax.models.lowering.convolution import convolve, convolve_and_add
from tljax.models.lowering.forms import Window
from tljax.models.lowering.library import unkept
from tljax.models.lowering.mode import (
    current,
    for_devices,
    inside_loop,
    plain,
    side_by_side,
)

__all__ = [
    "Window",
    "convolve",
    "convolve_and_add",
    "current",
    "for_devices",
    "inside_loop",
    "plain",
    "side_by_side",
    "unkept",
]
