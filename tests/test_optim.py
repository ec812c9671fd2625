"""Optimisers and schedules against formulas written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import optim
from tljax.config import Optim

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([1.0, 2.0])}


def run(config, num_steps=3, target=0.0):
    """Returns PARAMS after steps down the gradient of |params - target|^2 / 2."""
    tx = optim.create_optimizer(config, optim.create_schedule(config, 100))
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(num_steps):
        grads = jax.tree.map(lambda leaf: leaf - target, params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_every_optimizer_goes_downhill_and_decays_kernels_only(name):
    def loss(params):
        return sum(jnp.sum((leaf - 0.3) ** 2) for leaf in jax.tree.leaves(params))

    config = Optim(name=name, learning_rate=0.1)
    plain = run(config, target=0.3)
    assert loss(plain) < loss(PARAMS)
    config.weight_decay = 0.3
    decayed = run(config, target=0.3)
    np.testing.assert_array_equal(decayed["bias"], plain["bias"])
    assert not np.array_equal(decayed["kernel"], plain["kernel"])


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov"])
def test_sgd_is_pytorchs(name):
    """torch.optim.SGD: g += wd * p; buf = m * buf + g; g = buf, or g + m * buf."""
    config = Optim(name=name, learning_rate=0.1, momentum=0.8, weight_decay=0.05)
    p, buffer = np.asarray(PARAMS["kernel"], np.float64), 0.0
    for _ in range(3):
        grad = p + 0.05 * p
        buffer = 0.8 * buffer + grad
        step = {"sgd": grad, "momentum": buffer, "nesterov": grad + 0.8 * buffer}[name]
        p = p - 0.1 * step
    np.testing.assert_allclose(run(config)["kernel"], p, rtol=1e-5)


def test_rmsprop_is_pytorchs():
    """torch.optim.RMSprop: v = a v + (1 - a) g^2; p -= lr g / (sqrt(v) + eps)."""
    config = Optim(name="rmsprop", learning_rate=0.1, rms_decay=0.9, eps=1e-2)
    p, square = np.asarray(PARAMS["bias"], np.float64), 0.0
    for _ in range(3):
        square = 0.9 * square + 0.1 * p**2
        p = p - 0.1 * p / (np.sqrt(square) + 1e-2)
    np.testing.assert_allclose(run(config)["bias"], p, rtol=1e-5)


def test_adamw_is_pytorchs():
    """torch.optim.AdamW: p -= lr wd p; p -= lr m_hat / (sqrt(v_hat) + eps)."""
    config = Optim(name="adamw", learning_rate=0.1, weight_decay=0.2, b2=0.99, eps=1e-3)
    p, mean, square = np.asarray(PARAMS["kernel"], np.float64), 0.0, 0.0
    for t in range(1, 4):
        mean = 0.9 * mean + 0.1 * p
        square = 0.99 * square + 0.01 * p**2
        root = np.sqrt(square / (1 - 0.99**t)) + 1e-3
        p = p - 0.1 * 0.2 * p - 0.1 * mean / (1 - 0.9**t) / root
    np.testing.assert_allclose(run(config)["kernel"], p, rtol=1e-5)


def test_clipping_is_by_the_norm_of_everything():
    config = Optim(name="sgd", learning_rate=1.0, clip_norm=0.5)
    norm = float(optax.tree.norm(PARAMS))
    moved = jax.tree.map(jnp.subtract, PARAMS, run(config, num_steps=1))
    assert float(optax.tree.norm(moved)) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(moved["bias"], PARAMS["bias"] * 0.5 / norm, rtol=1e-5)


def test_accumulation_updates_with_the_mean_gradient():
    config = Optim(name="momentum", learning_rate=0.1, accumulate_steps=3)
    tx = optim.create_optimizer(config, optim.create_schedule(config, 9))
    grads = [jax.tree.map(lambda p, i=i: p * i, PARAMS) for i in (1.0, 2.0, 6.0)]
    state, params = tx.init(PARAMS), PARAMS
    for grad in grads[:2]:
        updates, state = tx.update(grad, state, params)
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(updates))
    updates, state = tx.update(grads[2], state, params)
    np.testing.assert_allclose(updates["bias"], -0.1 * 3.0 * PARAMS["bias"], rtol=1e-5)


def test_accumulation_slows_the_schedule():
    config = Optim(learning_rate=1.0, schedule="cosine", accumulate_steps=4)
    schedule = optim.create_schedule(config, 400)
    assert float(schedule(50)) == pytest.approx(0.5)
    assert float(schedule(100)) == pytest.approx(0.0, abs=1e-6)
    config = Optim(
        learning_rate=1.0, schedule="step", decay_every=40, accumulate_steps=4
    )
    schedule = optim.create_schedule(config, 400)
    assert float(schedule(9)) == 1.0 and float(schedule(10)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"schedule": "constant"}, {0: 1.0, 99: 1.0}),
        ({"schedule": "linear"}, {0: 1.0, 50: 0.5, 100: 0.0}),
        ({"schedule": "linear", "final_factor": 0.2}, {100: 0.2}),
        ({"schedule": "cosine"}, {0: 1.0, 25: 0.5 + 0.5**1.5, 50: 0.5, 100: 0.0}),
        ({"schedule": "cosine", "final_factor": 0.1}, {100: 0.1}),
        (
            {"schedule": "step", "decay_every": 30, "decay_factor": 0.1},
            {0: 1.0, 29: 1.0, 30: 0.1, 60: 0.01},
        ),
        ({"schedule": "constant", "warmup_steps": 10}, {0: 0.0, 5: 0.5, 10: 1.0}),
        ({"schedule": "cosine", "warmup_steps": 20}, {10: 0.5, 20: 1.0, 60: 0.5}),
        ({"schedule": "one_cycle"}, {0: 0.04, 30: 1.0, 100: 4e-6}),
    ],
)
def test_schedules(settings, expected):
    schedule = optim.create_schedule(Optim(learning_rate=1.0, **settings), 100)
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-4, abs=1e-6), step


def test_every_schedule_is_tested():
    marks = test_schedules.pytestmark[0].args[1]
    assert {row[0]["schedule"] for row in marks} == set(optim.SCHEDULES)
