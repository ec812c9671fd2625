"""The autoencoder task: its step, its evaluation, its pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from autoencoders import SHAPE, TRANSFORM, draw_batch, make_config, normalized, start
from scipy import stats

from tljax import models
from tljax.errors import ConfigError
from tljax.models import resnet
from tljax.tasks import autoencoder, corruption, reconstruction

# One block a stage, to be compiled soon.
TINY = functools.partial(resnet.ResNet, (1, 1, 1, 1), resnet.BasicBlock)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", TINY)


def evaluation_of(model, config):
    """Returns eval_step compiled."""
    options = {"model": model, "transform": TRANSFORM, "config": config}
    return jax.jit(functools.partial(autoencoder.eval_step, **options))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_tied_loss_and_gradient_are_the_formulas(activation):
    """1/2 sum_i ||x_i - W^T f(x_i)||^2 + lambda sum_k ||w_k||^2, in float64."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 2, 3, 1))
    kernel, bias, penalty = rng.normal(size=(6, 5)), rng.normal(size=5), 0.3
    x = images.reshape(4, 6)
    code, slope = {
        "sigmoid": lambda z: (sigmoid(z), sigmoid(z) * (1 - sigmoid(z))),
        "tanh": lambda z: (np.tanh(z), 1 - np.tanh(z) ** 2),
    }[activation](x @ kernel + bias)
    error = code @ kernel.T - x
    expected = 0.5 * np.sum(error**2) + penalty * np.sum(kernel**2)
    back = (error @ kernel) * slope
    expected_kernel = error.T @ code + x.T @ back + 2 * penalty * kernel
    model = models.AUTOENCODERS["tied_autoencoder"](
        (2, 3, 1), hidden=(5,), activation=activation
    )

    with jax.enable_x64(True):
        params = {"encoder_0": {"kernel": jnp.array(kernel), "bias": jnp.array(bias)}}
        loss = formula_of(model, images, penalty)
        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    gradient = gradient["encoder_0"]
    np.testing.assert_allclose(gradient["kernel"], expected_kernel, rtol=1e-10)
    np.testing.assert_allclose(gradient["bias"], back.sum(axis=0), rtol=1e-10)


def formula_of(model, images, penalty):
    """Returns params -> the tied loss of images."""

    def loss(params):
        found = model.apply({"params": params}, jnp.asarray(images))
        return reconstruction.tied_loss(params, found.images, images, penalty)

    return loss


def test_tied_gradient_is_the_difference_of_the_loss():
    """Two layers, in float64, by central differences."""
    model = models.AUTOENCODERS["tied_autoencoder"](
        (2, 3, 1), hidden=(4, 3), activation="tanh"
    )
    rng = np.random.default_rng(1)
    images = rng.normal(size=(4, 2, 3, 1))
    with jax.enable_x64(True):
        loss = jax.jit(formula_of(model, images, 0.3))
        params = jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)),
            model.init(jax.random.key(0), jnp.asarray(images))["params"],
        )
        flat, restore = jax.flatten_util.ravel_pytree(params)
        gradient, _ = jax.flatten_util.ravel_pytree(jax.jit(jax.grad(loss))(params))
        steps = 1e-6 * np.eye(len(flat))
        expected = [
            (loss(restore(flat + step)) - loss(restore(flat - step))) / 2e-6
            for step in steps
        ]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


def test_tied_training_minimises_the_mean_with_the_whole_penalty():
    """One SGD step, written out: the rate times the gradient of that."""
    config, model, state, step = start("tied_autoencoder", weight_penalty=0.2)
    batch = draw_batch()
    images = normalized(batch["image"])

    def loss(params):
        found = model.apply({"params": params}, images)
        squares = jnp.sum(jnp.square(images - found.images)) / (2 * len(images))
        return squares + 0.2 * jnp.sum(jnp.square(params["encoder_0"]["kernel"]))

    value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    new, metrics = step(state, batch)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    close(metrics["loss"], value)
    close(metrics["grad_norm"], optax.tree.norm(grads))
    jax.tree.map(
        lambda old, grad, now: close(now, old - 0.1 * grad),
        state.params, grads, new.params,
    )  # fmt: skip
    assert new.step == 1 and metrics["finite"] == 1
    assert metrics["learning_rate"] == pytest.approx(0.1)
    evaluate = evaluation_of(model, config)
    sums = evaluate(state.variables, {**batch, "mask": np.ones(6, np.float32)})
    close(autoencoder.summarize(jax.device_get(sums))["loss"], value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"noise": "salt_and_pepper", "kl_weight": 0.5},
        {"name": "resnet_autoencoder", "mask_ratio": 0.5},
    ],
    ids=["variational", "masked"],
)
def test_training_comes_closer(settings):
    """To the same images; the moving average and the statistics go along."""
    *_, state, step = start(**settings)
    first, losses, batch = state, [], draw_batch()
    for _ in range(25):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert metrics["finite"] == 1
    assert {value.dtype for value in metrics.values()} == {jnp.dtype("float32")}
    for name in ("params", "batch_stats"):
        old, new = (getattr(each, name) for each in (first, state))
        moved = jax.tree.map(lambda a, b: np.any(a != b), old, new)
        assert np.mean(jax.tree.leaves(moved)) > 0.95, name
    assert set(state.ema["params"]["row0"]) == set(state.params)


def test_anything_not_finite_is_noticed():
    *_, state, step = start(noise="gaussian", noise_level=0.06)
    poisoned = jax.tree.map(lambda leaf: leaf * np.nan, jax.device_get(state.params))
    _, metrics = step(state.replace(params=poisoned), draw_batch())
    assert metrics["finite"] == 0


def test_noise_goes_in_and_clean_images_are_the_target():
    config, model, state, step = start(noise="gaussian", noise_level=0.06)
    images = normalized(draw_batch()["image"])
    key = jax.random.fold_in(jax.random.fold_in(state.key, 0), 2)
    seen, visible = corruption.obscure(key, images, TRANSFORM, config)
    assert visible is None
    # 0.06 in levels is 0.2 in units of the deviation 0.3.
    np.testing.assert_allclose(np.std(seen - images), 0.2, rtol=0.1)
    look = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    found, _ = jax.jit(look)(state.variables, seen)
    loss = step(state, draw_batch())[1]["loss"]
    np.testing.assert_allclose(loss, np.mean((found.images - images) ** 2), rtol=1e-5)
    later = step(state.replace(step=state.step + 1), draw_batch())[1]["loss"]
    assert abs(later - loss) > 1e-5


def test_noises_have_their_distributions(key):
    pixels = jnp.full((50, 16, 16, 3), 0.5)
    noisy = {
        name: np.asarray(jax.jit(noise)(key, pixels, 0.3))
        for name, noise in corruption.NOISES.items()
    }
    np.testing.assert_array_equal(noisy["none"], pixels)
    drawn = (noisy["gaussian"] - 0.5).ravel() / 0.3
    assert stats.kstest(drawn, "norm").pvalue > 0.01
    for name in ("masking", "salt_and_pepper"):
        # All channels of a pixel share its fate.
        np.testing.assert_array_equal(noisy[name][..., 0], noisy[name][..., 2])
    shares = {
        name: [np.mean(noisy[name] == level) for level in (0, 0.5, 1)]
        for name in ("masking", "salt_and_pepper")
    }
    np.testing.assert_allclose(shares["masking"], [0.3, 0.7, 0], atol=0.015)
    np.testing.assert_allclose(shares["salt_and_pepper"], [0.15, 0.7, 0.15], atol=0.015)


@pytest.mark.parametrize(
    "size, patch, ratio, hidden",
    [(8, 2, 0.6, 10), (8, 3, 0.5, 4), (8, 4, 0.01, 1), (9, 4, 0.99, 8)],
)
def test_the_same_number_of_patches_is_hidden_in_each_image(
    key, size, patch, ratio, hidden
):
    draw = jax.jit(corruption.draw_visible, static_argnums=(1, 2, 3, 4))
    visible = np.asarray(draw(key, 40, (size, size, 3), patch, ratio))
    assert visible.shape == (40, size, size, 1)
    corners = visible[:, ::patch, ::patch]
    np.testing.assert_array_equal((corners == 0).sum(axis=(1, 2, 3)), hidden)
    # A patch is hidden whole, and every patch is hidden in some image.
    whole = corners.repeat(patch, axis=1).repeat(patch, axis=2)
    np.testing.assert_array_equal(visible, whole[:, :size, :size])
    assert np.all(np.any(corners == 0, axis=0)) and np.all(np.any(corners, axis=0))


def test_metrics_are_those_of_the_sums():
    sums = {"examples": 4.0, "loss": 8.0, "mse": 0.04, "ssim": 3.0, "kl": 2.0}
    found = autoencoder.summarize(sums)
    assert found == {
        "num_examples": 4,
        "loss": 2.0,
        "mse": 0.01,
        "psnr": pytest.approx(20.0),
        "ssim": 0.75,
        "kl": 0.5,
    }
    assert autoencoder.summarize(sums | {"mse": 0.0})["psnr"] == 100
    assert found[autoencoder.SCORE[0]] and autoencoder.SCORE[1] == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": "salt_and_pepper", "kl_weight": 0.5},
        {"name": "resnet_autoencoder", "mask_ratio": 0.5},
        {"name": "tied_autoencoder", "weight_penalty": 0.2},
    ],
    ids=["variational", "masked", "tied"],
)
def test_evaluation_is_exact_for_any_batches(settings):
    """Padding does not count, and an image counts the same wherever it stands."""
    config, model, state, _ = start(**settings)
    evaluate = evaluation_of(model, config)
    images = draw_batch(5)["image"]
    sums = []
    for places, mask in [([0, 1, 2, 3], [1, 1, 1, 1]), ([4, 0, 2, 2], [1, 0, 0, 0])]:
        batch = {"image": images[places], "mask": np.array(mask, np.float32)}
        sums.append(jax.device_get(evaluate(state.variables, batch)))
    split = jax.tree.map(np.add, *sums)
    whole = {"image": images[::-1].copy(), "mask": np.ones(5, np.float32)}
    together = jax.device_get(evaluate(state.variables, whole))
    assert split["examples"] == 5
    for name, value in together.items():
        np.testing.assert_allclose(split[name], value, rtol=1e-5, err_msg=name)
    found = autoencoder.summarize(split)
    assert found["psnr"] == pytest.approx(-10 * np.log10(found["mse"]))


def test_pictures_show_images_what_is_seen_and_what_is_found(key):
    config, model, state, _ = start(noise="salt_and_pepper", kl_weight=0.5)
    images = draw_batch(10)["image"]
    draw = functools.partial(
        autoencoder.draw, model=model, transform=TRANSFORM, config=config
    )
    pictures = jax.device_get(jax.jit(draw)(state.variables, {"image": images}, key))
    assert {name: found.shape for name, found in pictures.items()} == {
        "reconstructions": (3, 10, *SHAPE),
        "samples": (10, 10, *SHAPE),
        "interpolation": (5, 10, *SHAPE),
    }
    assert {found.dtype for found in pictures.values()} == {np.dtype("uint8")}
    original, seen, found = pictures["reconstructions"]
    np.testing.assert_array_equal(original, images)
    changed = seen != images
    assert 0.2 < changed.mean() < 0.4 and set(np.unique(seen[changed])) == {0, 255}
    # A row of the interpolation begins and ends at what is found for an image.
    ends = pictures["interpolation"][:, [0, 9]]
    np.testing.assert_allclose(ends.reshape(10, *SHAPE), found, atol=1)
    # Fewer images are shown again.
    few = jax.jit(draw)(state.variables, {"image": images[:3]}, key)
    few = few["reconstructions"]
    np.testing.assert_array_equal(few[0], images[[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]])


@pytest.mark.parametrize(
    "name", ["conv_autoencoder", "tied_autoencoder", "resnet_autoencoder"]
)
def test_codes_of_any_model_are_on_lines(key, name):
    config, model, state, _ = start(name=name)
    draw = functools.partial(
        autoencoder.draw, model=model, transform=TRANSFORM, config=config
    )
    pictures = jax.jit(draw)(state.variables, {"image": draw_batch(10)["image"]}, key)
    assert set(pictures) == {"reconstructions", "interpolation"}
    ends = np.asarray(pictures["interpolation"][:, [0, 9]]).astype(int)
    found = pictures["reconstructions"][2]
    np.testing.assert_allclose(ends.reshape(10, *SHAPE), found, atol=1)


def test_pictures_of_a_masked_model_keep_what_is_visible(key):
    config, model, state, _ = start(name="resnet_autoencoder", mask_ratio=0.5)
    images = draw_batch(10)["image"]
    draw = functools.partial(
        autoencoder.draw, model=model, transform=TRANSFORM, config=config
    )
    pictures = jax.jit(draw)(state.variables, {"image": images}, key)
    assert set(pictures) == {"reconstructions"}
    original, seen, found = np.asarray(pictures["reconstructions"])
    same = seen == original
    assert 0.5 <= same.mean() < 0.6 and np.all(seen[~same] == 102)
    np.testing.assert_array_equal(
        found[same & (seen != 102)], original[same & (seen != 102)]
    )


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("conv_autoencoder", {"mask_ratio": 0.5},
         "mask_ratio = 0.5 is of resnet_autoencoder; with config.model.name = 'conv_a"),
        ("tied_autoencoder", {"kl_weight": 0.5},
         "kl_weight = 0.5 is of conv_autoencoder and resnet_autoencoder; with"),
        ("resnet_autoencoder", {"weight_penalty": 0.1},
         "weight_penalty = 0.1 is of tied_autoencoder; with"),
        ("resnet_autoencoder", {"mask_ratio": 0.5, "kl_weight": 0.1},
         "kl_weight = 0.1 must be 0 where mask_ratio = 0.5"),
        ("conv_autoencoder", {"noise": "masking", "noise_level": 1.5},
         "noise_level = 1.5 must be at most 1 with noise = 'masking': it is a share"),
        ("conv_autoencoder", {"noise": "salt_and_pepper", "noise_level": 1.1},
         "noise_level = 1.1 must be at most 1"),
        ("resnet_autoencoder", {"mask_ratio": 0.5, "patch_size": 8},
         "patch_size = 8 leaves one patch of an image of 8x8 pixels"),
    ],
)  # fmt: skip
def test_settings_at_odds_are_an_error(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        autoencoder.create_model(make_config(name, **settings), 10, SHAPE)


def test_gaussian_noise_may_be_as_strong_as_one_likes():
    config = make_config("conv_autoencoder", noise="gaussian", noise_level=1.5)
    autoencoder.check(config, SHAPE)
