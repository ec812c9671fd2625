"""Generators, discriminators and spectral normalisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from gans import make_config

from tljax import models
from tljax.models import spectral
from tljax.models.discriminators import Verdict
from tljax.models.gan_layers import mirrored, widths
from tljax.models.generators import Norm
from tljax.tasks import gan


def shapes(model, image_shape):
    """Returns path -> shape of the variables, and generated images and logits."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    z = jax.ShapeDtypeStruct((5, model.latent), jnp.float32)
    labels = jax.ShapeDtypeStruct((5,), jnp.int32)

    def both(variables, z, labels):
        made = model.apply(variables, z, labels, method="generate")
        return made, model.apply(variables, made, labels, method="discriminate")

    made, logits = jax.eval_shape(both, variables, z, labels)
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {name: leaf.shape for name, leaf in flat.items()}, made, logits


@pytest.mark.parametrize("size, conditional", [(8, True), (32, False)])
@pytest.mark.parametrize("name", models.GANS)
def test_every_gan_makes_and_judges_images(name, size, conditional):
    config = make_config(name, width=2, conditional=conditional)
    model = gan.create_model(config, 3, (size, size, 2))
    sizes, made, logits = shapes(model, (size, size, 2))
    assert made.shape == (5, size, size, 2) and made.dtype == jnp.float32
    assert logits.shape == (5,) and logits.dtype == jnp.float32
    assert any("classes" in path for path in sizes) == conditional


def test_the_extent_is_halved_down_to_4_px():
    expected = {8: [3, 3], 16: [3, 3, 6], 32: [3, 3, 6, 12], 128: [3, 3, 6, 12, 24, 48]}
    for size, channels in expected.items():
        assert widths((size, size, 1), 3) == channels
    assert mirrored((8, 8, 1), 3) == [24, 12]
    assert mirrored((128, 128, 1), 3) == [24, 12, 6, 3, 3, 3]


def test_extents_and_widths_are_dcgans():
    sizes, _, _ = shapes(gan.create_model(make_config(width=64), 2, (64,) * 2 + (3,)),
                         (64, 64, 3))  # fmt: skip
    generator, discriminator = "params/generator", "params/discriminator"
    assert sizes[f"{generator}/linear/kernel"] == (6, 4 * 4 * 512)
    assert sizes[f"{generator}/conv1/kernel"] == (3, 3, 512, 256)
    assert sizes[f"{generator}/conv4/kernel"] == (3, 3, 64, 64)
    assert sizes[f"{generator}/image/kernel"] == (3, 3, 64, 3)
    assert sizes[f"{discriminator}/conv1/kernel"] == (4, 4, 64, 64)
    assert sizes[f"{discriminator}/conv4/kernel"] == (4, 4, 256, 512)
    assert sizes[f"{discriminator}/head/linear/kernel"] == (4 * 4 * 512, 1)


@pytest.mark.parametrize(
    "shape, words",
    [
        ((28, 28, 1), "28x28; the nearest sizes are 16 and 32"),
        ((4, 4, 1), "4x4; the nearest sizes are 8"),
        ((224, 224, 3), "224x224; the nearest sizes are 128"),
        ((32, 16, 3), "32x16; the nearest sizes are 16 and 64"),
    ],
)
@pytest.mark.parametrize("name", ["dcgan", "sngan", "resnet_gan"])
def test_another_size_is_refused(name, shape, words):
    with pytest.raises(ValueError, match=words):
        gan.create_model(make_config(name), 3, shape)


def test_dense_layers_make_images_of_any_shape():
    model = gan.create_model(make_config("dense_gan", width=2), 3, (5, 7, 3))
    sizes, made, _ = shapes(model, (5, 7, 3))
    assert made.shape == (5, 5, 7, 3)
    assert sizes["params/generator/linear2/kernel"] == (8, 8)
    assert sizes["params/generator/image/kernel"] == (8, 5 * 7 * 3)
    assert sizes["params/discriminator/linear1/kernel"] == (5 * 7 * 3, 8)


def test_the_trunk_is_a_resnet_by_name_and_shape():
    """So that its variables are those of a network to start from."""
    image_shape = (8, 8, 1)
    model = gan.create_model(make_config("resnet_gan", width=2), 3, image_shape)
    sizes, _, _ = shapes(model, image_shape)
    resnet = models.create("resnet18", num_classes=0, width=2, stem="small")
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    expected = jax.eval_shape(resnet.init, jax.random.key(0), images)
    expected = traverse_util.flatten_dict(expected, sep="/")
    for collection in ("params", "batch_stats"):
        prefix = f"{collection}/discriminator/trunk/"
        found = {
            path.removeprefix(prefix): shape
            for path, shape in sizes.items()
            if path.startswith(prefix)
        }
        assert found == {
            path.removeprefix(f"{collection}/"): leaf.shape
            for path, leaf in expected.items()
            if path.startswith(collection)
        }


def test_batch_norm_stands_where_nothing_bounds_gradients():
    def has_norm(**changes):
        config = make_config("dcgan", **changes)
        return gan.create_model(config, 3, (16, 16, 1)).discriminator.batch_norm

    assert has_norm() and has_norm(gradient_penalty=1.0)
    assert has_norm(loss="wasserstein", gradient_penalty=0.0)
    assert not has_norm(spectral_norm=True)
    assert not has_norm(loss="wasserstein")
    assert not has_norm(r1=1.0)


def test_the_projection_is_the_papers(key):
    """Miyato and Koyama 2018: linear in features, with a row of a table on top."""
    features, labels = jax.random.normal(key, (3, 4)), jnp.array([2, 0, 1])
    head = Verdict(3)
    params = head.init(key, features, labels)["params"]
    found = head.apply({"params": params}, features, labels)
    expected = features @ params["linear"]["kernel"][:, 0] + params["linear"]["bias"]
    expected += jnp.sum(params["classes"]["embedding"][labels] * features, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_norm_of_classes_is_affine_for_each_class(key):
    """(1 + scale_y) x + offset_y of what BatchNorm gives."""
    x, labels = jax.random.normal(key, (3, 2, 2, 4)), jnp.array([2, 0, 1])
    norm = Norm(True, 3, None)
    variables = norm.init(key, x, labels)
    plain = norm.apply(variables, x, labels)
    np.testing.assert_allclose(plain, x, rtol=1e-4)
    table = jax.random.normal(key, (3, 8))
    variables["params"]["classes"]["embedding"] = table
    scale, offset = table[labels][:, None, None, :4], table[labels][:, None, None, 4:]
    found = norm.apply(variables, x, labels)
    np.testing.assert_allclose(found, plain * (1 + scale) + offset, rtol=1e-5)


def draw_tree(seed=0):
    """Returns parameters with a convolution, a linear layer, a table, and vectors."""
    rng = np.random.default_rng(seed)
    return {
        "conv": {
            "kernel": jnp.asarray(rng.normal(size=(3, 3, 4, 5)), jnp.float32),
            "bias": jnp.ones(5),
        },
        "inner": {
            "linear": {"kernel": jnp.asarray(rng.normal(size=(6, 1)), "float32")}
        },
        "trunk": {"conv": {"kernel": jnp.full((1, 1, 2, 2), 3.0)}},
    }


def norm_of(kernel):
    return np.linalg.svd(np.reshape(kernel, (-1, kernel.shape[-1])), compute_uv=False)[
        0
    ]


def test_normalised_kernels_have_norm_1_and_nothing_else_changes(key):
    params = draw_tree()
    create = functools.partial(spectral.create_vectors, skip=("trunk",), iterations=100)
    vectors = jax.jit(create)(key, params)
    assert set(traverse_util.flatten_dict(vectors, sep="/")) == {
        "conv/kernel", "inner/linear/kernel",
    }  # fmt: skip
    found = spectral.normalize(params, vectors)
    for path, kernel in spectral.flatten(found).items():
        before = np.asarray(spectral.flatten(params)[path])
        if path[-1] == "bias" or path[0] == "trunk":
            np.testing.assert_array_equal(kernel, before)
        else:
            np.testing.assert_allclose(norm_of(kernel), 1, rtol=1e-4)
            np.testing.assert_allclose(kernel, before / norm_of(before), rtol=1e-4)


def test_an_iteration_is_that_of_the_matrix(key):
    """u becomes W^T W u, of length 1."""
    params = draw_tree()
    vectors = spectral.create_vectors(key, params, iterations=0)
    found = spectral.iterate(params, vectors)["conv"]["kernel"]
    matrix = np.asarray(params["conv"]["kernel"]).reshape(36, 5)
    expected = matrix.T @ (matrix @ np.asarray(vectors["conv"]["kernel"]))
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-5)


def test_the_slope_through_a_norm_is_that_of_the_norm():
    """Of f(W / |W|), |W| the largest singular value that jax differentiates."""

    def found(kernel, u):
        normal = spectral.normalize({"kernel": kernel}, {"kernel": u})
        return jnp.sum(normal["kernel"] ** 3)

    def exact(kernel):
        norm = jnp.linalg.svd(kernel, compute_uv=False)[0]
        return jnp.sum((kernel / norm) ** 3)

    with jax.enable_x64(True):
        kernel = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
        u = np.linalg.svd(kernel)[2][0]
        np.testing.assert_allclose(
            jax.grad(found)(kernel, jnp.asarray(u)), jax.grad(exact)(kernel), rtol=1e-8
        )


def test_a_kernel_of_zeros_stays_one(key):
    params = {"kernel": jnp.zeros((2, 2))}
    vectors = spectral.create_vectors(key, params)
    np.testing.assert_array_equal(spectral.normalize(params, vectors)["kernel"], 0.0)
