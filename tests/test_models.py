"""The ResNet family: names, shapes, numbers of parameters, initial values, dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tljax import models
from tljax.models import lowering

# Published by torchvision with each model.
NUM_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
}


def shapes(model, size=32, channels=3, batch=1):
    """Returns {"params/conv1/kernel": shape, ...} without computing anything."""
    images = jax.ShapeDtypeStruct((batch, size, size, channels), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {name: leaf.shape for name, leaf in flat.items()}


def test_every_model_has_a_row_here():
    assert set(NUM_PARAMETERS) == set(models.MODELS)


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_number_of_parameters_is_torchvisions(name):
    sizes = shapes(models.create(name))
    total = sum(
        int(np.prod(shape))
        for path, shape in sizes.items()
        if path.startswith("params/")
    )
    assert total == NUM_PARAMETERS[name]


def test_names_and_shapes_are_torchvisions():
    resnet50 = shapes(models.create("resnet50"))
    assert resnet50["params/conv1/kernel"] == (7, 7, 3, 64)
    assert resnet50["params/layer1_0/downsample_0/kernel"] == (1, 1, 64, 256)
    assert resnet50["params/layer4_2/conv2/kernel"] == (3, 3, 512, 512)
    assert resnet50["batch_stats/layer4_2/bn3/var"] == (2048,)
    assert resnet50["params/fc/kernel"] == (2048, 1000)
    resnext = shapes(models.create("resnext50_32x4d"))
    assert resnext["params/layer1_0/conv2/kernel"] == (3, 3, 4, 128)
    wide = shapes(models.create("wide_resnet50_2"))
    assert wide["params/layer1_0/conv2/kernel"] == (3, 3, 128, 128)
    # Basic blocks project only where the stage changes the shape.
    resnet18 = shapes(models.create("resnet18"))
    assert "params/layer1_0/downsample_0/kernel" not in resnet18
    assert "params/layer2_0/downsample_0/kernel" in resnet18


@pytest.mark.parametrize("size, stem_size", [(64, 16), (97, 25), (224, 56)])
def test_features_have_torchvisions_extents(size, stem_size):
    model = models.create("resnet18", num_classes=7)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    logits, features = jax.eval_shape(
        lambda v, x: model.apply(v, x, return_features=True), variables, images
    )
    extents = [stem_size]
    for _ in range(3):
        extents.append((extents[-1] + 1) // 2)
    found = {name: leaf.shape for name, leaf in features.items()}
    assert logits.shape == (2, 7)
    assert found == {
        "stem": (2, stem_size, stem_size, 64),
        "layer1": (2, extents[0], extents[0], 64),
        "layer2": (2, extents[1], extents[1], 128),
        "layer3": (2, extents[2], extents[2], 256),
        "layer4": (2, extents[3], extents[3], 512),
        "pooled": (2, 512),
    }


def test_small_stem_any_channels_any_width_and_no_head(key):
    model = models.create("resnet18", num_classes=0, width=4, stem="small")
    images = jnp.ones((2, 9, 13, 5))
    variables = jax.jit(model.init)(key, images)
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 5, 4)
    assert "fc" not in variables["params"]
    apply = jax.jit(functools.partial(model.apply, return_features=True))
    pooled, features = apply(variables, images)
    assert features["stem"].shape == (2, 9, 13, 4)
    assert pooled.shape == (2, 32)


def test_stride_two_pads_symmetrically(key):
    """XLA's SAME would see the image's first pixel in another place at stride 2."""
    model = models.create("resnet18", width=1, num_classes=2)
    variables = jax.jit(model.init)(key, jnp.zeros((1, 8, 8, 1)))
    kernel = jnp.zeros((7, 7, 1, 1)).at[3, 3].set(1.0)
    variables["params"]["conv1"]["kernel"] = kernel
    images = jnp.zeros((1, 8, 8, 1)).at[0, 0, 0, 0].set(5.0)
    apply = jax.jit(functools.partial(model.apply, return_features=True))
    _, features = apply(variables, images)
    # The centre of the kernel meets pixel (0, 0) at output (0, 0), as in PyTorch.
    assert features["stem"][0, 0, 0, 0] > 4.9


def test_initial_values_are_torchvisions(key):
    model = models.create("resnet18")
    variables = jax.jit(model.init)(key, jnp.zeros((1, 32, 32, 3)))
    params, stats = variables["params"], variables["batch_stats"]
    kernel = params["layer3_1"]["conv2"]["kernel"]
    fan_out = 3 * 3 * 256
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=0.01)
    # Normal, not truncated at two deviations.
    assert jnp.abs(kernel).max() > 3.5 * kernel.std()
    bound = 512**-0.5
    for leaf in jax.tree.leaves(params["fc"]):
        assert 0.95 * bound < jnp.abs(leaf).max() <= bound
    assert (params["bn1"]["scale"] == 1).all() and (params["bn1"]["bias"] == 0).all()
    assert (stats["bn1"]["mean"] == 0).all() and (stats["bn1"]["var"] == 1).all()


def test_statistics_move_by_a_tenth(key):
    model = models.create("resnet18", width=4, stem="small", num_classes=2)
    images = jax.random.normal(key, (8, 8, 8, 3))
    variables = jax.jit(model.init)(key, images)
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    _, updated = jax.jit(apply)(variables, images)
    convolved = jax.lax.conv_general_dilated(
        images,
        variables["params"]["conv1"]["kernel"],
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    stats = updated["batch_stats"]["bn1"]
    np.testing.assert_allclose(
        stats["mean"], 0.1 * convolved.mean((0, 1, 2)), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        stats["var"], 0.9 + 0.1 * convolved.var((0, 1, 2), ddof=1), rtol=1e-4
    )


@pytest.mark.slow
def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32(key):
    model = models.create(
        "resnet18", width=4, stem="small", num_classes=3, dtype=jnp.bfloat16
    )
    images = jnp.ones((2, 8, 8, 3))
    variables = jax.jit(model.init)(key, images)
    (logits, features), updated = model.apply(
        variables, images, train=True, return_features=True, mutable=["batch_stats"]
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {np.dtype("float32")}
    assert logits.dtype == features["pooled"].dtype == jnp.float32
    assert features["stem"].dtype == features["layer4"].dtype == jnp.bfloat16


@pytest.mark.parametrize("stem", ["standard", "small"])
def test_images_in_parts_are_images_at_once(stem, key, monkeypatch):
    """On one CPU, outside of training; features and the gradient of images as well."""
    model = models.create("resnet18", width=8, num_classes=3, stem=stem)
    images = jax.random.normal(key, (6, 32, 32, 3))
    variables = jax.jit(model.init)(key, images)

    def run(images):
        logits, features = model.apply(variables, images, return_features=True)
        return jnp.sum(jnp.sin(logits)) + jnp.sum(features["stem"]), features

    def loops():  # What has been traced is not traced again.
        return str(jax.make_jaxpr(lambda images: run(images))(images)).count(" scan[")

    def step(images):
        return jax.jit(jax.value_and_grad(lambda x: run(x), has_aux=True))(images)

    expected, count = step(images), loops()
    monkeypatch.setattr(lowering.parts, "AT_ONCE", 2 * 8 * 16**2 + 1)
    assert count == 0
    assert loops() == 1
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        step(images),
        expected,
    )
    with lowering.for_devices("cpu", 2):
        assert loops() == 0
    with lowering.for_devices("gpu", 1):
        assert loops() == 0
    _, kept = model.apply(variables, images, capture_intermediates=True)
    assert kept["intermediates"]["conv1"]["__call__"][0].shape[0] == 6


def test_unknown_name_says_the_nearest():
    with pytest.raises(ValueError, match=r"'resnet19' \(did you mean 'resnet18'\?\)"):
        models.create("resnet19")


def test_a_stem_that_does_not_exist(key):
    model = models.create("resnet18", stem="tiny")
    with pytest.raises(ValueError, match="stem 'tiny' must be"):
        jax.eval_shape(model.init, key, jnp.ones((1, 8, 8, 3)))


def test_basic_blocks_have_no_groups(key):
    model = models.create("resnet18", groups=2)
    with pytest.raises(ValueError, match="basic block"):
        jax.eval_shape(model.init, key, jnp.ones((1, 8, 8, 3)))
