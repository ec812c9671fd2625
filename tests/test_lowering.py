"""Convolutions in every form are XLA's, as are their gradients of any order."""

import contextlib
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tljax import parallel
from tljax.models import lowering
from tljax.models.lowering import (
    choice,
    forms,
    library,
    mode,
    parts,
    processor,
    winograd,
)
from tljax.models.lowering.convolution import trimmed
from tljax.models.lowering.forms import Window

# Extent, channels in, out, kernel, stride, padding, groups, and uneven sides.
WINDOWS = {
    "pixel": ((3, 5, 4), (1, 1, 4, 6), Window((1, 1), 1, ((0, 0), (0, 0)))),
    "pixel/2": ((5, 4, 4), (1, 1, 4, 6), Window((1, 1), 2, ((0, 0), (0, 0)))),
    "3": ((4, 5, 3), (3, 3, 3, 2), Window((3, 3), 1, ((1, 1), (1, 1)))),
    "3 askew": ((6, 5, 3), (3, 3, 3, 2), Window((3, 3), 1, ((0, 2), (3, 0)))),
    "3/2": ((5, 6, 3), (3, 3, 3, 2), Window((3, 3), 2, ((1, 1), (1, 1)))),
    "tiny": ((1, 2, 3), (3, 3, 3, 4), Window((3, 3), 1, ((1, 1), (1, 1)))),
    "7/2": ((9, 8, 2), (7, 7, 2, 3), Window((7, 7), 2, ((3, 3), (3, 3)))),
    "4/2": ((6, 8, 2), (4, 4, 2, 3), Window((4, 4), 2, ((1, 1), (1, 1)))),
    "uneven": ((6, 7, 2), (3, 2, 2, 3), Window((3, 2), 3, ((0, 2), (1, 0)))),
    "even": ((6, 7, 2), (4, 2, 2, 3), Window((4, 2), 1, ((0, 2), (1, 0)))),
    "groups": ((4, 4, 6), (3, 3, 2, 9), Window((3, 3), 1, ((1, 1), (1, 1)), 3)),
    "packs": ((4, 3, 32), (3, 3, 8, 32), Window((3, 3), 1, ((1, 1), (1, 1)), 4)),
    "groups/2": ((5, 4, 6), (3, 3, 2, 9), Window((3, 3), 2, ((1, 1), (1, 1)), 3)),
}

# And whether the CPU is taken for one that multiplies bfloat16 by itself.
WAYS = [
    *itertools.product(WINDOWS, ["float64", "float32", "bfloat16"], [False]),
    *[(name, "bfloat16", True) for name in ("pixel", "pixel/2", "3", "3/2")],
]


def draw(name, dtype=np.float32, batch=2):
    """Returns images, kernel and the gradient of outputs, of small whole numbers."""
    shape, kernel, window = WINDOWS[name]
    rng = np.random.default_rng(0)
    images = (batch, *shape)
    outputs = (batch, *window.extents(images), kernel[-1])
    return [rng.normal(size=size).astype(dtype) for size in (images, kernel, outputs)]


def applying(rows, name, dtype):
    """Returns the forms in a table that fit a window, but for XLA's."""
    _, kernel, window = WINDOWS[name]
    case = choice.Case((2, *WINDOWS[name][0]), kernel, window, jnp.dtype(dtype))
    return {
        form.__name__: form
        for form in choice.forms_of(rows, case)
        if not form.__name__.endswith("_xla")
    }


@pytest.mark.parametrize("name, dtype, fast", WAYS)
def test_every_form_is_xlas_to_rounding(name, dtype, fast, monkeypatch):
    """XLA's in float64 is the measure; a form's float32 is as near as its own is."""
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: fast)
    window = WINDOWS[name][2]
    shapes = [part.shape for part in draw(name)]
    unkept = lowering.unkept() if library.is_there() else contextlib.nullcontext()
    with jax.enable_x64(True), unkept:
        given = [jnp.asarray(part, dtype) for part in draw(name)]

        @jax.jit
        def compute(images, kernel, outputs):
            forward, data, weights = (
                applying(rows, name, dtype)
                for rows in (choice.FORWARD, choice.DATA, choice.WEIGHTS)
            )
            found = {n: form(images, kernel, window) for n, form in forward.items()}
            for n, form in data.items():
                found[n] = form(outputs, kernel, window, shapes[0])
            for n, form in weights.items():
                found[n] = form(images, outputs, window, shapes[1])
            images, kernel, outputs = (
                part.astype(jnp.float64) for part in (images, kernel, outputs)
            )
            expected = {
                "forward": forms.forward_xla(images, kernel, window),
                "data": forms.data_xla(outputs, kernel, window, shapes[0]),
                "weights": forms.weights_xla(images, outputs, window, shapes[1]),
            }
            return found, expected

        found, expected = jax.device_get(compute(*given))
    tolerance = {"float64": 1e-13, "float32": 2e-6, "bfloat16": 2e-2}[dtype]
    assert found
    for form, values in found.items():
        exact = expected[form.split("_")[0]]
        assert values.dtype == jnp.dtype(dtype) and values.shape == exact.shape
        scale = np.abs(exact).max()
        np.testing.assert_allclose(
            values.astype(np.float64), exact, rtol=0, atol=tolerance * scale
        )


def net(images, kernels):
    """Returns a number: a 3x3, a 1x1 at stride 2, a 3x3 at a tiny extent."""
    windows = [WINDOWS[name][2] for name in ("3", "pixel/2", "3")]
    for kernel, window in zip(kernels, windows, strict=True):
        images = jnp.sin(lowering.convolve(images, kernel, window))
    return jnp.sum(images**2)


@pytest.fixture(scope="module")
def arguments():
    rng = np.random.default_rng(0)
    kernels = [(3, 3, 2, 3), (1, 1, 3, 4), (3, 3, 4, 2)]
    images, *kernels = (
        jnp.asarray(rng.normal(size=shape).astype(np.float32))
        for shape in [(3, 4, 4, 2), *kernels]
    )
    return images, kernels


def per_example(images, kernels):
    grad = jax.grad(lambda kernels, image: net(image[None], kernels))
    return jax.vmap(grad, (None, 0))(kernels, images)


def penalty(images, kernels):
    """Returns the squared norm of all gradients; R1 has that of the images."""
    grads = jax.grad(net, (0, 1))(images, kernels)
    return sum(jnp.sum(grad**2) for grad in jax.tree.leaves(grads))


DERIVATIVES = {
    "gradients": jax.grad(net, (0, 1)),
    "per_example": per_example,
    "of_a_penalty": jax.grad(penalty, (0, 1)),
}


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_are_xlas(name, looped, arguments):
    def compute(*arguments):
        with mode.changed(looped=looped):
            ours = DERIVATIVES[name](*arguments)
        with lowering.plain():
            return ours, DERIVATIVES[name](*arguments)

    # Of second order, float32 keeps few digits in any form.
    with jax.enable_x64(True):
        arguments = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), arguments)
        ours, plain = jax.jit(compute)(*arguments)
    for found, expected in zip(*map(jax.tree.leaves, (ours, plain)), strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * scale)


def test_forward_derivatives_need_xlas_own(arguments):
    images, kernels = arguments

    def slope_of():
        return jax.jit(
            lambda images: jax.jvp(lambda x: net(x, kernels), (images,), (images,))[1]
        )(images)

    with pytest.raises(TypeError, match="custom_vjp"):
        slope_of()
    with lowering.plain():
        slope = slope_of()
    expected = jnp.vdot(jax.jit(jax.grad(net))(images, kernels), images)
    np.testing.assert_allclose(slope, expected, rtol=1e-4)


def convolutions(function, *arguments):
    """Returns how many of XLA's convolutions a program has."""
    # A new function each time: JAX keeps the program of one that it has traced.
    program = jax.make_jaxpr(lambda *arguments: function(*arguments))(*arguments)
    return str(program).count("conv_general_dilated[")


def large():
    """Returns a convolution whose gradients are XLA's own on CPU, and its arguments.

    At stride 2 and an extent of 30.
    """
    window = WINDOWS["3/2"][2]

    def run(images, kernel):
        return jnp.sum(jnp.sin(lowering.convolve(images, kernel, window)))

    return run, (jnp.zeros((2, 60, 60, 2)), jnp.zeros((3, 3, 2, 3)))


def test_a_loop_has_no_gradient_of_xlas():
    """They are many times slower there on CPU. Another platform keeps XLA's own."""
    run, arguments = large()
    gradient = jax.grad(run, 1)
    assert convolutions(gradient, *arguments) == 2
    with lowering.inside_loop():
        assert convolutions(gradient, *arguments) == 1
    with lowering.for_devices("gpu", 1):
        # The gradient of the images is left to the compiler to leave out.
        assert convolutions(gradient, *arguments) == 3
        assert convolutions(jax.vmap(gradient, (0, None)), arguments[0][:, None],
                            arguments[1]) == 3  # fmt: skip


@pytest.mark.parametrize("looped", [False, True])
def test_no_convolution_has_groups(looped):
    """The gradient of XLA's kernel takes seconds on CPU, in a loop or not."""
    window = WINDOWS["packs"][2]
    images, kernel = np.ones((2, 12, 12, 32)), np.ones((3, 3, 8, 32))

    def gradients(images, kernel):
        return jax.grad(lambda *both: jnp.sum(jnp.sin(
            lowering.convolve(*both, window))), (0, 1))(images, kernel)  # fmt: skip

    with mode.changed(looped=looped):
        program = str(jax.make_jaxpr(gradients)(images, kernel))
    assert "feature_group_count=1" in program
    assert "feature_group_count=4" not in program
    with lowering.for_devices("gpu", 1):
        program = str(jax.make_jaxpr(lambda *both: gradients(*both))(images, kernel))
    assert program.count("feature_group_count=4") > 1


def test_the_mode_is_that_of_the_place_of_the_convolution():
    """A gradient is computed after the context has been left."""
    run, (images, kernel) = large()

    def backward():
        return jax.vjp(lambda kernel: run(images, kernel), kernel)[1]

    with lowering.inside_loop():
        looped = backward()
    assert convolutions(looped, 1.0) == 0
    assert convolutions(backward(), 1.0) == 1


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("looped", [False, True])
def test_a_divided_batch_stays_divided(looped, groups):
    """No device is sent the images of another, and the numbers are those of one."""
    mesh = parallel.create_mesh("cpu", 4)
    over = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    rng = np.random.default_rng(0)
    kernels = [(3, 3, 2, 3), (1, 1, 3, 4), (3, 3, 4, 32), (3, 3, 32 // groups, 32)]
    kernels = [rng.normal(size=shape).astype(np.float32) for shape in kernels]
    images = rng.normal(size=(128, 8, 8, 2)).astype(np.float32)
    window = WINDOWS["3"][2]._replace(groups=groups)

    def loss(images, kernels):
        for kernel in kernels[:-1]:
            windows = WINDOWS["3" if kernel.shape[0] == 3 else "pixel/2"][2]
            images = jnp.sin(lowering.convolve(images, kernel, windows))
        return jnp.sum(lowering.convolve(images, kernels[-1], window) ** 2)

    def gradients(images, kernels):
        with mode.changed(looped=looped):
            return jax.grad(loss, (0, 1))(images, kernels)

    divided = jax.jit(
        gradients, in_shardings=(over, whole), out_shardings=(over, whole)
    )
    compiled = divided.lower(images, kernels).compile()
    program = compiled.as_text()
    assert "all-reduce" in program
    assert "all-gather" not in program and "all-to-all" not in program
    found = compiled(images, kernels)
    expected = jax.jit(gradients)(images, kernels)
    for ours, one in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(ours, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("extents", [(1, 1), (2, 1), (1, 4)])
def test_what_meets_padding_alone_is_left_out(extents, stride):
    """A 5x5 kernel over images smaller than its reach."""
    rng = np.random.default_rng(0)
    window = Window((5, 5), stride, ((2, 2), (2, 2)))
    images, kernel = (
        jnp.asarray(rng.normal(size=size).astype(np.float32))
        for size in [(2, *extents, 3), (5, 5, 3, 4)]
    )
    cut, smaller = trimmed(kernel, window, images.shape)
    assert cut.shape[0] < 5
    assert smaller.extents(images.shape) == window.extents(images.shape)

    def gradients(images, kernel):
        def run(images, kernel):
            return jnp.sum(jnp.sin(lowering.convolve(images, kernel, window)))

        return jax.jit(jax.value_and_grad(run, (0, 1)))(images, kernel)

    found = gradients(images, kernel)
    with lowering.plain():
        expected = gradients(images, kernel)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize("extent", [8, 7])
def test_winograd_loses_no_digits_with_many_channels(extent):
    """By 4x4 and by 2x2 pixels: 128 channels, as a network has them, beside float64."""
    rng = np.random.default_rng(0)
    window = WINDOWS["3"][2]
    shapes = (8, extent, extent, 128), (3, 3, 128, 128), (8, extent, extent, 128)
    images, kernel, outputs = (rng.normal(size=shape) for shape in shapes)

    def gradients(images, kernel, outputs):
        run = functools.partial(lowering.convolve, window=window)
        found, backward = jax.vjp(run, images, kernel)
        return found, *backward(outputs)

    single = [each.astype(np.float32) for each in (images, kernel, outputs)]
    program = jax.make_jaxpr(gradients)(*single)
    assert "conv_general_dilated[" not in str(program)
    found = jax.jit(gradients)(*single)
    with jax.enable_x64(True), lowering.plain():
        expected = jax.jit(lambda *each: gradients(*each))(images, kernel, outputs)
    for ours, exact in zip(found, map(np.asarray, expected), strict=True):
        assert np.std(np.asarray(ours) - exact) < 3e-6 * np.std(exact)


PARTED = {
    "by 2x2": ("3", winograd.forward_winograd2, winograd.weights_winograd2),
    "by 4x4": ("3", winograd.forward_winograd4, winograd.weights_winograd4),
    "patches": ("3/2", forms.forward_patches, forms.weights_patches),
}


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("form", PARTED)
def test_batches_in_parts_on_many_devices(form, size, monkeypatch):
    """Of 8 images, one, two or all at a time; `vmap` on top is that of XLA's own."""
    monkeypatch.setattr(parts, "size_of", lambda batch, *values: size)
    name, forward, weights = PARTED[form]
    images, kernel, outputs = draw(name, batch=8)
    window = WINDOWS[name][2]
    mesh = parallel.create_mesh("", 4)
    divided = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5)

    forward = functools.partial(forward, window=window)
    expected = forms.forward_xla(images, kernel, window)
    close(jax.jit(forward)(divided, kernel), expected)
    both = jax.vmap(forward, (None, 0))(images, np.stack([kernel, 2 * kernel]))
    close(both, np.stack([expected, 2 * expected]))

    weights = functools.partial(weights, window=window, shape=kernel.shape)
    expected = forms.weights_xla(images, outputs, window, kernel.shape)
    close(jax.jit(weights)(divided, outputs), expected)
    close(jax.vmap(weights)(images[None], outputs[None])[0], expected)


def test_a_part_is_a_divisor_of_the_batch():
    """And all of it where it has no more than twice the values of a part."""
    cases = [(8, 10), (10, 20), (12, 20), (13, 20), (4, 999)]
    found = {(b, n): parts.size_of(b, n, 100) for b, n in cases}
    assert found == {(8, 10): 8, (10, 20): 10, (12, 20): 4, (13, 20): 1, (4, 999): 1}


def test_layers_of_one_shape_are_traced_once(monkeypatch):
    """Forward, and for the gradients of images and of kernel."""
    traced = []

    def noted(form):
        return lambda *args: (traced.append(form.__name__), form(*args))[1]

    for name in ("FORWARD", "DATA", "WEIGHTS"):
        rows = [row._replace(form=noted(row.form)) for row in getattr(choice, name)]
        monkeypatch.setattr(choice, name, rows)
    images, kernel = np.ones((2, 5, 5, 4)), np.ones((3, 3, 4, 4))
    window = Window((3, 3), 1, ((1, 1), (1, 1)))

    def loss(images, kernels):
        for each in kernels:
            images = lowering.convolve(images, each, window)
        return jnp.sum(images)

    jax.jit(jax.grad(loss, (0, 1))).lower(images, [kernel] * 3)
    assert len(traced) == 3
