"""Dropout and stochastic depth: shares, expectations, gradients, and their keys."""

import dataclasses
import functools
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from phases import everything

from tljax import checkpoint, models, plan, train
from tljax.config import Config, Loss
from tljax.data.transforms import Transform
from tljax.models import layers, resnet
from tljax.plan import Row
from tljax.pretrained import weights
from tljax.state import TrainState
from tljax.tasks import classification, losses


class Dropping(nn.Module):
    """One function of `layers` as a module, which has the rng that it needs."""

    function: object
    rate: float

    @nn.compact
    def __call__(self, x):
        """Returns x with some of it 0."""
        return self.function(x, self.rate)


def dropped(function, rate, x, key):
    return Dropping(function, rate).apply({}, x, rngs={"dropout": key})


@pytest.mark.parametrize("rate", [0.1, 0.75])
@pytest.mark.parametrize("function", [layers.drop, layers.drop_rows])
def test_the_rate_is_the_share_and_the_mean_stays(function, rate, key):
    """Five deviations of 20,000 draws are 1.6 per cent at most."""
    x = jnp.full((20_000, 1), 3.0)
    y = np.asarray(dropped(function, rate, x, key))
    kept = y != 0
    assert abs(kept.mean() - (1 - rate)) < 0.016
    np.testing.assert_allclose(y[kept], 3.0 / (1 - rate), rtol=1e-6)
    np.testing.assert_allclose(y.mean(), 3.0, rtol=0.05)


def test_values_fall_alone_and_rows_as_one(key):
    x = jnp.ones((64, 4, 4, 3))
    values = np.asarray(dropped(layers.drop, 0.5, x, key)).reshape(64, -1)
    rows = np.asarray(dropped(layers.drop_rows, 0.5, x, key)).reshape(64, -1)
    assert all(len(np.unique(row)) == 2 for row in values)
    assert all(len(np.unique(row)) == 1 for row in rows)
    assert set(np.unique(rows)) == {0.0, 2.0}


def test_draws_do_not_depend_on_the_devices(key):
    x = jnp.ones((16, 4))
    mesh = Mesh(jax.devices(), ("data",))
    shards = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    function = jax.jit(functools.partial(dropped, layers.drop_rows, 0.5))
    np.testing.assert_array_equal(function(x, key), function(shards, key))


@pytest.mark.parametrize(
    "block, last", [(resnet.BasicBlock, "bn2"), (resnet.Bottleneck, "bn3")]
)
def test_an_image_skips_the_convolutions_of_a_block_or_doubles_them(block, last, key):
    """At rate 1/2 those that stay count twice; the gradient goes the same way."""
    x = jax.random.normal(key, (8, 3, 3, 8))
    planes = 8 // block.expansion
    plain, dropping = block(planes), block(planes, drop_rate=0.5)
    variables = jax.jit(functools.partial(plain.init, running=True))(key, x)
    twice = jax.tree.map(lambda leaf: leaf, variables)
    twice["params"][last]["scale"] = 2 * twice["params"][last]["scale"]

    def run(module, variables, x, **options):
        return jax.vjp(lambda x: module.apply(variables, x, running=True, **options), x)

    found, pull = run(dropping, variables, x, rngs={"dropout": key})
    doubled, pull_doubled = run(plain, twice, x)
    skipped, pull_skipped = jax.vjp(nn.relu, x)
    ones = jnp.ones_like(x)
    gradients = [back(ones)[0] for back in (pull, pull_doubled, pull_skipped)]
    stays = [np.allclose(found[i], doubled[i], atol=1e-5) for i in range(8)]
    assert 0 < sum(stays) < 8
    for i, stay in enumerate(stays):
        if not stay:
            np.testing.assert_array_equal(found[i], skipped[i])
        expected = gradients[1] if stay else gradients[2]
        np.testing.assert_allclose(gradients[0][i], expected[i], atol=1e-5)


def test_the_rate_grows_from_0_to_that_of_the_last_block():
    model = models.create("resnet34", stochastic_depth=0.3)
    rates = model.drop_rates(train=True)
    np.testing.assert_allclose(rates, np.linspace(0, 0.3, 16), atol=1e-12)
    assert rates[0] == 0 and rates[-1] == 0.3
    assert set(model.drop_rates(train=False)) == {0}


@pytest.fixture(scope="module")
def small():
    """Returns (create, variables, images): a function of rates, and what it takes."""
    create = functools.partial(
        models.create, "resnet18", width=2, stem="small", num_classes=3
    )
    images = jax.random.normal(jax.random.key(1), (8, 4, 4, 1))
    return create, jax.jit(create().init)(jax.random.key(0), images), images


@pytest.mark.parametrize("rate", ["dropout", "stochastic_depth"])
def test_evaluation_has_no_draws(small, rate):
    """Neither a key nor another number; and the variables have the same names."""
    create, variables, images = small
    model = create(**{rate: 0.5})
    np.testing.assert_array_equal(
        jax.jit(model.apply)(variables, images),
        jax.jit(create().apply)(variables, images),
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert checkpoint.shapes(shapes) == checkpoint.shapes(variables)


@pytest.mark.parametrize("rate", ["dropout", "stochastic_depth"])
def test_training_draws_at_the_place_of_the_rate(small, rate, key):
    """Dropout changes the logits alone, stochastic depth all but the first block."""
    create, variables, images = small

    def apply(model):
        run = functools.partial(
            model.apply, train=True, return_features=True, mutable=["batch_stats"]
        )
        return jax.jit(run)(variables, images, rngs={"dropout": key})[0]

    logits, features = apply(create())
    other_logits, others = apply(create(**{rate: 0.5}))
    changed = {
        name
        for name, leaf in features.items()
        if not np.array_equal(leaf, others[name])
    }
    expected = {"layer1", "layer2", "layer3", "layer4", "pooled"}
    assert changed == (expected if rate == "stochastic_depth" else set())
    assert not np.array_equal(logits, other_logits)


def test_the_key_is_of_seed_and_step_and_not_augmentations():
    """Recorded by a network that has one layer and nothing to drop."""
    seen = []

    def apply(variables, images, *, train, mutable, rngs):
        seen.append(tuple(jax.random.key_data(rngs["dropout"]).tolist()))
        logits = jnp.mean(images, axis=(1, 2)) @ variables["params"]["fc"]["kernel"]
        return logits, {"batch_stats": {}}

    def step(seed, number):
        tx = optax.sgd(0.1)
        params = {"fc": {"kernel": jnp.ones((1, 3))}}
        phase = plan.resolve([Row("")], ["fc/kernel"]).phases[0]
        key = jax.random.key(seed)
        opt_state = tx.init({"row0": params})
        state = TrainState(jnp.int32(number), params, {}, opt_state, {}, key)
        model = SimpleNamespace(apply=apply, num_classes=3)
        model.clone = lambda **changes: model
        classification.train_step(
            state,
            {"image": np.ones((2, 4, 4, 1), np.uint8), "label": np.zeros(2, int)},
            model=model,
            tx=tx,
            schedule=optax.constant_schedule(0.1),
            phase=phase,
            transform=Transform(),
            config=Config(),
        )
        return seen[-1]

    assert step(0, 0) == step(0, 0)
    assert len({step(0, 0), step(0, 1), step(1, 0)}) == 3
    key = jax.random.fold_in(jax.random.key(0), 0)
    taken = jax.random.key_data(jax.random.split(key)).tolist()
    assert list(step(0, 0)) not in [*taken, jax.random.key_data(key).tolist()]


def test_the_step_takes_the_loss_of_the_config(small, key):
    """With dropout: the loss of the very logits that the drawn network gives."""
    create, variables, images = small
    model = create(dropout=0.2, stochastic_depth=0.2)
    images = np.arange(8 * 16).astype(np.uint8).reshape(8, 4, 4, 1)
    config = Config(loss=Loss(name="focal", label_smoothing=0.1))
    tx = optax.sgd(0.1)
    state = TrainState(
        step=jnp.int32(3),
        **variables,
        opt_state=tx.init({"row0": variables["params"]}),
        ema={},
        key=key,
    )
    step = functools.partial(
        classification.train_step,
        model=model,
        tx=tx,
        schedule=optax.constant_schedule(0.1),
        phase=everything(model, (4, 4, 1)),
        transform=Transform(),
        config=config,
    )
    labels = np.arange(8, dtype=np.int32) % 3
    new, metrics = jax.jit(step)(state, {"image": images, "label": labels})
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    logits, _ = jax.jit(apply)(
        variables,
        (images / np.float32(255) - 0.5) / 0.5,
        rngs={"dropout": jax.random.fold_in(jax.random.fold_in(key, 3), 2)},
    )
    loss = losses.focal(logits, jnp.eye(3)[labels], config.loss, None)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
    assert metrics["finite"] == 1
    moved = jax.tree.map(lambda a, b: jnp.any(a != b), state.params, new.params)
    assert all(jax.tree.leaves(moved))


def test_a_run_that_drops_starts_from_one_that_does_not_and_the_other_way(tiny_config):
    plain = tiny_config()
    model = dataclasses.replace(plain.model, dropout=0.3, stochastic_depth=0.4)
    drops = dataclasses.replace(plain, model=model)
    for config, given in ((plain, drops), (drops, plain)):
        run = train.prepare(dataclasses.replace(config, pretrain=given))
        rates = run.model.dropout, run.model.stochastic_depth
        assert rates == (config.model.dropout, config.model.stochastic_depth)
        named = weights.metadata(run.given, {})["model"]
        assert named == {"name": "resnet18", "width": 2, "stem": "small"}


@pytest.mark.slow
def test_resuming_draws_as_if_nothing_had_stopped(tiny_config, tmp_path):
    plain = tiny_config(num_steps=1, eval_every=0)
    model = dataclasses.replace(plain.model, dropout=0.3, stochastic_depth=0.3)
    config = dataclasses.replace(
        plain, model=model, pretrain=plain, num_steps=2, checkpoint_every=1
    )
    train.train_and_evaluate(config, tmp_path)
    folder = tmp_path / "checkpoints" / "2"
    variables = checkpoint.restore_variables(folder)
    shutil.rmtree(folder)
    (tmp_path / "result.json").unlink()
    train.train_and_evaluate(config, tmp_path)
    again = checkpoint.restore_variables(folder)
    jax.tree.map(np.testing.assert_array_equal, variables, again)
