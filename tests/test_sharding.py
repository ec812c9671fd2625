"""A state of which each device holds a share: the same numbers, less memory."""

import dataclasses
import functools
import re
import shutil

import jax
import numpy as np
import pytest
import tiny_model
from jax.sharding import PartitionSpec

from tljax import checkpoint, parallel, sharding, train
from tljax.config import validate
from tljax.errors import ConfigError
from tljax.plan import Row
from tljax.tasks import classification

close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 3, 64, 256), (None, None, None, "data")),
        ((3, 3, 256, 64), (None, None, "data")),
        ((8, 8), (None, "data")),
        ((4, 6), ("data",)),
        ((7,), ()),
        ((), ()),
        ((0,), ()),
    ],
)
def test_an_array_is_divided_along_its_longest_axis_that_can_be(shape, axes):
    assert sharding.spec_of(shape, 4) == PartitionSpec(*axes)


def test_a_shared_state_takes_the_same_steps():
    course = tiny_model.Course([Row("")], name="momentum", ema_decay=0.9)
    state = course.begin()
    step = course.step(course.plan.phases[0]).__wrapped__
    mesh = parallel.create_mesh("cpu", 4)
    batches = [tiny_model.batch(number, size=8) for number in range(3)]
    found = []
    for shared in (False, True):
        placed = sharding.placements(state, mesh, shared)
        now = parallel.place(course.begin(), placed)
        program, _ = parallel.compile_step(
            step, state, batches[0], mesh=mesh, donate_state=True, shard_params=shared
        )
        for batch in batches:
            now, told = program(now, parallel.shard_batch(batch, mesh))
            jax.block_until_ready(told)
        assert jax.tree.map(lambda leaf: leaf.sharding, now) == placed
        kernel = now.params["conv1"]["kernel"]
        assert kernel.addressable_shards[0].data.shape[-1] == (1 if shared else 4)
        memory = program.memory_analysis().argument_size_in_bytes
        held = sharding.bytes_on_a_device(state, placed)
        found.append((jax.device_get((now.replace(key=0), told)), memory, held))
    (whole, memory, held), (parts, less_memory, less_held) = found
    jax.tree.map(close, whole, parts)
    assert memory - less_memory == held - less_held > 0.5 * held


@pytest.mark.slow
def test_a_run_goes_on_with_whole_states_or_shared_ones(
    tiny_config, tmp_path, monkeypatch, capsys
):
    make = lambda config, num_classes, shape: tiny_model.TinyNet(num_classes)  # noqa: E731
    monkeypatch.setattr(classification, "create_model", make)
    config = tiny_config(num_devices=4, eval_every=0)
    config.plan.rows = (Row("fc/"), Row("", unfreeze_at=1, batch_norm="recalibrate"))
    train.train_and_evaluate(config, tmp_path / "whole")
    shared = dataclasses.replace(config, shard_params=True)
    states = [checkpoint.restore_variables(tmp_path / "whole/checkpoints/4")]
    workdir = tmp_path / "shared"
    # From the start, from a shared state, from a shared one to a whole one.
    for settings in (shared, shared, config):
        train.train_and_evaluate(settings, workdir)
        states.append(checkpoint.restore_variables(workdir / "checkpoints/4"))
        shutil.rmtree(workdir / "checkpoints/4")
        (workdir / "result.json").unlink()
    for state in states[1:]:
        jax.tree.map(close, states[0], state)
    out = capsys.readouterr().out
    shares = re.findall(r"each of 4 devices holds 0\.0 MB, (\d+)%", out)
    # A quarter, and what cannot be divided by four; of a tiny network that is much.
    assert len(shares) == 2 and all(25 < int(share) < 75 for share in shares), shares
    assert out.count("resumed at step 2") == 2


def test_pmap_has_whole_states(tiny_config):
    config = tiny_config(shard_params=True, compile="pmap")
    with pytest.raises(ConfigError, match=r"shard_params cannot .*compile = 'pmap'"):
        validate(config)
