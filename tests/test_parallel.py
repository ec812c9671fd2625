"""One device and four: the same numbers; donation; what cannot be had."""

import functools

import gans
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_model
from phases import everything

from tljax import parallel
from tljax.config import Autoencoder, Config, Loss, Model, Optim
from tljax.data.transforms import Transform
from tljax.errors import ConfigError
from tljax.models import devices
from tljax.tasks import autoencoder, classification, gan_objectives


def train(num_devices, num_steps=3, mode="jit", **loss):
    """Returns the state after SGD steps over so many devices, and the last metrics."""
    mesh = parallel.create_mesh("cpu", num_devices)
    config = Config(loss=Loss(**loss))
    model = tiny_model.TinyNet(3)
    schedule = optax.constant_schedule(0.05)
    tx = optax.sgd(schedule)
    phase = everything(model, (8, 8, 1))
    create = functools.partial(
        classification.create_state,
        image_shape=(8, 8, 1),
        model=model,
        tx=tx,
        phase=phase,
        config=config,
    )
    state = jax.jit(create, out_shardings=parallel.replicated(mesh))(jax.random.key(0))
    step = functools.partial(
        classification.train_step,
        model=model,
        tx=tx,
        schedule=schedule,
        phase=phase,
        transform=Transform(),
        config=config,
        class_weights=np.array(config.loss.class_weights or [1.0, 1.0, 1.0]),
    )
    rng = np.random.default_rng(0)
    batches = [
        {
            "image": rng.integers(0, 256, (16, 8, 8, 1), np.uint8),
            "label": rng.integers(0, 3, 16).astype(np.int32),
        }
        for _ in range(num_steps)
    ]
    step, seconds = parallel.compile_step(
        step, state, batches[0], mesh=mesh, mode=mode, donate_state=True
    )
    assert seconds > 0
    for batch in batches:
        state, metrics = step(state, parallel.shard_batch(batch, mesh))
        # Virtual devices share the cores: unbounded dispatch would starve collectives.
        jax.block_until_ready(metrics)
    return state, metrics, step


def test_four_devices_give_the_numbers_of_one():
    """Gradients (SGD) and BatchNorm statistics are those of the whole batch."""
    one, one_metrics, _ = train(1)
    four, four_metrics, _ = train(4)
    assert len(jax.tree.leaves(four.params)[0].sharding.device_set) == 4
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6)
    jax.tree.map(close, one.variables, four.variables)
    close(one_metrics["grad_norm"], four_metrics["grad_norm"])


def test_pmap_gives_the_numbers_of_jit():
    """Gradients, weighted losses and BatchNorm statistics are of the whole batch."""
    weights = (0.2, 1.0, 3.0)
    one, one_metrics, _ = train(1, class_weights=weights)
    four, four_metrics, step = train(4, mode="pmap", class_weights=weights)
    assert "all-reduce" in step.as_text()
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6)
    jax.tree.map(close, one.variables, four.variables)
    jax.tree.map(close, one_metrics, four_metrics)


def make_autoencoder(monkeypatch):
    """Returns (state, step) of one that draws nothing."""
    config = Config(
        task="autoencoder",
        model=Model(name="conv_autoencoder", width=2),
        autoencoder=Autoencoder(latent=3),
    )
    model = autoencoder.create_model(config, 3, (8, 8, 1))
    schedule = optax.constant_schedule(0.05)
    phase = everything(model, (8, 8, 1))
    parts = {"model": model, "tx": optax.sgd(schedule), "phase": phase}
    parts["config"] = config
    state = autoencoder.create_state(jax.random.key(0), (8, 8, 1), **parts)
    step = functools.partial(
        autoencoder.train_step, schedule=schedule, transform=Transform(), **parts
    )
    return state, step


def make_gan(monkeypatch):
    """Returns (state, step) of a GAN with BatchNorm, its latents those of its labels.

    In place of the devices' own.
    """
    generate = gan_objectives.generate

    def of_labels(variables, z, labels, *rest, **how):
        z = jnp.sin(jnp.outer(labels + 1.0, jnp.arange(1.0, 1 + z.shape[1])))
        return generate(variables, z, labels, *rest, **how)

    monkeypatch.setattr(gan_objectives, "generate", of_labels)
    optimizer = Optim(name="gradient_descent", learning_rate=0.05)
    _, state, step = gans.make_parts(gans.make_config(optimizer=optimizer))
    return state, step


@pytest.mark.parametrize("make", [make_autoencoder, make_gan])
def test_pmap_gives_the_numbers_of_jit_without_labels(make, monkeypatch):
    """But for what compares images with each other, which a device does in its part."""
    state, step = make(monkeypatch)
    batches = [gans.draw_batch(16, seed=seed) for seed in range(2)]
    found = []
    for num_devices, mode in ((1, "jit"), (4, "pmap")):
        mesh, now = parallel.create_mesh("cpu", num_devices), state
        program, _ = parallel.compile_step(
            step, state, batches[0], mesh=mesh, mode=mode
        )
        for number, batch in enumerate(batches):
            batch["label"] = np.arange(16, dtype=np.int32) + 16 * number
            now, metrics = program(now, parallel.shard_batch(batch, mesh))
            jax.block_until_ready(metrics)
        for name in ("sample_diversity", "told_apart"):
            metrics.pop(name, None)
        found.append(jax.device_get((now.variables, metrics)))
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6)
    jax.tree.map(close, *found)
    moved = jax.tree.map(
        lambda old, new: float(np.abs(old - new).max()), state.variables, found[1][0]
    )
    assert min(jax.tree.leaves(moved)) > 1e-5


def test_each_device_draws_numbers_of_its_own_under_pmap(key):
    mesh = parallel.create_mesh("cpu", 4)

    def drawn(state, batch):
        one = jax.random.uniform(devices.own(key), ())
        sums = devices.total((jnp.sum(batch["x"]), devices.count() / 4))
        return devices.mean(one), devices.mean(one**2), sums

    program, _ = parallel.compile_step(
        drawn, 0, {"x": jnp.ones(4)}, mesh=mesh, mode="pmap"
    )
    mean, square, sums = program(0, parallel.shard_batch({"x": np.ones(4)}, mesh))
    assert square - mean**2 > 1e-3
    assert sums == (4, 4)


def test_the_state_is_donated():
    """The compiled program writes every leaf of the new state over the old one."""
    state, _, step = train(1, num_steps=1)
    aliased = step.memory_analysis().alias_size_in_bytes
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.variables))
    assert aliased >= size
    old = state.params["conv1"]["kernel"]
    batch = {
        "image": np.zeros((16, 8, 8, 1), np.uint8),
        "label": np.zeros(16, np.int32),
    }
    step(state, parallel.shard_batch(batch, parallel.create_mesh("cpu", 1)))
    assert old.is_deleted()


def test_a_compiled_step_refuses_other_shapes():
    state, _, step = train(1, num_steps=1)
    batch = {"image": np.zeros((8, 8, 8, 1), np.uint8), "label": np.zeros(8, np.int32)}
    with pytest.raises(TypeError, match="compiled"):
        step(state, parallel.shard_batch(batch, parallel.create_mesh("cpu", 1)))


def test_devices_that_are_not_there():
    with pytest.raises(ConfigError, match="device = 'gpu': there is no such device: "):
        parallel.create_mesh("gpu")
    with pytest.raises(ConfigError, match="num_devices = 9, but there are 4 cpu"):
        parallel.create_mesh("cpu", 9)
    assert parallel.create_mesh().size == 4


def test_a_batch_that_cannot_be_divided_names_the_nearest():
    mesh = parallel.create_mesh("cpu", 4)
    parallel.check_batch_size(8, mesh)
    with pytest.raises(ConfigError, match=r"take 8 or 12, or set config\.num_devices"):
        parallel.check_batch_size(10, mesh, 12)
    with pytest.raises(ConfigError, match="take 8, or set"):
        parallel.check_batch_size(10, mesh, 11)
    with pytest.raises(ConfigError, match="take 4, or"):
        parallel.check_batch_size(3, mesh)
    with pytest.raises(ConfigError, match=r"4 devices; set config\.num_devices"):
        parallel.check_batch_size(3, mesh, 3)


def test_a_batch_is_divided_among_devices():
    mesh = parallel.create_mesh("cpu", 4)
    batch = parallel.shard_batch({"image": np.arange(8)}, mesh)
    parts = [shard.data.tolist() for shard in batch["image"].addressable_shards]
    assert parts == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert jnp.sum(batch["image"]) == 28
