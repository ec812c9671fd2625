"""The step of a GAN against the same written out; evaluation, samples, pictures."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from gans import draw_batch, make_config, make_parts

from tljax.config import Mixup, Optim
from tljax.data.transforms import Transform
from tljax.errors import ConfigError
from tljax.plan import Row
from tljax.tasks import diff_augment, gan, samples
from tljax.tasks import gan_objectives as objectives


def sgd(**changes):
    return Optim(name="sgd", learning_rate=0.1, **changes)


def assert_close(found, expected, rtol=2e-4, atol=2e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
        found,
        expected,
    )


def written_out(model, state, batch, steps, rate):
    """Returns the variables after a step of sgd with hinge losses, as in the papers."""
    key = jax.random.fold_in(state.key, state.step)
    _, of_generator, *of_discriminator = jax.random.split(key, (steps + 2, 4))
    images = batch["image"].astype(np.float32) / 127.5 - 1
    parts = np.split(images, steps), np.split(batch["label"], steps)
    policy = ("translation",)
    params, stats = dict(state.params), dict(state.batch_stats)
    unit = diff_augment.unit_of(Transform())

    def run(method, network, net, inputs, labels):
        own = {"discriminator": stats["discriminator"]}
        own = own if network == "discriminator" else {network: stats[network]}
        made, updated = model.apply(
            {"params": {network: net}, "batch_stats": own},
            inputs, labels, True, method=method, mutable=["batch_stats"],
        )  # fmt: skip
        return made, updated["batch_stats"][network]

    def both(net, real, fake, labels):
        images, labels = jnp.concatenate([real, fake]), jnp.tile(labels, 2)
        logits, new = run("discriminate", "discriminator", net, images, labels)
        return *jnp.split(logits, 2), new

    for n, (real, labels) in enumerate(zip(*parts, strict=True)):
        z_key, real_key, fake_key, _ = of_discriminator[n]
        z = jax.random.normal(z_key, (len(real), model.latent))
        fake, _ = run("generate", "generator", params["generator"], z, labels)
        real = diff_augment.augment(real_key, real, policy, unit)
        fake = diff_augment.augment(fake_key, fake, policy, unit)

        def loss(net, real=real, fake=fake, labels=labels):
            told, made, new = both(net, real, fake, labels)
            total = jnp.mean(jax.nn.relu(1 - told)) + jnp.mean(jax.nn.relu(1 + made))
            return total, new

        grads, new = jax.grad(loss, has_aux=True)(params["discriminator"])
        params["discriminator"] = jax.tree.map(
            lambda w, g: w - 0.1 * rate * g, params["discriminator"], grads
        )
        stats["discriminator"] = new

    z_key, real_key, fake_key, _ = of_generator
    unseen = np.split(images, steps)[-1]
    real = diff_augment.augment(real_key, unseen, policy, unit)
    z = jax.random.normal(z_key, (len(real), model.latent))

    def loss(net):
        fake, new = run("generate", "generator", net, z, labels)
        fake = diff_augment.augment(fake_key, fake, policy, unit)
        _, logits, _ = both(params["discriminator"], real, fake, labels)
        return -jnp.mean(logits), new

    grads, new = jax.grad(loss, has_aux=True)(params["generator"])
    params["generator"] = jax.tree.map(
        lambda w, g: w - 0.1 * g, params["generator"], grads
    )
    return {"params": params, "batch_stats": stats | {"generator": new}}


def test_a_step_is_the_step_written_out():
    """Two steps of the discriminator on halves of the batch, one of the generator.

    Real and generated images pass BatchNorm as one batch.
    """
    config = make_config(
        optimizer=sgd(), discriminator_steps=2, discriminator_rate=0.5,
        augment=("translation",), conditional=True,
    )  # fmt: skip
    shape = (16, 16, 1)
    model, state, step = make_parts(config, shape)
    batch = draw_batch(8, shape)
    found, metrics = jax.jit(step)(state, batch)
    expected = jax.jit(functools.partial(written_out, model, steps=2, rate=0.5))(
        state, batch
    )
    assert "discriminator" in expected["batch_stats"]
    assert_close(found.variables, expected)
    assert found.step == 1 and metrics["finite"] == 1
    assert {leaf.dtype for leaf in metrics.values()} == {jnp.dtype("float32")}
    assert metrics["loss"] == metrics["loss_discriminator"]
    np.testing.assert_allclose(metrics["learning_rate"], 0.1, rtol=1e-6)


@pytest.fixture(scope="module")
def normalised():
    """Returns (model, config, state, step, state after 40 steps) of a spectral GAN."""
    config = make_config(
        "sngan", width=3, spectral_norm=True, conditional=True,
        optimizer=Optim(name="adam", learning_rate=1e-3, b1=0.5, ema_decay=0.9),
    )  # fmt: skip
    model, first, step = make_parts(config)
    step, state = jax.jit(step), first
    for number in range(40):
        state, metrics = step(state, draw_batch(seed=number))
    assert metrics["finite"] == 1
    return model, config, first, step, state


def test_kernels_have_norm_1_after_training(normalised):
    _, _, first, _, state = normalised
    vectors = state.batch_stats["spectral"]
    kernels = traverse_util.flatten_dict(
        gan.spectral.normalize(state.params["discriminator"], vectors), sep="/"
    )
    started = traverse_util.flatten_dict(first.params["discriminator"], sep="/")
    matrices = {path: leaf for path, leaf in kernels.items() if leaf.ndim > 1}
    # Of two blocks, four convolutions and a shortcut; the linear layer, the classes.
    assert len(matrices) == len(traverse_util.flatten_dict(vectors)) == 7
    for path, kernel in matrices.items():
        matrix = np.reshape(kernel, (-1, kernel.shape[-1]))
        assert np.linalg.norm(matrix, 2) == pytest.approx(1, abs=1e-3), path
        assert not np.allclose(kernel, started[path]), path


def test_a_step_moves_the_vectors_by_one_iteration(normalised):
    _, _, first, step, _ = normalised
    found, _ = step(first, draw_batch())
    expected = gan.spectral.iterate(
        first.params["discriminator"], first.batch_stats["spectral"]
    )
    assert_close(found.batch_stats["spectral"], expected)


def test_the_discriminator_is_asked_with_normalised_kernels(normalised):
    """In evaluation as in training, whatever the lengths of the kernels are."""
    model, config, _, _, state = normalised
    batch = draw_batch() | {"mask": np.array([1, 1, 0, 1, 0, 1], np.float32)}
    evaluate = jax.jit(
        functools.partial(
            gan.eval_step, model=model, transform=Transform(), config=config
        )
    )
    found = evaluate(state.variables, batch)
    tripled = jax.tree.map(
        lambda leaf: 3 * leaf if leaf.ndim > 1 else leaf, state.params
    )
    again = evaluate(state.variables | {"params": tripled}, batch)
    assert_close(found, again)
    normal = gan.spectral.normalize(
        state.params["discriminator"], state.batch_stats["spectral"]
    )
    discriminate = jax.jit(functools.partial(model.apply, method="discriminate"))
    logits = discriminate(
        {"params": {"discriminator": normal}},
        batch["image"] / 127.5 - 1,
        batch["label"],
    )
    kept = np.asarray(logits)[batch["mask"] == 1]
    assert found["num_examples"] == 4
    np.testing.assert_allclose(found["real_logit"], kept.sum(), rtol=1e-4)
    np.testing.assert_allclose(found["loss"], np.maximum(0, 1 - kept).sum(), rtol=1e-4)
    summary = gan.summarize(jax.tree.map(np.asarray, found))
    assert summary["num_examples"] == 4
    assert summary["loss"] == pytest.approx(np.mean(np.maximum(0, 1 - kept)), rel=1e-4)
    assert summary["real_logit"] == pytest.approx(np.mean(kept), rel=1e-4)


def test_the_average_follows_both_networks(normalised):
    _, _, first, _, state = normalised
    assert set(state.ema["params"]["row0"]) == {"generator", "discriminator"}
    way = optax.tree.norm(optax.tree.sub(state.params, first.params))
    behind = optax.tree.norm(optax.tree.sub(state.averaged["params"], state.params))
    assert 0 < behind < way / 2


def test_samples_are_images_of_their_labels(normalised):
    model, _, _, _, state = normalised
    labels = jnp.array([0, 1, 2, 0])
    draw = jax.jit(functools.partial(gan.sample, model=model))
    found = draw(state.variables, jax.random.key(1), labels)
    assert found.shape == (4, 8, 8, 1) and found.dtype == jnp.float32
    assert found.min() >= 0 and found.max() <= 1
    # An image does not depend on those beside it, and does depend on its label.
    others = draw(state.variables, jax.random.key(1), jnp.array([0, 2, 2, 0]))
    np.testing.assert_allclose(others[0], found[0], atol=1e-6)
    assert np.abs(others[1] - found[1]).max() > 1e-4


def test_pictures_are_grids_of_ten_columns(normalised):
    model, config, _, _, state = normalised
    draw = functools.partial(
        gan.draw, model=model, transform=Transform(), config=config
    )
    found = jax.jit(draw)(state.variables, {}, jax.random.key(1))
    assert {name: leaf.shape for name, leaf in found.items()} == {
        "samples": (8, 10, 8, 8, 1), "interpolation": (5, 10, 8, 8, 1),
    }  # fmt: skip
    assert {leaf.dtype for leaf in found.values()} == {jnp.dtype("uint8")}
    # With the same latents, columns of one class are alike, and of others not.
    z = jnp.ones((10, model.latent))
    columns = samples.sample_at(state.variables, z, jnp.arange(10) % 3, model)
    np.testing.assert_allclose(columns[0], columns[3], atol=1e-6)
    assert np.abs(columns[0] - columns[1]).max() > 1e-4


def test_interpolation_keeps_the_length_of_latents(key):
    start, end = jax.random.normal(key, (2, 3, 500))
    found = samples.interpolate(start, end, 7)
    np.testing.assert_allclose(found[:, 0], start, atol=1e-5)
    np.testing.assert_allclose(found[:, -1], end, atol=1e-5)
    lengths = np.linalg.norm(found, axis=-1)
    np.testing.assert_allclose(lengths, np.sqrt(500), rtol=0.15)
    # On the straight line, the middle would have 0.7 of that.
    halves = (start + end) / np.sqrt(2 * (1 + np.sum(start * end, -1) / 500))[:, None]
    np.testing.assert_allclose(found[:, 3], halves, atol=0.1)


def test_latents_that_point_one_way_have_a_line_between_them():
    """As any two of a single number: there is no arc to follow."""
    ends = jnp.array([[1.0], [1.0]]), jnp.array([[2.0], [-1.0]])
    found = samples.interpolate(*ends, 3)[..., 0]
    np.testing.assert_allclose(found, [[1, 1.5, 2], [1, 0, -1]], atol=1e-6)


def judge(objective, model, config, state, batch):
    """Returns (loss, statistics, metrics) of a network on a batch, compiled."""

    @jax.jit
    def of(variables, batch):
        real = batch["image"] / jnp.float32(127.5) - 1
        keys = jax.random.split(jax.random.key(1), objectives.KEYS)
        loss, (batch_stats, metrics) = objective(
            keys, variables, real, batch["label"], model, Transform(), config
        )
        return loss, batch_stats, metrics

    return of(state.variables, batch)


@pytest.mark.slow
def test_penalties_are_part_of_the_loss():
    """A gradient penalty of the Wasserstein loss only, R1 of any."""
    model, state, _ = make_parts(make_config(r1=1.0, width=2))
    added = {}
    for loss in ("wasserstein", "minimax"):
        for penalty, r1 in ((0.0, 0.0), (10.0, 0.0), (20.0, 0.0), (10.0, 2.0)):
            config = make_config(loss=loss, gradient_penalty=penalty, r1=r1)
            total, _, metrics = judge(
                objectives.discriminator, model, config, state, draw_batch()
            )
            assert total == metrics["loss"]
            added[loss, penalty, r1] = metrics["loss"] - metrics["loss_discriminator"]
    assert added["wasserstein", 0, 0] == added["minimax", 10, 0] == 0
    assert added["wasserstein", 10, 0] > 0 and added["minimax", 10, 2] > 0
    np.testing.assert_allclose(
        [added["wasserstein", 20, 0], added["wasserstein", 10, 2]],
        [
            2 * added["wasserstein", 10, 0],
            added["wasserstein", 10, 0] + added["minimax", 10, 2],
        ],
        rtol=1e-4,
    )


@pytest.mark.slow
def test_a_trunk_keeps_the_statistics_of_what_it_sees():
    """And has no vectors of spectral normalisation, which BatchNorm would undo."""
    config = make_config("resnet_gan", width=2, spectral_norm=True)
    model, state, _ = make_parts(config)
    assert set(state.batch_stats["spectral"]) == {"head"}
    batch = draw_batch()
    _, found, _ = judge(objectives.discriminator, model, config, state, batch)
    z = jax.random.normal(jax.random.split(jax.random.key(1), 4)[0], (6, model.latent))
    made, _ = model.apply(
        state.variables, z, batch["label"], True,
        method="generate", mutable=["batch_stats"],
    )  # fmt: skip
    seen = jax.lax.conv_general_dilated(
        jnp.concatenate([batch["image"] / np.float32(127.5) - 1, made]),
        state.params["discriminator"]["trunk"]["conv1"]["kernel"],
        (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    mean = found["discriminator"]["trunk"]["bn1"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * seen.mean(axis=(0, 1, 2)), atol=1e-5)
    assert_close(found["generator"], state.batch_stats["generator"], 0, 0)


def test_both_optimisers_are_at_one_place_of_the_schedule():
    """Of a rate that falls at each step, with two steps of the discriminator in one."""
    config = make_config(optimizer=sgd(), discriminator_steps=2, discriminator_rate=3.0)
    rows = {"row0": Row(""), "row1": Row("", learning_rate=2.0)}
    tx = gan.create_optimizer(config, lambda count: 1.0 / (1 + count), rows)
    tree = {"weight": jnp.ones(2)}
    trained = {
        "row0": {"generator": tree, "discriminator": tree},
        "row1": {"discriminator": tree},
    }
    states = tx.init(trained)
    assert set(states) == {"generator", "discriminator"}
    found = {}
    for name, chain in tx._asdict().items():
        grads, state, rates = gan.part(trained, name), states[name], []
        for _ in range(4):
            updates, state = chain.update(grads, state, grads)
            rates.append(-float(updates["row0"][name]["weight"][0]))
        found[name] = rates
    np.testing.assert_allclose(found["generator"], [1, 1 / 2, 1 / 3, 1 / 4], rtol=1e-6)
    np.testing.assert_allclose(found["discriminator"], [3, 3, 3 / 2, 3 / 2], rtol=1e-6)


def test_a_batch_that_cannot_be_dealt_out_is_refused():
    _, state, step = make_parts(make_config(discriminator_steps=4))
    with pytest.raises(ConfigError, match=r"steps = 4 must divide the batch of 6"):
        jax.eval_shape(step, state, draw_batch(6))


def test_images_without_a_class_are_refused():
    config = make_config(conditional=True, image_operations=(Mixup(),))
    with pytest.raises(ConfigError, match="leave images without a class"):
        gan.create_model(config, 3, (8, 8, 1))
    config.gan.conditional = False
    gan.create_model(config, 3, (8, 8, 1))


def test_a_collapse_is_told():
    def warn(metrics, loss):
        return gan.warn(7, metrics, SimpleNamespace(gan=SimpleNamespace(loss=loss)))

    healthy = {"loss_discriminator": 1.3, "sample_diversity": 0.9}
    assert warn(healthy, "hinge") == ""
    same = warn(healthy | {"sample_diversity": 0.01}, "wasserstein")
    assert "step 7" in same and "collapsed" in same
    won = healthy | {"loss_discriminator": 1e-4}
    assert "at its bound" in warn(won, "minimax")
    # A critic's loss has no bound.
    assert warn(won, "wasserstein") == ""
    assert warn(won | {"loss_discriminator": -9.0}, "wasserstein") == ""


def test_a_generator_of_one_image_has_no_diversity():
    """The metric is near 0 where the last convolution sees nothing of the latent."""
    config = make_config()
    model, state, _ = make_parts(config)
    params = jax.tree.map(jnp.copy, state.params)
    params["generator"]["image"]["kernel"] *= 0
    found = [
        judge(objectives.generator, model, config, given, draw_batch())[2]
        for given in (state, state.replace(params=params))
    ]
    assert found[0]["sample_diversity"] > 0.05
    assert found[1]["sample_diversity"] < 1e-5
