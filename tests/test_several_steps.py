"""Several steps in one call: the numbers of single calls, whichever way they fall."""

import dataclasses
import functools
import json

import gans
import jax
import numpy as np
import pytest
import tiny_model
from phases import everything

from tljax import checkpoint, metrics, optim, parallel, train
from tljax.config import Autoencoder, Config, Model
from tljax.data.transforms import Transform
from tljax.errors import NonFiniteError
from tljax.plan import Row
from tljax.run import call_lengths, prepare
from tljax.tasks import autoencoder as autoencoder_task
from tljax.tasks import classification


def stack(rows):
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def assert_equal(first, second):
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, first, second)


def classifier():
    """Returns (state, step) of a tiny network, whose batches are of tiny_model."""
    course = tiny_model.Course([Row("")], name="momentum", learning_rate=0.05)
    return course.begin(), course.step(course.plan.phases[0]).__wrapped__


def autoencoder():
    config = Config(
        task="autoencoder",
        model=Model(name="tied_autoencoder"),
        autoencoder=Autoencoder(hidden=(5,)),
    )
    return parts_of(autoencoder_task, config)


def gan():
    config = gans.make_config()
    _, state, step = gans.make_parts(config)
    return state, step


def parts_of(task, config):
    """Returns (state, step) of a task in which everything trains."""
    model = task.create_model(config, 3, (8, 8, 1))
    schedule = optim.create_schedule(config.optim, 10)
    phase = everything(model, (8, 8, 1))
    tx = task.create_optimizer(config, schedule, {"row0": Row("")})
    parts = {"model": model, "tx": tx, "phase": phase, "config": config}
    state = task.create_state(jax.random.key(0), (8, 8, 1), **parts)
    step = functools.partial(
        task.train_step, schedule=schedule, transform=Transform(), **parts
    )
    return state, step


@pytest.mark.parametrize(
    "make", [classifier, autoencoder, pytest.param(gan, marks=pytest.mark.slow)]
)
def test_a_call_takes_the_steps_that_are_asked_of_it(make):
    """Three at once or one by one, bit for bit; and those of the program of one."""
    mesh = parallel.create_mesh("cpu", 1)
    state, step = make()
    batches = [tiny_model.batch(number, size=4) for number in range(3)]
    single, _ = parallel.compile_step(step, state, batches[0], mesh=mesh)
    expected = state
    for batch in batches:
        expected, _ = single(expected, batch)

    given = stack(batches) | {"steps": np.int32(3)}
    several, _ = parallel.compile_step(step, state, given, mesh=mesh, steps_per_call=3)
    found, told = several(state, given)
    found = jax.device_get(found.replace(key=0))
    assert int(found.step) == 3
    one_by_one = state
    for place, batch in enumerate(batches):
        given = stack([batch] * 3) | {"steps": np.int32(1)}
        one_by_one, metrics = several(one_by_one, given)
        assert metrics["loss"].tolist() == [told["loss"][place], 0, 0]
    assert_equal(found, jax.device_get(one_by_one.replace(key=0)))
    jax.tree.map(
        # The compiler sums in another order inside of a loop.
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
        found,
        jax.device_get(expected.replace(key=0)),
    )


def test_four_devices_take_several_steps_as_one_does():
    """Each batch is divided among the devices, and the state takes its buffers over."""
    state, step = classifier()
    batches = [tiny_model.batch(number, size=8) for number in range(2)]
    found = []
    for num_devices in (1, 4):
        mesh = parallel.create_mesh("cpu", num_devices)
        placed = jax.device_put(state, parallel.replicated(mesh), may_alias=False)
        sent = parallel.shard_batch(stack(batches) | {"steps": np.int32(2)}, mesh)
        program, _ = parallel.compile_step(
            step, state, sent, mesh=mesh, steps_per_call=2, donate_state=True
        )
        now, told = program(placed, sent)
        found.append(jax.device_get((now.variables, told)))
        assert placed.params["fc"]["bias"].is_deleted()
        assert sent["image"].sharding.spec == jax.sharding.PartitionSpec(None, "data")
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, *found)


def test_calls_end_where_something_is_done_between_steps(tiny_config):
    config = tiny_config(num_steps=23, eval_every=10, checkpoint_every=8)
    config = dataclasses.replace(config, steps_per_call=5)
    run = prepare(config)
    lengths = list(call_lengths(run, 0))
    assert lengths == [5, 3, 2, 5, 1, 4, 3]
    assert list(call_lengths(run, 9)) == [1, 5, 1, 4, 3]
    assert list(call_lengths(run, 23)) == []


def lines(workdir):
    """Returns the lines of metrics.jsonl without what measures time."""
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{**line, "images_per_second": 0} for line in found]


@pytest.mark.parametrize(
    "cache", ["device", pytest.param("disk", marks=pytest.mark.slow)]
)
def test_a_run_in_calls_is_the_run(tiny_config, tmp_path, monkeypatch, cache):
    """Calls of three steps and of two, over two phases, every step logged."""
    make = lambda config, num_classes, shape: tiny_model.TinyNet(num_classes)  # noqa: E731
    monkeypatch.setattr(classification, "create_model", make)
    config = tiny_config(num_steps=7, eval_every=4, checkpoint_every=0)
    config.data.cache = cache
    config.plan.rows = (Row("fc/"), Row("", unfreeze_at=2))
    results = [
        train.train_and_evaluate(
            dataclasses.replace(config, steps_per_call=size), tmp_path / str(size)
        )
        for size in (2, 3)
    ]
    assert results[0]["confusion_matrix"] == results[1]["confusion_matrix"]
    assert lines(tmp_path / "2") == lines(tmp_path / "3")
    numbered = [line["step"] for line in lines(tmp_path / "2")]
    assert numbered == [1, 2, 3, 4, 4, 5, 6, 7, 7, 7]
    folders = [tmp_path / name / "checkpoints" / "7" for name in "23"]
    assert_equal(*map(checkpoint.restore_variables, folders))


def test_the_step_within_a_call_that_is_not_finite_is_named():
    class Quiet:
        terminal = type("", (), {"advance": lambda *args: None})

    told = {"loss": [1.0, np.nan, np.nan], "grad_norm": [2.0] * 3, "finite": [1, 0, 0]}
    recorder = metrics.Recorder(Quiet(), metrics.Speed(4), 0, warn=None)
    recorder.push(8, {name: np.array(row) for name, row in told.items()}, count=3)
    with pytest.raises(NonFiniteError, match="step 7: loss nan"):
        recorder.flush()
