"""Whole runs by a plan: interrupted anywhere, averaged, ended by patience."""

import dataclasses
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from test_train import lines
from tiny_model import TinyNet

from tljax import checkpoint, presets, train
from tljax import run as run_lib
from tljax.config import Config, Data, Optim, Plan
from tljax.errors import CheckpointError, Stopped
from tljax.plan import Row
from tljax.start import begin_or_resume
from tljax.tasks import classification


@pytest.fixture(autouse=True)
def tiny_net(monkeypatch):
    """Runs train a TinyNet, which compiles in a moment."""
    monkeypatch.setattr(
        classification,
        "create_model",
        lambda config, number, image_shape=None: TinyNet(number),
    )


def make(rows=(), **settings):
    """Returns the config of a run of six steps that saves each of them."""
    return Config(
        **{
            "num_steps": 6,
            "log_every": 1,
            "eval_every": 2,
            "checkpoint_every": 1,
            "keep_checkpoints": 10,
            "num_devices": 1,
            "data": Data(batch_size=32, labels_per_class=20),
            "optim": Optim(learning_rate=0.05),
            "plan": Plan(rows=tuple(rows)),
            **settings,
        }
    )


def last_state(config, workdir):
    """Returns the leaves of the state that the latest checkpoint holds."""
    run = run_lib.prepare(config, workdir)
    state = begin_or_resume(run, workdir).state
    return jax.device_get(
        jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))
    )


def interrupt(workdir, step, other):
    """Makes `other` what `workdir` was when its run was killed at a step."""
    shutil.copytree(workdir, other)
    (other / "result.json").unlink(missing_ok=True)
    for folder in checkpoint.steps_in(other / "checkpoints"):
        if int(folder.name) > step:
            shutil.rmtree(folder)


def without_times(result):
    """Returns a result without what measures time or memory."""
    gone = ("images_per_second", "compile_seconds", "host_memory_mb")
    return {name: value for name, value in result.items() if name not in gone}


def assert_same(config, result, workdir, other):
    """A run that goes on in `other` ends as that in `workdir` has ended."""
    again = train.train_and_evaluate(config, other)
    assert without_times(again) == without_times(result)
    assert lines(other) == lines(workdir)
    states = last_state(config, workdir), last_state(config, other)
    for one, two in zip(*states, strict=True):
        np.testing.assert_array_equal(one, two)


TWO_PHASES = [
    Row("fc"),
    Row("(conv2|bn2)/", learning_rate=0.5, weight_decay=0.1, unfreeze_at=3),
    Row("", train=False),
]
RICH = Optim(
    name="adam", learning_rate=0.01, schedule="cosine", clip_norm=1.0, ema_decay=0.9
)


@pytest.fixture
def two_phases(tmp_path):
    """Returns (config, workdir, result) of an undisturbed run of two phases."""
    config = make(TWO_PHASES, optim=RICH)
    result = train.train_and_evaluate(config, tmp_path / "whole")
    return config, tmp_path / "whole", result


def test_a_plan_interrupted_anywhere_ends_as_if_it_had_not_been(two_phases, tmp_path):
    """In each phase, at the step between them, and after the last step."""
    config, workdir, result = two_phases
    for step in (2, 3, 4, 6):
        interrupt(workdir, step, tmp_path / str(step))
        assert_same(config, result, workdir, tmp_path / str(step))


def test_a_run_says_its_plan_and_its_phases(two_phases, capsys, tmp_path):
    config, workdir, _ = two_phases
    capsys.readouterr()
    interrupt(workdir, 3, tmp_path / "again")
    train.train_and_evaluate(config, tmp_path / "again")
    out = capsys.readouterr().out
    assert "from step 4 on, what trains: fc, (conv2|bn2)/" in out
    rows = {line.split()[1]: line.split()[2:] for line in out.splitlines()}
    assert rows["fc"] == ["60", "60", "1", "0.01", "0", "-", "0.0", "MB"]
    assert rows["(conv2|bn2)/"][:5] == ["190", "190", "4", "0.005", "0.1"]


def random_plan(seed):
    """Returns the config of a run by rows and settings that are drawn."""
    rng = np.random.default_rng(seed)
    rows = [Row("fc")]
    for pattern in ("(conv1|bn1)/", "(conv2|bn2)/"):
        modes = ("auto", "train", "frozen_statistics", "frozen", "recalibrate")
        rows.append(
            Row(
                pattern,
                train=bool(rng.random() < 0.8),
                learning_rate=float(rng.choice([0.3, 1.0])),
                weight_decay=[None, 0.2][rng.integers(2)],
                unfreeze_at=int(rng.choice([0, 2, 4])),
                batch_norm=str(rng.choice(modes)),
            )
        )
    optim = Optim(
        name=str(rng.choice(["momentum", "adamw", "nadam", "lion"])),
        learning_rate=0.01,
        schedule=str(rng.choice(["constant", "cosine", "linear"])),
        accumulate_steps=int(rng.choice([1, 2])),
        clip_norm=float(rng.choice([0.0, 0.5])),
        ema_decay=float(rng.choice([0.0, 0.9])),
        weight_decay=0.01,
    )
    if optim.accumulate_steps == 1:
        optim.sam_radius = float(rng.choice([0.0, 0.1]))
    # A row that never trains and does nothing else need not wait for it.
    rows = [
        row if row.train else dataclasses.replace(row, unfreeze_at=0) for row in rows
    ]
    return make(rows, num_steps=6, optim=optim)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_random_plans_interrupted_anywhere(seed, tmp_path):
    config = random_plan(seed)
    result = train.train_and_evaluate(config, tmp_path / "whole")
    for step in (1, 2, 3, 5):
        interrupt(tmp_path / "whole", step, tmp_path / str(step))
        assert_same(config, result, tmp_path / "whole", tmp_path / str(step))


def test_the_plan_that_is_saved_is_kept(monkeypatch, tmp_path):
    """Whatever a preset has become since."""
    config = make(plan=Plan(preset="head_then_full", phase_steps=2), num_steps=4)
    result = train.train_and_evaluate(config, tmp_path / "whole")
    interrupt(tmp_path / "whole", 1, tmp_path / "again")
    monkeypatch.setitem(presets.PRESETS, "head_then_full", presets.full)
    found = run_lib.prepare(config, tmp_path / "again").plan
    assert [phase.start for phase in found.phases] == [0, 2]
    assert_same(config, result, tmp_path / "whole", tmp_path / "again")


def test_a_plan_that_does_not_fit_is_of_a_damaged_checkpoint(tmp_path):
    config = make(num_steps=1)
    for row in ({"pattern": "fc"}, {"patern": "fc"}):
        saved = run_lib.Saved(tmp_path / "1", {"plan": [row]})
        with pytest.raises(CheckpointError, match="/1 does not fit: "):
            run_lib.make_plan(config, TinyNet(), (8, 8, 1), saved)


def test_the_average_is_evaluated_beside_the_weights(tmp_path):
    config = make([Row("")], optim=Optim(learning_rate=0.05, ema_decay=0.9))
    result = train.train_and_evaluate(config, tmp_path)
    val = [line for line in lines(tmp_path) if line["split"] == "val"]
    assert len(val) == 3 and all("ema_accuracy" in line for line in val)
    assert result["ema"]["num_examples"] == result["num_examples"]
    assert result["ema"]["loss"] != result["loss"]
    assert lines(tmp_path)[-1]["ema_loss"] == result["ema"]["loss"]
    assert "confusion_matrix" in result["ema"]


def test_an_average_over_nothing_is_the_weights(tmp_path):
    config = make([Row("")], optim=Optim(learning_rate=0.05, ema_decay=1e-12))
    result = train.train_and_evaluate(config, tmp_path)
    assert result["ema"]["confusion_matrix"] == result["confusion_matrix"]
    assert result["ema"]["loss"] == pytest.approx(result["loss"], rel=1e-5)


def test_without_a_decay_there_is_no_average(tmp_path):
    result = train.train_and_evaluate(make(num_steps=1), tmp_path)
    assert "ema" not in result
    assert not any(name.startswith("ema") for name in lines(tmp_path)[-1])


ACCURACIES = [0.1, 0.3, 0.5, 0.2, 0.4, 0.3, 0.9, 0.1]


class Killed(Exception):
    """Ends a run in the middle."""


def kill(*args):
    raise Killed


@pytest.fixture
def scripted(monkeypatch):
    """Makes the accuracies of steps those of a list; a call may do something else."""

    def follow(accuracies, number=0, happens=kill):
        calls = []

        def evaluate(run, programs, judge, state, split):
            calls.append(state)
            if len(calls) == number:
                happens()
            return {"accuracy": accuracies[int(state.step) - 1], "loss": 1.0}

        monkeypatch.setattr(train, "evaluate", evaluate)

    return follow


ONE_PHASE = [dataclasses.replace(row, unfreeze_at=0) for row in TWO_PHASES]


def impatient(rows=ONE_PHASE, **settings):
    return make(rows, num_steps=8, eval_every=1, **{"patience": 3} | settings)


def test_patience_begins_with_the_last_phase(scripted, tmp_path):
    """Three worse validations after step 3, of which one phase alone would end."""
    scripted(ACCURACIES)
    result = train.train_and_evaluate(impatient(TWO_PHASES), tmp_path)
    assert (result["step"], result["accuracy"]) == (7, 0.9)


@pytest.mark.parametrize("every", [0, 1])
def test_a_run_that_gets_no_better_ends_with_its_best_step(scripted, tmp_path, every):
    """Step 3 is the best; after step 6 it has not been bettered three times."""
    scripted(ACCURACIES)
    config = impatient(checkpoint_every=every)
    result = train.train_and_evaluate(config, tmp_path)
    assert (result["step"], result["best_step"], result["accuracy"]) == (3, 3, 0.5)
    steps = {folder.name for folder in (tmp_path / "checkpoints").iterdir()}
    assert steps == {"1", "2", "3"}
    written = [(line["step"], line["split"]) for line in lines(tmp_path)]
    assert written[-2:] == [(6, "val"), (3, "test")]
    assert begin_step(config, tmp_path) == 3


def begin_step(config, workdir):
    """Returns the step of the state that the latest checkpoint holds."""
    run = run_lib.prepare(config, workdir)
    return int(begin_or_resume(run, workdir).state.step)


def test_without_patience_a_run_ends_with_its_last_step(scripted, tmp_path):
    scripted(ACCURACIES)
    config = impatient(patience=0)
    result = train.train_and_evaluate(config, tmp_path)
    assert (result["step"], result["best_step"], result["accuracy"]) == (8, 7, 0.1)


def test_patience_that_is_not_exhausted_ends_with_the_best_step(scripted, tmp_path):
    scripted(ACCURACIES)
    result = train.train_and_evaluate(impatient(patience=4), tmp_path)
    assert (result["step"], result["accuracy"]) == (7, 0.9)


@pytest.mark.parametrize("number, every", [(3, 0), (6, 1), (7, 0)])
def test_patience_is_counted_over_an_interruption(scripted, tmp_path, number, every):
    """Killed in a validation, the last of them, or in the test, having gone back."""
    config = impatient(checkpoint_every=every)
    scripted(ACCURACIES)
    result = train.train_and_evaluate(config, tmp_path / "whole")
    scripted(ACCURACIES, number)
    with pytest.raises(Killed):
        train.train_and_evaluate(config, tmp_path / "killed")
    scripted(ACCURACIES)
    assert_same(config, result, tmp_path / "whole", tmp_path / "killed")


def test_a_run_killed_before_it_has_gone_back_trains_no_further(
    scripted, tmp_path, monkeypatch
):
    """Else it would find the better step 7."""
    config = impatient()
    scripted(ACCURACIES)
    result = train.train_and_evaluate(config, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train, "go_back", kill)
        train.train_and_evaluate(config, tmp_path / "killed")
    assert (tmp_path / "killed" / "checkpoints" / "6").exists()
    again = train.train_and_evaluate(config, tmp_path / "killed")
    assert without_times(again) == without_times(result)


def test_a_damaged_best_step_costs_no_other(scripted, tmp_path, monkeypatch):
    config = impatient()
    scripted(ACCURACIES)
    go_back = train.go_back

    def damage(run, checkpoints, step):
        (tmp_path / "checkpoints" / "3" / "meta" / "metadata").write_text("")
        return go_back(run, checkpoints, step)

    monkeypatch.setattr(train, "go_back", damage)
    with pytest.raises(CheckpointError, match="step 3 is damaged"):
        train.train_and_evaluate(config, tmp_path)
    steps = sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir())
    assert steps == list("123456")


def test_what_is_saved_are_the_validations_so_far(scripted, tmp_path, monkeypatch):
    """It is written in another thread, while the run goes on."""
    metas = {}
    save = checkpoint.Checkpoints.save

    def spy(self, step, state, meta, metrics):
        metas[step] = meta
        save(self, step, state, meta, metrics)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", spy)
    scripted(ACCURACIES)
    train.train_and_evaluate(impatient(patience=0), tmp_path)
    for step, meta in metas.items():
        assert [step for step, _ in meta["validations"]] == list(range(1, step + 1))


def test_a_signal_makes_no_step_the_best(scripted, tmp_path):
    """It saves step 4, which is as good as step 2; step 2 alone would be saved."""
    accuracies = [0.1, 0.5, 0.3, 0.5, 0.2, 0.9, 0.9, 0.9]
    config = impatient(checkpoint_every=0)
    scripted(accuracies)
    result = train.train_and_evaluate(config, tmp_path / "whole")
    assert result["step"] == 2
    scripted(accuracies, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="at step 4"):
        train.train_and_evaluate(config, tmp_path / "stopped")
    scripted(accuracies)
    assert_same(config, result, tmp_path / "whole", tmp_path / "stopped")


def test_a_signal_in_the_last_validation_names_a_step_that_is_saved(
    scripted, tmp_path, monkeypatch
):
    """It comes when the best step has been read again, and nothing later is left."""
    config = impatient(checkpoint_every=0)
    scripted(ACCURACIES)
    go_back = train.go_back

    def stopped(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return go_back(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train, "go_back", stopped)
        with pytest.raises(Stopped, match="at step 3, which is saved"):
            train.train_and_evaluate(config, tmp_path)
    assert train.train_and_evaluate(config, tmp_path)["step"] == 3
