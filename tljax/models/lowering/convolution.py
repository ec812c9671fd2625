"""A convolution whose three operations are each computed in the form that is fastest.

The convolution is linear in images and in the kernel, and its gradients are two
operations of the same kind: of the three, each one's gradients are the other two. So
any of them can be differentiated backward as often as wanted, in the chosen forms.
"""

import functools

import jax
import jax.numpy as jnp

from tljax.models.lowering import choice, forms, library
from tljax.models.lowering.forms import Window
from tljax.models.lowering.mode import Mode, current


def convolve(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Returns the convolution [b, oh, ow, cout] of images [b, h, w, cin].

    Both of one dtype. Backward differentiation of any order, `vmap` and sharding work.
    Forward differentiation (`jvp`, `jacfwd`, `linearize`) raises JAX's TypeError but
    within `plain()`.
    """
    mode = current.get()
    if mode.plain:
        return forms.forward_xla(images, kernel, window)
    if mode.on_cpu:
        kernel, window = trimmed(kernel, window, images.shape)
    return forward(images, kernel, window, mode)


def convolve_and_add(
    images: jax.Array,
    kernel: jax.Array,
    shift: jax.Array,
    added: jax.Array | None,
    window: Window,
    relu: bool,
) -> jax.Array:
    """Returns the convolution plus shift [cout] plus `added`, with `relu` cut at 0.

    By oneDNN, for a `choice.Case` that is in it. Derivatives as those of `convolve`.
    """
    return added_up(images, kernel, shift, added, window, relu, current.get())


def trimmed(kernel, window: Window, shape) -> tuple[jax.Array, Window]:
    """Returns kernel and window without rows and columns that meet zeros only.

    Of a 3x3 kernel, images of one pixel meet the middle alone.
    """
    sides = list(zip(shape[1:3], window.extents(shape), window.size, strict=True))
    cuts, padding = [], []
    for (extent, windows, size), (low, high) in zip(sides, window.padding, strict=True):
        meets = [
            place
            for place in range(size)
            if any(
                0 <= number * window.stride + place - low < extent
                for number in range(windows)
            )
        ]
        first, stop = min(meets, default=0), max(meets, default=0) + 1
        cuts.append(slice(first, stop))
        padding.append((low - first, high - (size - stop)))
    kernel = kernel[tuple(cuts)]
    return kernel, window._replace(size=kernel.shape[:2], padding=tuple(padding))


@functools.partial(jax.jit, static_argnums=(0, 3))
def traced_once(form, a: jax.Array, b: jax.Array, settings: tuple) -> jax.Array:
    """Returns form(a, b, *settings), traced and lowered once for layers of one shape.

    So the training step of a ResNet-50 is traced and lowered in 1.1 s in place of 2.3
    (2 cores of an AMD EPYC). A form must not depend on anything but its arguments and
    what never changes in a process.
    """
    return form(a, b, *settings)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def forward(images, kernel, window: Window, mode: Mode) -> jax.Array:
    """Returns the convolution."""
    shapes = images.shape, kernel.shape
    form = choice.form_of(choice.FORWARD, *shapes, window, images.dtype, mode)
    return traced_once(form, images, kernel, (window,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def data(outputs, kernel, window: Window, mode: Mode, shape) -> jax.Array:
    """Returns the gradient of images of `shape`, given that of the outputs."""
    shapes = shape, kernel.shape
    form = choice.form_of(choice.DATA, *shapes, window, outputs.dtype, mode)
    return traced_once(form, outputs, kernel, (window, shape))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def weights(images, outputs, window: Window, mode: Mode, shape) -> jax.Array:
    """Returns the gradient of a kernel of `shape`, given that of the outputs."""
    shapes = images.shape, shape
    form = choice.form_of(choice.WEIGHTS, *shapes, window, images.dtype, mode)
    return traced_once(form, images, outputs, (window, shape))


def saving(operation):
    """Returns `operation` that returns its arguments beside its value."""

    def run(a, b, *settings):
        return operation(a, b, *settings), (a, b)

    return run


def forward_gradients(window, mode, saved, outputs):
    """Returns the gradients of images and kernel."""
    images, kernel = saved
    return (
        data(outputs, kernel, window, mode, images.shape),
        weights(images, outputs, window, mode, kernel.shape),
    )


def data_gradients(window, mode, shape, saved, images):
    """Returns the gradients of outputs and kernel, given that of the images."""
    outputs, kernel = saved
    return (
        forward(images, kernel, window, mode),
        weights(images, outputs, window, mode, kernel.shape),
    )


def weights_gradients(window, mode, shape, saved, kernel):
    """Returns the gradients of images and outputs, given that of the kernel."""
    images, outputs = saved
    return (
        data(outputs, kernel, window, mode, images.shape),
        forward(images, kernel, window, mode),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def added_up(images, kernel, shift, added, window: Window, relu: bool, mode: Mode):
    """Returns what `convolve_and_add` returns."""
    return library.forward_added(images, kernel, shift, added, window, relu)


def added_up_saving(images, kernel, shift, added, window, relu, mode):
    """Returns what `convolve_and_add` returns, and what its gradient needs."""
    y = added_up(images, kernel, shift, added, window, relu, mode)
    return y, (images, kernel, shift, added, y if relu else None)


def added_up_gradients(window, relu, mode, saved, outputs):
    """Returns the gradients of images, kernel, shift and what was added."""
    images, kernel, shift, added, y = saved
    if relu:
        outputs = jnp.where(y > 0, outputs, jnp.zeros((), outputs.dtype))
    sums = jnp.sum(forms.widened(outputs), (0, 1, 2)).astype(shift.dtype)
    gradients = forward_gradients(window, mode, (images, kernel), outputs)
    return *gradients, sums, None if added is None else outputs.astype(added.dtype)


added_up.defvjp(added_up_saving, added_up_gradients)
forward.defvjp(saving(forward), forward_gradients)
data.defvjp(saving(data), data_gradients)
weights.defvjp(saving(weights), weights_gradients)
