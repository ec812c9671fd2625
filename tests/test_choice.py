"""Which form of a convolution is taken where."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from tljax.models import lowering
from tljax.models.lowering import choice, forms, grouped, planes, processor, winograd
from tljax.models.lowering.forms import Window

# Of 3x3 at stride 1.
WINDOW = Window((3, 3), 1, ((1, 1), (1, 1)))


def test_the_first_row_that_holds_is_taken():
    large = choice.Case((8, 56, 56, 64), (3, 3, 64, 64), WINDOW)
    thin = choice.Case((8, 56, 56, 32), (3, 3, 32, 32), WINDOW)
    tiny = choice.Case((32, 2, 2, 512), (3, 3, 512, 512), WINDOW)
    odd = choice.Case((8, 14, 14, 256), (3, 3, 256, 256), WINDOW)
    assert choice.choose(choice.FORWARD, large) is winograd.forward_winograd4
    assert choice.choose(choice.FORWARD, odd) is winograd.forward_winograd2
    assert choice.choose(choice.FORWARD, thin) is forms.forward_xla
    assert choice.choose(choice.FORWARD, tiny) is forms.forward_patches
    assert choice.choose(choice.DATA, large) is winograd.data_winograd4
    assert choice.choose(choice.DATA, odd) is winograd.data_winograd2
    assert choice.choose(choice.DATA, thin) is forms.data_xla
    assert choice.choose(choice.WEIGHTS, thin) is winograd.weights_winograd4
    assert choice.choose(choice.WEIGHTS, odd) is winograd.weights_winograd2
    grey = choice.Case((64, 8, 8, 1), (3, 3, 1, 16), WINDOW)
    wide = choice.Case((2, 300, 300, 3), (3, 3, 3, 16), WINDOW)
    four = choice.Case((64, 8, 8, 4), (3, 3, 4, 16), WINDOW)
    assert choice.choose(choice.WEIGHTS, grey) is forms.weights_patches
    assert choice.choose(choice.WEIGHTS, wide) is forms.weights_patches
    assert choice.choose(choice.WEIGHTS, four) is forms.weights_crossed
    strided = WINDOW._replace(stride=2)
    for images, window in (
        ((2, 200, 200, 3), WINDOW),
        ((8, 56, 56, 64), strided),
    ):
        many = choice.Case(images, (3, 3, images[-1], 16), window)
        assert choice.choose(choice.WEIGHTS, many) is planes.weights_planes
        models = dataclasses.replace(many, stacked=True)
        assert choice.choose(choice.WEIGHTS, models) is forms.weights_patches
    models = dataclasses.replace(large, stacked=True)
    assert choice.choose(choice.FORWARD, models) is forms.forward_patches
    assert choice.choose(choice.WEIGHTS, models) is forms.weights_crossed


# Extent of the output, channels, stride, and the forms forward and of images' gradients
# in bfloat16 where it is fast.
HALVES = [
    (7, 512, 1, "patches", "patches"),
    (14, 256, 1, "patches", "winograd2"),
    (28, 128, 1, "winograd4", "winograd4"),
    (28, 128, 2, "patches", "patches"),
    (56, 64, 2, "xla", "xla"),
    (28, 16, 2, "xla", "xla"),
]


@pytest.mark.parametrize("extent, channels, stride, forward, data", HALVES)
def test_bfloat16_has_forms_of_its_own_where_it_is_fast(
    extent, channels, stride, forward, data, monkeypatch
):
    window = WINDOW._replace(stride=stride)
    kernel = (3, 3, channels, channels)
    shape = (8, extent * stride, extent * stride, channels)
    single = choice.Case(shape, kernel, window)
    half = dataclasses.replace(single, dtype=jnp.dtype("bfloat16"))

    def chosen(case, fast):
        monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: fast)
        tables = choice.FORWARD, choice.DATA
        return [choice.choose(table, case).__name__ for table in tables]

    assert chosen(half, True) == [f"forward_{forward}", f"data_{data}"]
    assert chosen(half, False) == chosen(single, True) == chosen(single, False)


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_summed_up_in_float32_where_it_is_fast(fast, monkeypatch):
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: fast)
    side = 5 + fast  # What has been traced for a shape is not traced again.
    shapes = (2, side, side, 32), (3, 3, 32, 48)
    given = [jnp.zeros(shape, jnp.bfloat16) for shape in shapes]

    def gradients(images, kernel):
        outputs, backward = jax.vjp(
            lambda *given: lowering.convolve(*given, WINDOW._replace(stride=2)),
            images,
            kernel,
        )
        return outputs, *backward(outputs)

    program = str(jax.make_jaxpr(gradients)(*given))
    assert program.count("preferred_element_type=float32") == (2 if fast else 0)
    assert all(each.dtype == jnp.bfloat16 for each in gradients(*given))


@pytest.mark.parametrize(
    "flags, expected", [("avx512_bf16 amx_bf16 amx_tile", True), ("avx512_bf16", False)]
)
def test_what_the_processor_can_do_is_what_linux_says(
    flags, expected, tmp_path, monkeypatch
):
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "INFO", path)
    assert not processor.multiplies_bfloat16.__wrapped__()  # There is no such file.
    path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    assert processor.multiplies_bfloat16.__wrapped__() is expected


@pytest.mark.parametrize(
    "channels, features, groups, count, form",
    [
        (128, 128, 32, 8, "forward_xla"),
        (24, 24, 6, 2, "forward_xla"),
        (8, 16, 4, 1, "forward_xla"),
        (35, 35, 5, 5, "forward_xla"),
        (256, 256, 2, 2, "forward_winograd4"),
    ],
)
def test_groups_of_a_pack(channels, features, groups, count, form):
    """As many as have 16 channels together and divide all; a pack is as without any."""
    window = Window((3, 3), 1, ((1, 1), (1, 1)), groups)
    kernel = (3, 3, channels // groups, features)
    case = choice.Case((8, 12, 12, channels), kernel, window)
    assert grouped.count_of(channels, features, groups) == count
    wide = channels // count, features // count
    assert (case.pack.images[-1], case.pack.kernel[2:]) == (wide[0], wide)
    assert choice.choose(choice.FORWARD, case).form.__name__ == form


@pytest.mark.parametrize(
    "extent, channels, stride, form",
    [
        (16, 32, 1, "data_winograd4"),
        (14, 32, 1, "data_turned"),
        (16, 16, 1, "data_turned"),
        (8, 16, 1, "data_patches"),
        (16, 16, 2, "data_patches"),
    ],
)
def test_gradients_of_images_in_a_loop(extent, channels, stride, form):
    """None is XLA's own, which is 10 to 60 times slower there."""
    window = Window((3, 3), stride, ((1, 1), (1, 1)))
    kernel = (3, 3, channels, channels)
    case = choice.Case((64, extent, extent, channels), kernel, window, looped=True)
    assert choice.choose(choice.DATA, case).__name__ == form
