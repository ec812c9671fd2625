"""Checkpoints: bitwise, asynchronous, and any damage is noticed and named."""

import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax import checkpoint
from tljax.checkpoint import Checkpoints
from tljax.errors import CheckpointError, NonFiniteError
from tljax.state import TrainState

CONFIG = types.SimpleNamespace(keep_checkpoints=2)
META = {"config": {"seed": 3}, "class_names": ["a", "b"], "started_from": "scratch"}
SHARDING = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def make_state(seed: int) -> TrainState:
    key = jax.random.key(seed)
    kernel = jax.random.normal(key, (3, 5))
    return TrainState(
        step=jnp.int32(seed),
        params={"conv1": {"kernel": kernel}},
        batch_stats={"bn1": {"mean": jnp.arange(5.0)}},
        opt_state=({"trace": kernel * 2},),
        ema={},
        key=key,
    )


def assert_same(first, second):
    """Bitwise, typed keys included."""
    data = lambda leaf: (  # noqa: E731
        jax.random.key_data(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(data(a), data(b)), first, second
    )


@pytest.fixture
def saved(tmp_path):
    """Returns the folder of one committed step."""
    with Checkpoints(tmp_path / "checkpoints", CONFIG) as checkpoints:
        checkpoints.save(7, make_state(7), META, {})
    return checkpoint.latest(tmp_path / "checkpoints")


def test_what_is_saved_comes_back_bitwise(saved):
    assert saved.name == "7"
    state = checkpoint.restore(saved, make_state(0), SHARDING)
    assert_same(state, make_state(7))
    assert checkpoint.read_meta(saved) == META
    variables = checkpoint.restore_variables(saved)
    assert set(variables) == {"params", "batch_stats"}
    assert_same(variables, make_state(7).variables)


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
    """The buffers saved are overwritten by the next step before the save has landed."""
    state = {"w": jnp.arange(3_000_000.0)}
    step = jax.jit(
        lambda s: jax.tree.map(lambda leaf: leaf * 0 - 1, s), donate_argnums=0
    )
    state = jax.tree.map(lambda leaf: leaf + 0, state)
    expected = np.array(state["w"])
    with Checkpoints(tmp_path / "checkpoints", CONFIG) as checkpoints:
        checkpoints.save(1, state, META, {})
        state = step(state)
        jax.block_until_ready(state)
    folder = checkpoint.latest(tmp_path / "checkpoints")
    restored = checkpoint.restore(folder, state, SHARDING)
    np.testing.assert_array_equal(restored["w"], expected)


def test_the_latest_and_the_best_are_kept(tmp_path):
    directory = tmp_path / "checkpoints"
    accuracies = [0.5, 0.9, 0.6, None, 0.7]
    for first in (0, 3):  # The second manager must read what the first one wrote.
        with Checkpoints(directory, CONFIG) as checkpoints:
            for step in range(first, min(first + 3, len(accuracies))):
                accuracy = accuracies[step]
                metrics = {} if accuracy is None else {"score": accuracy}
                checkpoints.save(step, make_state(step), META, metrics)
                checkpoints.wait()
            best = checkpoints.best_step()
            assert not checkpoints.is_best({"score": max(accuracies[:3])})
            assert checkpoints.is_best({"score": 0.91})
    assert best == 1
    assert sorted(path.name for path in directory.iterdir()) == ["1", "3", "4"]


def files_of(folder):
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )


def test_every_damaged_file_is_named(saved, tmp_path):
    """A bit flipped, half a file, an empty file, no file: each file, each time."""
    flip = lambda data, at: data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]  # noqa: E731
    damages = {
        "first bit": lambda data: flip(data, 0),
        "middle bit": lambda data: flip(data, len(data) // 2),
        "last bit": lambda data: flip(data, len(data) - 1),
        "half": lambda data: data[: len(data) // 2],
        "empty": lambda data: b"",
        "missing": lambda data: None,
    }
    names = [name for name in files_of(saved) if name not in UNHASHED]
    assert len(names) > 8
    for name in names:
        for kind, damage in damages.items():
            copy = tmp_path / "copy" / "7"
            shutil.copytree(saved, copy)
            data = damage((copy / name).read_bytes())
            if data is None:
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(data)
            before = files_of(copy)
            for read in (
                lambda copy=copy: checkpoint.restore(copy, make_state(0), SHARDING),
                lambda copy=copy: checkpoint.restore_variables(copy),
            ):
                with pytest.raises(CheckpointError) as raised:
                    read()
                message = str(raised.value)
                assert "step 7 is damaged" in message, (kind, name)
                assert str(copy) in message and "\n" not in message
            assert name in message or name == checkpoint.MANIFEST, (kind, name, message)
            assert files_of(copy) == before
            shutil.rmtree(copy)


# Orbax's own notes on the commit: the state is read without them.
UNHASHED = {"_CHECKPOINT_METADATA", "commit_success.txt"}


@pytest.mark.parametrize("name", sorted(UNHASHED))
@pytest.mark.parametrize("content", [b"", b"\xff{", None])
def test_orbaxs_own_notes_are_not_needed(saved, name, content):
    path = saved / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert_same(checkpoint.restore(saved, make_state(0), SHARDING), make_state(7))
    with Checkpoints(saved.parent, CONFIG) as checkpoints:
        checkpoints.save(8, make_state(8), META, {"score": 0.5})
        checkpoints.wait()
        assert checkpoints.best_step() == 8


def test_a_state_of_other_shapes_is_refused(saved):
    state = make_state(0)
    other = state.replace(params={"conv1": {"kernel": jnp.zeros((4, 5))}})
    with pytest.raises(CheckpointError) as raised:
        checkpoint.restore(saved, other, SHARDING)
    assert "params/conv1/kernel (3, 5), not (4, 5)" in str(raised.value)
    renamed = state.replace(params={"conv2": {"kernel": jnp.zeros((3, 5))}})
    with pytest.raises(CheckpointError) as raised:
        checkpoint.restore(saved, renamed, SHARDING)
    for words in ("step 7", "- params/conv1/kernel", "+ params/conv2/kernel (3, 5)"):
        assert words in str(raised.value)


def full(path):
    """Stands for a disk that has no space for the manifest."""
    raise OSError(28, "No space left on device")


def test_a_save_that_fails_is_said_at_once_and_leaves_nothing(tmp_path, monkeypatch):
    directory = tmp_path / "checkpoints"
    with Checkpoints(directory, CONFIG) as checkpoints:
        checkpoints.save(1, make_state(1), META, {})
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "sha256", full)
            checkpoints.save(2, make_state(2), META, {})
            with pytest.raises(CheckpointError, match=r"step 2 could not .* MB free\)"):
                checkpoints.wait()
        assert [path.name for path in directory.iterdir()] == ["1"]
        checkpoints.save(3, make_state(3), META, {})
    assert checkpoint.latest(directory).name == "3"


def test_poll_tells_of_a_failed_save(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "sha256", full)
    with Checkpoints(tmp_path / "checkpoints", CONFIG) as checkpoints:
        checkpoints.save(1, make_state(1), META, {})
        with pytest.raises(CheckpointError, match="No space left on device"):
            while checkpoints.saving:
                checkpoints.poll()
        checkpoints.poll()


def test_a_save_that_fails_last_is_told_but_hides_no_other_error(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "sha256", full)
    with (
        pytest.raises(CheckpointError, match="No space left on device"),
        Checkpoints(tmp_path / "checkpoints", CONFIG) as checkpoints,
    ):
        checkpoints.save(1, make_state(1), META, {})
    with (
        pytest.raises(NonFiniteError),
        Checkpoints(tmp_path / "checkpoints", CONFIG) as checkpoints,
    ):
        checkpoints.save(1, make_state(1), META, {})
        raise NonFiniteError("step 2")


def test_damage_to_an_older_step_is_named_too(tmp_path):
    directory = tmp_path / "checkpoints"
    with Checkpoints(directory, CONFIG) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), META, {"score": 0.5})
    (directory / "1" / "metrics" / "metrics").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"step 1 is damaged: .*metrics differs"):
        Checkpoints(directory, CONFIG)


def test_an_unfinished_save_is_no_checkpoint(saved):
    half = saved.with_name("9.orbax-checkpoint-tmp")
    shutil.copytree(saved, half)
    assert checkpoint.latest(saved.parent) == saved
    with Checkpoints(saved.parent, CONFIG):
        assert not half.exists()


def test_nothing_saved(tmp_path):
    assert checkpoint.latest(tmp_path / "nowhere") is None
