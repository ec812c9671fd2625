"""Autoencoders: two halves, sizes, hidden patches, and what the way back costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tljax import models
from tljax.models import decoder, pooling, resnet, resnet_autoencoder

# One block a stage, to be compiled soon.
TINY = functools.partial(resnet.ResNet, (1, 1, 1, 1), resnet.BasicBlock)
SMALL = {
    "tied": ("tied_autoencoder", {"hidden": (6, 3)}),
    "conv": ("conv_autoencoder", {"width": 2, "latent": 3}),
    "resnet": (
        "resnet_autoencoder",
        {"width": 2, "latent": 3, "stem": "small", "make_encoder": TINY},
    ),
    "map": ("resnet_autoencoder", {"width": 2, "latent": 0, "make_encoder": TINY}),
    "masked": (
        "resnet_autoencoder",
        {"width": 2, "masked": True, "stem": "small", "make_encoder": TINY},
    ),
}


def create(kind, image_shape, **options):
    name, settings = SMALL[kind] if isinstance(kind, str) else kind
    return models.AUTOENCODERS[name](image_shape=image_shape, **settings, **options)


@functools.cache
def init(model):
    images = jnp.zeros((2, *model.image_shape))
    return jax.jit(model.init)(jax.random.key(0), images)


def apply(model, *arguments, **options):
    """Returns what `model.apply` does, compiled."""
    return jax.jit(functools.partial(model.apply, **options))(*arguments)


def draw_images(shape, number=2):
    return np.random.default_rng(0).normal(size=(number, *shape)).astype(np.float32)


def shapes(tree):
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: leaf.shape for name, leaf in flat.items()}


@pytest.mark.parametrize("size", [(8, 8), (28, 20), (97, 64)])
@pytest.mark.parametrize("kind", SMALL)
def test_images_of_any_size_come_back(kind, size):
    model = create(kind, (*size, 2))
    images = jax.ShapeDtypeStruct((3, *size, 2), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    found = jax.eval_shape(model.apply, variables, images)
    assert found.images.shape == (3, *size, 2) and found.images.dtype == jnp.float32
    if kind in ("tied", "conv", "resnet"):
        assert found.mean.shape == (3, 3) and found.log_variance is None


@pytest.mark.parametrize("kind", ["conv", "resnet"])
def test_images_too_small_are_an_error(kind):
    model = create(kind, (8, 7, 1))
    with pytest.raises(ValueError, match="8x7 pixels are too small; 8 a side or more"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 7, 1)))


@pytest.mark.parametrize("kind", ["tied", "conv", "resnet", "masked"])
def test_images_of_another_shape_are_an_error(kind):
    model = create(kind, (8, 8, 1))
    with pytest.raises(ValueError, match=r"\(9, 8, 1\) where the model is for \(8, 8"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 9, 8, 1)))


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("tied_autoencoder", {"hidden": ()}, "at least one hidden layer"),
        ("conv_autoencoder", {"latent": 0}, "latent >= 1"),
        ("resnet_autoencoder", {"latent": 0, "variational": True}, "latent >= 1"),
        ("resnet_autoencoder", {"masked": True, "variational": True}, "be masked"),
    ],
)
def test_what_cannot_be_built_is_an_error(name, options, message):
    model = create((name, options), (8, 8, 1))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


def test_tied_layers_lead_back_through_their_transposes():
    model = create(("tied_autoencoder", {"hidden": (6, 3)}), (8, 9, 1))
    variables = jax.tree.map(lambda leaf: leaf + 0.1, init(model))
    images = draw_images((8, 9, 1))
    found = model.apply(variables, images)
    layers = [variables["params"][f"encoder_{place}"] for place in range(2)]
    assert [layer["kernel"].shape for layer in layers] == [(72, 6), (6, 3)]
    (first, first_bias), (second, second_bias) = (
        (np.float64(layer["kernel"]), np.float64(layer["bias"])) for layer in layers
    )
    f = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    code = f(f(images.reshape(2, -1) @ first + first_bias) @ second + second_bias)
    expected = (f(code @ second.T) @ first.T).reshape(images.shape)
    np.testing.assert_allclose(found.mean, code, rtol=1e-5)
    np.testing.assert_allclose(found.images, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["tied", "conv"])
def test_decode_takes_what_encode_gives(kind):
    model = create(kind, (8, 8, 1))
    variables, images = init(model), draw_images((8, 8, 1))
    found = apply(model, variables, images)
    code = apply(model, variables, images, method="encode")
    np.testing.assert_allclose(code, found.mean, rtol=1e-6)
    images = apply(model, variables, code, method="decode")
    np.testing.assert_allclose(images, found.images, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["resnet", "map", "masked"])
def test_the_encoder_has_the_names_of_a_backbone(kind):
    model = create(kind, (8, 8, 1))
    images = draw_images((8, 8, 1))
    variables, alone = (
        jax.eval_shape(module.init, jax.random.key(0), images)
        for module in (model, TINY(num_classes=0, width=2, stem=model.stem))
    )
    encoder = {name: tree["encoder"] for name, tree in variables.items()}
    assert shapes(encoder) == shapes(alone)


def test_a_code_is_made_of_the_features_of_a_classifier():
    model = create("resnet", (8, 8, 1))
    variables, images = init(model), draw_images((8, 8, 1))
    encoder = {name: tree["encoder"] for name, tree in variables.items()}
    backbone = TINY(num_classes=0, width=2, stem="small")
    head = variables["params"]["code"]["mean"]
    expected = apply(backbone, encoder, images) @ head["kernel"] + head["bias"][None]
    code = apply(model, variables, images, method="encode")
    np.testing.assert_allclose(code, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["conv", "resnet"])
def test_a_code_is_drawn_in_training_and_the_mean_otherwise(kind):
    model = create(kind, (8, 8, 1), variational=True)
    variables, images = init(model), draw_images((8, 8, 1))

    @jax.jit
    def draw(seed):
        rngs = {"sample": jax.random.key(seed)}
        found, _ = model.apply(
            variables, images, train=True, rngs=rngs, mutable=["batch_stats"]
        )
        return found

    first, again, other = draw(1), draw(1), draw(2)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.mean, other.mean)
    assert not np.allclose(first.images, other.images)
    # The variance begins at that of the prior.
    np.testing.assert_array_equal(first.log_variance, np.zeros((2, 3)))
    found = apply(model, variables, images)
    expected = apply(model, variables, found.mean, method="decode")
    np.testing.assert_allclose(found.images, expected, rtol=1e-5, atol=1e-6)


def test_codes_have_the_distribution_that_was_found():
    code = decoder.Code(2, variational=True)
    mean = jnp.broadcast_to(jnp.array([[1.0, -2.0]]), (20_000, 2))
    log_variance = jnp.broadcast_to(jnp.log(jnp.array([[4.0, 0.25]])), mean.shape)
    drawn = code.apply(
        {}, mean, log_variance, method="draw", rngs={"sample": jax.random.key(0)}
    )
    np.testing.assert_allclose(drawn.mean(axis=0), [1, -2], atol=0.05)
    np.testing.assert_allclose(drawn.std(axis=0), [2, 0.5], rtol=0.03)


def visible_left(size, number=2):
    """Returns what is visible where the right half of images is hidden."""
    visible = np.ones((number, size, size, 1), np.float32)
    visible[:, :, size // 2 :] = 0
    return jnp.asarray(visible)


@pytest.mark.parametrize("train", [False, True])
def test_what_is_hidden_is_not_seen(train):
    """Neither in training nor in evaluation does an output depend on it."""
    model = create("masked", (16, 16, 1))
    variables, visible = init(model), visible_left(16)
    images = draw_images((16, 16, 1))
    others = jnp.where(visible > 0, images, images + 5)
    mutable = ["batch_stats"] if train else []
    look = jax.jit(functools.partial(model.apply, train=train, mutable=mutable))
    seen = look(variables, images, visible)
    jax.tree.map(np.testing.assert_array_equal, seen, look(variables, others, visible))
    whole, _ = look(variables, images, jnp.ones_like(visible))
    assert not np.allclose(whole.images, seen[0].images)


def test_what_is_hidden_is_0_after_every_block():
    model = create("masked", (16, 16, 1))
    _, kept = apply(
        model,
        init(model),
        draw_images((16, 16, 1)),
        visible_left(16),
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: "layer" in (module.name or ""),
    )
    maps = kept["intermediates"]["encoder"]
    assert sorted(maps) == [f"layer{stage}_0" for stage in (1, 2, 3, 4)]
    for name, found in maps.items():
        (x,) = found["__call__"]
        half = x.shape[2] // 2
        assert not np.any(x[:, :, half:]), name
        assert np.any(x[:, :, :half]), name


@pytest.mark.parametrize("size", [8, 13, 33])
def test_a_place_in_a_map_is_visible_where_any_of_its_pixels_is(size):
    drawn = np.random.default_rng(0).random((2, size, size, 1)) < 0.1
    visible = drawn.astype(np.float32)
    for times in range(4):
        side, step = -(-size // 2**times), 2**times
        found = resnet_autoencoder.shrink(
            jnp.asarray(visible), jnp.zeros((2, side, side, 5))
        )
        for row, column in np.ndindex(side, side):
            place = slice(step * row, step * (row + 1))
            there = visible[:, place, step * column : step * (column + 1)]
            np.testing.assert_array_equal(
                found[:, row, column, 0], there.max(axis=(1, 2, 3))
            )


def test_doubling_repeats_pixels():
    x = draw_images((2, 3, 4))
    expected = x.repeat(2, axis=1).repeat(2, axis=2)[:, :3, :5]
    np.testing.assert_array_equal(pooling.doubled(x)[:, :3, :5], expected)


@pytest.mark.parametrize("kind", ["conv", "resnet", "map"])
def test_the_way_back_costs_at_most_three_times_the_way_forth(kind):
    """Counted in operations, and no convolution of a kind that XLA is slow at."""
    model = create(kind, (32, 32, 3))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    code = jax.eval_shape(model.apply, variables, images).mean
    variables = {name: {"decoder": v["decoder"]} for name, v in variables.items()}

    def forward(variables, code):
        found, _ = model.apply(
            variables, code, train=True, method="decode", mutable=["batch_stats"]
        )
        return jnp.sum(jnp.square(found))

    both = jax.value_and_grad(forward, argnums=(0, 1))
    forth, total = (
        jax.jit(function).lower(variables, code).compile().cost_analysis()["flops"]
        for function in (forward, both)
    )
    assert 0 < total - forth <= 3 * forth
    jaxpr = str(jax.make_jaxpr(both)(variables, code))
    assert jaxpr.count("conv_general_dilated") >= 6
    assert jaxpr.count("lhs_dilation=(1, 1)") == jaxpr.count("lhs_dilation")
    assert "transpose=" not in jaxpr.replace("transpose=False", "")
    assert "gather" not in jaxpr and "scatter" not in jaxpr


@pytest.mark.parametrize("kind", ["tied", "conv", "resnet", "masked"])
def test_bfloat16_computes_and_float32_comes_out(kind):
    shape = (8, 8, 1)
    model = create(kind, shape, dtype=jnp.bfloat16)
    images = draw_images(shape)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    found = jax.eval_shape(model.apply, variables, images)
    assert found.images.dtype == jnp.float32
    jaxpr = str(jax.make_jaxpr(model.apply)(variables, images))
    assert "bf16" in jaxpr


def test_frozen_statistics_stay():
    model = create("resnet", (8, 8, 1))
    variables = init(model)
    names = frozenset({"encoder/layer1_0/bn1", "decoder/bn1"})
    _, updated = apply(
        model.clone(frozen_statistics=names),
        variables,
        draw_images((8, 8, 1)),
        train=True,
        mutable=["batch_stats"],
    )
    flat = traverse_util.flatten_dict(updated["batch_stats"], sep="/")
    before = traverse_util.flatten_dict(variables["batch_stats"], sep="/")
    stayed = {
        name.rpartition("/")[0]
        for name in flat
        if np.array_equal(flat[name], before[name])
    }
    assert stayed == names
