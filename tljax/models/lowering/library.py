"""The forms of oneDNN, the library of convolutions that PyTorch uses on Intel's CPUs.

XLA for CPUs has it within, but calls it for none of its own operations unless told by
an experimental option, and then for all. Here it is called for one operation at a time.
Such a program cannot be kept on disk: XLA would read what is not there.
"""

import functools
import json
import math
import os
from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from tljax.models.lowering import forms, planes
from tljax.models.lowering.forms import Window

# How a convolution is described is XLA's own affair, and may change: the last version
# of jax that was tried.
NEWEST = (0, 12)
DTYPES = (jnp.float32, jnp.bfloat16)

# XLA's names of what is done before numbers are written, and what each takes, if any.
After = Mapping[str, jax.Array | None]
NOTHING: After = MappingProxyType({})


def forward_library(
    images: jax.Array, kernel: jax.Array, window: Window, after: After = NOTHING
) -> jax.Array:
    """Returns the convolution [b, oh, ow, cout]."""
    shape = (images.shape[0], *window.extents(images.shape), kernel.shape[-1])
    if window.is_pixel:
        rows = as_rows(forms.strided(images, window.stride))
        return product(rows, kernel[0, 0], after=after).reshape(shape)
    how = window.stride, window.padding
    return convolution(images, kernel, *how, shape, after=after)


def forward_added(
    images: jax.Array,
    kernel: jax.Array,
    shift: jax.Array,
    added: jax.Array | None,
    window: Window,
    relu: bool,
) -> jax.Array:
    """Returns the convolution plus shift [cout] plus `added`, with `relu` cut at 0."""
    after = {"BIAS": shift.astype(jnp.float32)}
    if added is not None:
        after["BINARY_ADD"] = added.astype(images.dtype)
    if window.is_pixel:
        after = {name: as_rows(array) for name, array in after.items()}
    if relu:
        after["RELU"] = None
    return forward_library(images, kernel, window, after)


def data_library(
    outputs: jax.Array, kernel: jax.Array, window: Window, shape
) -> jax.Array:
    """Returns the gradient [b, h, w, cin] = `shape` of the images.

    The library's own operation for it is not among those that XLA calls. So it is a
    convolution of the outputs by the kernel turned round; with strides one for each
    phase, which are the pixels that lie a stride apart.
    """
    if window.is_pixel:
        pixels = product(as_rows(outputs), kernel[0, 0], turn_b=True)
        pixels = pixels.reshape(*outputs.shape[:3], shape[3])
        return forms.spread(pixels, window.stride, shape)
    stride = window.stride
    height, width = (-(-extent // stride) for extent in shape[1:3])
    size = (shape[0], height, width, shape[3])

    def one(row: int, column: int) -> jax.Array:
        places, padding = phase(window, shape, outputs.shape, (row, column))
        if 0 in map(len, places):
            return jnp.zeros(size, outputs.dtype)
        part = kernel[places[0].start :: stride, places[1].start :: stride]
        return convolution(outputs, part[::-1, ::-1], 1, padding, size, swapped=True)

    steps = range(stride)
    rows = [jnp.stack([one(row, n) for n in steps], axis=3) for row in steps]
    images = jnp.stack(rows, axis=2)
    images = images.reshape(shape[0], height * stride, width * stride, shape[3])
    return images[:, : shape[1], : shape[2]]


def phase(window: Window, shape, outputs, first: tuple[int, int]):
    """Returns which places of the kernel meet a phase of images, and the padding.

    The phase has every `stride`th pixel of images of `shape`, from `first` on; the
    padding is that of `outputs` [b, oh, ow, cout], which the turned places convolve.
    """
    places, padding = [], []
    for side in (0, 1):
        reach = first[side] + window.padding[side][0]
        met = range(reach % window.stride, window.size[side], window.stride)
        places.append(met)
        # The output that the first of these places meets.
        number = (reach - met.start) // window.stride
        extent = -(-shape[1 + side] // window.stride)
        padding.append((len(met) - 1 - number, extent + number - outputs[1 + side]))
    return places, tuple(padding)


def weights_library(
    images: jax.Array, outputs: jax.Array, window: Window, shape
) -> jax.Array:
    """Returns the gradient [kh, kw, cin, cout] = `shape` of the kernel.

    As patches times outputs, planes where channels are few: for XLA, the library's own
    operation is not there.
    """
    if window.is_pixel:
        images = forms.strided(images, window.stride)
        return product_of_pixels(images, outputs).reshape(shape)
    if images.shape[3] <= planes.FEW_CHANNELS:
        return planes.weights_planes(images, outputs, window, shape, product)
    return forms.weights_patches(images, outputs, window, shape, product_of_pixels)


def product_of_pixels(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns [ca, cb], the sum over all pixels of a [b, h, w, ca] and b [.., cb]."""
    return product(as_rows(a), as_rows(b), turn_a=True)


def as_rows(images: jax.Array) -> jax.Array:
    """Returns [b * h * w, c]."""
    return images.reshape(-1, images.shape[-1])


def fits(window: Window, images: tuple[int, ...], dtype: jnp.dtype) -> bool:
    """Returns whether all three operations can be computed here."""
    if window.groups > 1 or dtype not in DTYPES or not is_there():
        return False
    outputs = (images[0], *window.extents(images), 0)
    least = min(map(min, window.padding))
    for n in range(window.stride):
        for met, sides in zip(*phase(window, images, outputs, (n, n)), strict=True):
            least = min(least, *sides) if met else least
    return least >= 0


@functools.cache
def is_there() -> bool:
    """Returns whether XLA calls it, and gives what it should; TLJAX_ONEDNN=0: False."""
    version = tuple(int(part) for part in jax.__version__.split(".")[:2])
    if version > NEWEST or os.environ.get("TLJAX_ONEDNN") == "0":
        return False
    window = Window((2, 3), 2, ((1, 0), (1, 2)))
    images = np.arange(60, dtype=np.float32).reshape(1, 5, 6, 2) % 7
    kernel = np.arange(36, dtype=np.float32).reshape(2, 3, 2, 3) % 5

    def pairs(images, kernel):
        rows = images.reshape(6, 10), kernel.reshape(6, 6)
        shift, added = images[0, 0, :3, 0], rows[0].reshape(1, 3, 5, 4)[:, :, :4, :3]
        plain = forms.forward_xla(images, kernel, window)
        pixels = kernel[:1, :1], Window((1, 1), 1, ((0, 0), (0, 0)))
        shifts = shift.reshape(1, 1, 1, 3)
        return (
            (forward_library(images, kernel, window), plain),
            (
                forward_added(images, kernel, -shift, added, window, relu=True),
                jax.nn.relu(plain - shifts + added),
            ),
            (
                forward_added(images, pixels[0], -shift, None, pixels[1], relu=True),
                jax.nn.relu(forms.forward_xla(images, *pixels) - shifts),
            ),
            (product(*rows, turn_a=True), rows[0].T @ rows[1]),
        )

    try:
        with unkept():
            found = jax.jit(pairs).lower(images, kernel).compile()(images, kernel)
    except (jax.errors.JaxRuntimeError, ImportError, AttributeError):
        return False
    return all(np.array_equal(*map(np.asarray, pair)) for pair in found)


def unkept():
    """Returns a context in which this thread compiles programs that call the library.

    JAX keeps none of them on disk. Its setting for one thread is not public, and where
    it is no more, the library is not called.
    """
    from jax._src import config

    return config.persistent_cache_min_compile_time_secs(math.inf)


def product(
    a: jax.Array,
    b: jax.Array,
    *,
    turn_a: bool = False,
    turn_b: bool = False,
    after: After = NOTHING,
) -> jax.Array:
    """Returns a @ b, of matrices of which each may be turned first."""
    config = {"transpose_a": turn_a, "transpose_b": turn_b}
    shape = (a.shape[turn_a], b.shape[1 - turn_b])
    return call("matmul", "onednn_matmul_config", config, shape, a, b, after=after)


def convolution(
    images: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: tuple[tuple[int, int], tuple[int, int]],
    shape: tuple[int, ...],
    *,
    swapped: bool = False,
    after: After = NOTHING,
) -> jax.Array:
    """Returns the convolution [b, oh, ow, cout] = `shape`.

    `swapped` says that the kernel is [kh, kw, cout, cin].
    """
    data = {"data": {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}}
    places = {
        "spatial_dims": [0, 1],
        "input_feature_dim": 3 if swapped else 2,
        "output_feature_dim": 2 if swapped else 3,
        "shape": kernel.shape,
    }
    config = {
        "dims": 4,
        "feature_groups": 1,
        "input": data,
        "kernel": {"filter": places},
        "output": data,
        "window": {
            "pad_left": [low for low, _ in padding],
            "pad_right": [high for _, high in padding],
            "strides": [stride, stride],
            "window_dilations": [1, 1],
        },
    }
    kind = "onednn_conv_config"
    return call("convolution", kind, config, shape, images, kernel, after=after)


def call(
    operation: str, kind: str, config: dict, shape: tuple[int, ...], *args, after: After
) -> jax.Array:
    """Returns what an operation of the library makes of two arrays of one dtype.

    `kind` is XLA's name of what describes it, the `config`.
    """
    fusions = {"optimization_config": {}, "fusions": {"ops": list(after)}}
    run = jax.ffi.ffi_call(
        f"__onednn${operation}",
        jax.ShapeDtypeStruct(shape, args[0].dtype),
        vmap_method="sequential",
        custom_call_api_version=1,
        legacy_backend_config=json.dumps({kind: config | fusions}),
    )
    return run(*args, *(array for array in after.values() if array is not None))
