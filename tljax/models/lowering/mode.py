"""Where a program is traced: what the choice of a lowering depends on beside shapes."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import jax


@dataclasses.dataclass(frozen=True)
class Mode:
    """What holds while a program is traced.

    Attributes:
      platform: that the program is for, "" for JAX's default.
      divided: a batch is divided between devices.
      plain: XLA's own operations everywhere, with the derivatives that JAX gives them.
      looped: the program stands in a loop, as the body of `lax.scan`.
      stacked: several models go through it at once, each with kernels of its own.
      library: oneDNN may be called; the program is then not to be kept on disk.
    """

    platform: str = ""
    divided: bool = False
    plain: bool = False
    looped: bool = False
    stacked: bool = False
    library: bool = False

    @property
    def on_cpu(self) -> bool:
        """Whether the program is for CPUs."""
        return (self.platform or jax.default_backend()) == "cpu"


current = contextvars.ContextVar("mode", default=Mode())  # noqa: B039 (it is frozen)


@contextlib.contextmanager
def changed(**changes) -> Iterator[None]:
    """Changes the mode of what is traced within.

    A function under `jit` that has been traced before is not traced again.
    """
    token = current.set(dataclasses.replace(current.get(), **changes))
    try:
        yield
    finally:
        current.reset(token)


def plain():
    """Returns a context in which all operations are XLA's own, as `jvp` needs them."""
    return changed(plain=True)


def inside_loop():
    """Returns a context for tracing the body of a loop: `lax.scan`, `lax.map`.

    On CPU, XLA's weight gradient of a convolution is 20 to 40 times slower there.
    """
    return changed(looped=True)


def side_by_side():
    """Returns a context for tracing what `vmap` makes of several models' parameters.

    XLA has one convolution with as many groups as models for them, which is slow on
    CPU; a product for each model is not.
    """
    return changed(stacked=True)


def for_devices(platform: str, number: int, library: bool = False):
    """Returns a context for tracing a program for devices: "cpu", "gpu" or "tpu".

    `library` as in `Mode`: it cannot divide what it computes between devices.
    """
    return changed(platform=platform, divided=number > 1, library=library)
