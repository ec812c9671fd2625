"""Optimisers of the rows of a plan, L2-SP, SAM and the average, written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_model import NUM_CLASSES, Course, TinyNet, batch

from tljax import optim
from tljax import state as state_lib
from tljax.config import Optim
from tljax.plan import Row

KERNEL = jnp.array([[1.0, -2.0], [0.5, 3.0]])
PARAMS = {
    "row0": {"fc": {"kernel": 2 * KERNEL, "bias": jnp.array([1.0, 2.0])}},
    "row1": {"conv1": {"kernel": KERNEL}, "bn1": {"scale": jnp.array([1.0, 0.5])}},
}


def run(config, rows, params=PARAMS, num_steps=3, count=100):
    """Returns float64 params after steps down the gradient of |params|^2 / 2."""
    tx = optim.create_optimizer(config, optim.create_schedule(config, count), rows)
    state = tx.init(params)
    for _ in range(num_steps):
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)
    return params


def written_out(value, rates, decay=0.0, momentum=0.0, start=0.0):
    """Returns a value after steps of momentum with coupled decay towards `start`."""
    value, buffer = np.asarray(value, np.float64), 0.0
    for rate in rates:
        buffer = momentum * buffer + value + decay * (value - start)
        value = value - rate * buffer
    return value


close = functools.partial(np.testing.assert_allclose, rtol=1e-5)


def test_a_row_has_a_learning_rate_and_a_decay_of_its_own():
    config = Optim(learning_rate=0.1, momentum=0.8, weight_decay=0.05)
    rows = {"row0": Row("fc"), "row1": Row("", learning_rate=0.3, weight_decay=0.5)}
    found = run(config, rows)
    head, rest = found["row0"]["fc"], found["row1"]
    start = PARAMS["row0"]["fc"]
    close(head["kernel"], written_out(start["kernel"], [0.1] * 3, 0.05, 0.8))
    close(head["bias"], written_out(start["bias"], [0.1] * 3, 0, 0.8))
    close(rest["conv1"]["kernel"], written_out(KERNEL, [0.03] * 3, 0.5, 0.8))
    close(rest["bn1"]["scale"], written_out([1.0, 0.5], [0.03] * 3, 0, 0.8))


def test_a_row_without_decay_in_a_run_with_decay():
    config = Optim(name="sgd", learning_rate=0.1, weight_decay=0.5)
    found = run(config, {"row0": Row("fc", weight_decay=0.0), "row1": Row("")})
    close(found["row0"]["fc"]["kernel"], written_out(2 * KERNEL, [0.1] * 3))
    close(found["row1"]["conv1"]["kernel"], written_out(KERNEL, [0.1] * 3, 0.5))


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_a_row_that_joins_is_at_the_schedule_of_the_run(schedule, every):
    """At step 4 of 12 warm-up is over, and the cosine is on its way down."""
    config = Optim(
        learning_rate=0.1,
        schedule=schedule,
        decay_every=6,
        warmup_steps=6 if schedule == "cosine" else 0,
        accumulate_steps=every,
        momentum=0.5,
    )
    rate_of = optim.create_schedule(config, 12)
    row = Row("", unfreeze_at=4, learning_rate=0.5)
    params = {"row1": {"conv1": {"kernel": KERNEL}}}
    found = run(config, {"row1": row}, params, num_steps=6, count=12)
    rates = [0.5 * float(rate_of(update)) for update in range(4 // every, 10 // every)]
    assert len(set(rates)) > 1 or schedule == "constant"
    expected = written_out(KERNEL, rates, momentum=0.5)
    close(found["row1"]["conv1"]["kernel"], expected)


def test_adams_moments_begin_when_a_row_joins():
    """Its first step is as long as the rate: m_hat / sqrt(v_hat) = sign(g)."""
    config = Optim(name="adam", learning_rate=0.1)
    params = {"row1": {"conv1": {"kernel": KERNEL}}}
    found = run(config, {"row1": Row("", unfreeze_at=50)}, params, num_steps=1)
    close(found["row1"]["conv1"]["kernel"], KERNEL - 0.1 * np.sign(KERNEL))


def test_l2_sp_with_coupled_decay():
    """The gradient of |w - w0|^2 * decay / 2 is added; `fc` goes to zero."""
    config = Optim(
        learning_rate=0.1, momentum=0.8, weight_decay=0.4, decay_towards="start"
    )
    found = run(config, {"row0": Row("fc"), "row1": Row("")})
    expected = written_out(KERNEL, [0.1] * 3, 0.4, 0.8, start=np.asarray(KERNEL))
    close(found["row1"]["conv1"]["kernel"], expected)
    close(found["row1"]["bn1"]["scale"], written_out([1.0, 0.5], [0.1] * 3, 0, 0.8))
    head = written_out(2 * KERNEL, [0.1] * 3, 0.4, 0.8)
    close(found["row0"]["fc"]["kernel"], head)


def test_l2_sp_with_decoupled_decay():
    """p -= lr * wd * (p - p0) beside Adam's step, which does not see it."""
    config = Optim(
        name="adamw", learning_rate=0.1, weight_decay=0.4, decay_towards="start"
    )
    found = run(config, {"row0": Row("fc"), "row1": Row("", learning_rate=0.5)})
    expected = {}
    for name, p, rate, to in (
        ("fc", 2 * np.asarray(KERNEL, np.float64), 0.1, 0.0),
        ("conv1", np.asarray(KERNEL, np.float64), 0.05, np.asarray(KERNEL)),
    ):
        mean, square = 0.0, 0.0
        for t in range(1, 4):
            mean, square = 0.9 * mean + 0.1 * p, 0.999 * square + 0.001 * p**2
            step = mean / (1 - 0.9**t) / np.sqrt(square / (1 - 0.999**t))
            p = p - rate * (step + 0.4 * (p - to))
        expected[name] = p
    close(found["row0"]["fc"]["kernel"], expected["fc"])
    close(found["row1"]["conv1"]["kernel"], expected["conv1"], rtol=1e-4)


def test_clipping_is_by_the_norm_over_all_rows():
    config = Optim(name="sgd", learning_rate=1.0, clip_norm=0.5)
    found = run(config, {"row0": Row("fc"), "row1": Row("")}, num_steps=1)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(PARAMS)))
    for leaf, now in zip(jax.tree.leaves(PARAMS), jax.tree.leaves(found), strict=True):
        close(now, leaf * (1 - 0.5 / norm))


def test_sam_is_foret_et_als():
    """e = radius * g / |g| over all rows; the step is of the gradient at w + e.

    The statistics of BatchNorm are those of the forward pass at w.
    """
    course = Course(
        [Row("fc"), Row("conv2|bn2"), Row("", train=False)],
        name="sgd",
        sam_radius=0.5,
        learning_rate=0.1,
    )
    state = course.begin()
    ((phase, before, after),) = course.run(state, 0, 1)
    images = (batch(0)["image"].astype(np.float32) / 255 - 0.5) / 0.5
    model = TinyNet(frozen_statistics=phase.frozen_statistics)

    def loss(trained):
        logits, updated = model.apply(
            {"params": before.params | trained, "batch_stats": before.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        targets = jax.nn.one_hot(batch(0)["label"], NUM_CLASSES)
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), -1)), updated

    grad = jax.jit(jax.grad(loss, has_aux=True))
    trained = {name: before.params[name] for name in ("fc", "conv2", "bn2")}
    there, updated = grad(trained)
    length = optax.tree.norm(there)
    uphill = jax.tree.map(lambda w, g: w + 0.5 * g / length, trained, there)
    expected = jax.tree.map(lambda w, g: w - 0.1 * g, trained, grad(uphill)[0])
    plain = jax.tree.map(lambda w, g: w - 0.1 * g, trained, there)
    distance = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), expected, plain)
    assert max(jax.tree.leaves(distance)) > 1e-3
    for name in trained:
        jax.tree.map(
            functools.partial(close, rtol=1e-4, atol=1e-6),
            after.params[name],
            expected[name],
        )
    jax.tree.map(
        functools.partial(close, atol=1e-6), after.batch_stats, updated["batch_stats"]
    )


def test_what_has_trained_goes_on_when_a_row_joins():
    """Its moments and counts are kept; those of what joins are zero."""
    rows = [Row("fc"), Row("conv", unfreeze_at=3), Row("bn", train=False)]
    course = Course(rows, name="adam")
    *_, (_, _, before) = course.run(course.begin(), 0, 3)
    after = course.enter(before, course.plan.phases[1])
    jax.tree.map(
        np.testing.assert_array_equal,
        before.opt_state["row0"],
        after.opt_state["row0"],
    )
    assert optax.tree.norm(after.opt_state["row0"]) > 3
    assert optax.tree.norm(after.opt_state["row1"]) == 0


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_average_rises_to_its_decay(decay):
    """(1 + step) / (10 + step) until that is above the decay."""
    values = np.random.default_rng(0).normal(size=12)
    mean, expected = jnp.float32(2.0), 2.0
    for step, value in enumerate(values):
        now = jnp.float32(value)
        optim = Optim(ema_decay=decay)
        mean = state_lib.average(mean, now, optim, jnp.int32(step))
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * value
        assert float(mean) == pytest.approx(expected, rel=1e-5)


def test_the_average_of_what_does_not_change_is_kept_bit_by_bit():
    values = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32)
    mean = values
    for step in range(20):
        optim = Optim(ema_decay=0.99)
        mean = state_lib.average(mean, values, optim, jnp.int32(step))
    np.testing.assert_array_equal(mean, values)


def test_the_average_counts_updates_and_not_the_steps_between():
    values = np.random.default_rng(0).normal(size=9)
    optim = Optim(ema_decay=0.5, accumulate_steps=3)
    mean, expected = jnp.float32(2.0), 2.0
    for step, value in enumerate(values):
        now = jnp.float32(value)
        mean = state_lib.average(mean, now, optim, jnp.int32(step))
        if step % 3 == 2:
            kept = min(0.5, (1 + step // 3) / (10 + step // 3))
            expected = kept * expected + (1 - kept) * value
        assert float(mean) == pytest.approx(expected, rel=1e-5)


def test_the_average_of_a_row_begins_at_its_weights_when_it_joins():
    course = Course(
        [Row("fc"), Row("conv", unfreeze_at=2), Row("bn", train=False)],
        num_steps=5,
        ema_decay=0.9,
        learning_rate=0.5,
    )
    expected = {}
    for number, (_, before, after) in enumerate(course.run(course.begin(), 0, 5)):
        kept = min(0.9, (1 + number) / (10 + number))
        assert set(after.ema["params"]) == (
            {"row0"} if number < 2 else {"row0", "row1"}
        )
        for row, name in (("row0", "fc"), ("row1", "conv1")):
            if row in after.ema["params"]:
                first = expected.get(name, np.float64(before.params[name]["kernel"]))
                now = np.float64(after.params[name]["kernel"])
                expected[name] = kept * first + (1 - kept) * now
                close(after.ema["params"][row][name]["kernel"], expected[name])
        for layer in ("bn1", "bn2"):
            jax.tree.map(
                np.testing.assert_array_equal,
                after.ema["batch_stats"][layer],
                after.batch_stats[layer],
            )
    joined = after.averaged["params"]
    np.testing.assert_array_equal(joined["bn1"]["scale"], after.params["bn1"]["scale"])
    close(joined["conv1"]["kernel"], expected["conv1"])
    assert not np.allclose(joined["conv1"]["kernel"], after.params["conv1"]["kernel"])
