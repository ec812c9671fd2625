"""Models that train side by side do what each would do alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import label_report, side_by_side
from benchmarks.label_efficiency import RATES, choose_rates
from tljax.config import Autoencoder, Config, Data, Model, Optim
from tljax.data import sources
from tljax.models import lowering
from tljax.run import prepare

SEEDS = (3, 4)
STEPS = 5


@pytest.fixture(scope="module")
def run():
    return prepare(
        Config(
            task="autoencoder",
            num_steps=STEPS,
            num_devices=1,
            model=Model(name="tied_autoencoder"),
            data=Data(source="digits", batch_size=8),
            optim=Optim(name="adam", learning_rate=0.01, schedule="cosine"),
            autoencoder=Autoencoder(hidden=(4,)),
        )
    )


@pytest.fixture(scope="module")
def stored():
    digits = sources.load_digits("", None).splits["train"]
    return {"image": jnp.asarray(digits.images), "label": jnp.asarray(digits.labels)}


@pytest.mark.slow
def test_each_model_trains_as_alone(run, stored):
    places = np.arange(2 * STEPS * 8).reshape(2, STEPS, 8)
    states = side_by_side.create_states(run, SEEDS)
    factors = np.array([1.0, 0.5], np.float32)
    args = states, stored, places, factors
    found, losses = side_by_side.compile_steps(run, *args)(*args)
    for n, seed in enumerate(SEEDS):
        expected, told = alone(run, stored, seed, places[n], factors[n])
        assert_close(jax.tree.map(lambda leaf, n=n: leaf[n], found.params), expected)
        np.testing.assert_allclose(losses[n], told, rtol=1e-5)


def alone(run, stored, seed, places, factor):
    run.config.optim.learning_rate = 0.01 * float(factor)
    single = prepare(run.config)
    run.config.optim.learning_rate = 0.01
    state = run.task.create_state(
        jax.random.key(seed),
        run.image_shape,
        model=run.model,
        tx=single.tx,
        phase=run.plan.phases[0],
        config=run.config,
    )
    losses = []
    step = jax.jit(
        functools.partial(
            run.task.train_step,
            model=run.model,
            tx=single.tx,
            schedule=single.schedule,
            phase=run.plan.phases[0],
            transform=run.transform,
            config=run.config,
        )
    )
    for rows in places:
        batch = {name: values[rows] for name, values in stored.items()}
        state, metrics = step(state, batch)
        losses.append(metrics["loss"])
    return state.params, np.stack(losses)


def assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        found,
        expected,
    )


def test_every_model_sees_its_own_images(run, stored):
    number = side_by_side.AT_ONCE + 3
    places = np.stack([np.arange(number), np.arange(number) + 100])
    factors = jnp.array([1.0, 10.0])

    def total(factor, seen):
        return factor * jnp.sum(seen, axis=(1, 2, 3))

    found = side_by_side.over_images(run, total, factors, stored["image"], places)
    images = np.asarray(stored["image"], float)[places] / 255
    expected = factors[:, None] * ((images - 0.5) / 0.5).sum((2, 3, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride, size", [(1, 3), (2, 4)])
def test_convolutions_of_models_side_by_side_are_products(stride, size):
    padding = ((size - 1) // 2,) * 2
    window = lowering.Window((size, size), stride, (padding, padding))
    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (2, 4, 8, 8, 3))
    kernels = jax.random.normal(keys[1], (2, size, size, 3, 5))

    def loss(images, kernel):
        return jnp.sum(jnp.sin(lowering.convolve(images, kernel, window)))

    # Another function object each time: what has been traced is not traced again.
    def gradients():
        return jax.value_and_grad(lambda *args: loss(*args), argnums=(0, 1))

    with lowering.side_by_side(), lowering.inside_loop():
        both = jax.make_jaxpr(jax.vmap(gradients()))(images, kernels)
        found = jax.jit(jax.vmap(gradients()))(images, kernels)
    assert "conv_general_dilated" not in str(both)
    for n in range(2):
        expected = gradients()(images[n], kernels[n])
        jax.tree.map(
            lambda a, b, n=n: np.testing.assert_allclose(a[n], b, rtol=1e-4, atol=1e-4),
            found,
            expected,
        )


def test_places_come_in_epochs():
    rng = np.random.default_rng(0)
    places = np.array([5, 7, 9])
    drawn = side_by_side.draw_places(rng, places, steps=5, batch_size=3)
    np.testing.assert_array_equal(np.sort(drawn), np.tile(places, (5, 1)))


def test_rates_are_chosen_by_validation_alone():
    accuracies = np.zeros((1, 2, len(RATES), 2, 3))
    accuracies[0, 0, 1, 0] = 0.5  # The first backbone: the second rate.
    accuracies[0, 0, 2, 1] = 0.5
    accuracies[0, 1] = np.arange(len(RATES))[:, None, None]
    accuracies[0, 1, 0] = 10  # Better on the test, and not taken.
    chosen, rates = choose_rates(accuracies)
    np.testing.assert_array_equal(chosen[0], [[1, 1, 1], [2, 2, 2]])
    np.testing.assert_array_equal(rates, [[RATES[1], RATES[2]]])


def test_rows_have_intervals_and_gains(tmp_path):
    rates = np.array([0.01])
    found = {
        name: {"probe": values, "fine_tune": values, "rates": rates}
        for name, values in (
            ("scratch", np.array([[0.4, 0.5, 0.6]])),
            ("masked", np.array([[0.8, 0.9, 1.0]])),
        )
    }
    rows = label_report.rows_of(found, ["5"])
    # Half of it is t(0.975, 2) * 0.1 / sqrt(3) = 4.3027 * 0.057735.
    assert rows[0]["accuracy_low"] == pytest.approx(0.5 - 0.2484, abs=1e-4)
    assert rows[1]["gain"] == rows[1]["gain_low"] == pytest.approx(0.4)
    assert not label_report.is_apart(rows[1], rows)  # 0.6516 is below 0.7484.
    assert rows[-1]["learning_rate"] == 0.01
    label_report.write(tmp_path, rows, ["5"])
    assert (tmp_path / "label_efficiency.png").stat().st_size > 1000
    assert len((tmp_path / "label_efficiency.csv").read_text().splitlines()) == 5
