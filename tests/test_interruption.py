"""Runs that are killed, stopped, or started twice: as processes, from the command."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pictures
import pytest

from tljax import checkpoint

pytestmark = pytest.mark.slow

CONFIG = """
from tljax.config import Config, Data, Mixup, Model, Optim, Plan, RandomResizedCrop

def part(num_steps, **settings):
    return Config(
        num_steps=num_steps,
        log_every=20,
        eval_every=15,
        checkpoint_every=15,
        num_devices=1,
        model=Model(width=2, stem="small"),
        optim=Optim(name="adam", learning_rate=0.002, schedule="cosine"),
        **settings,
    )

def get_config():
    data = Data(
        source="folder:FOLDER",
        cache="none",
        channels=1,
        image_size=8,
        batch_size=8,
        labels_per_class=20,
        augment=(RandomResizedCrop(), Mixup()),
    )
    first = Data(batch_size=16, classes=("0", "1", "2"))
    pretrain = part(30, data=first)
    config = part(
        120,
        data=data,
        pretrain=pretrain,
        baseline=True,
        plan=Plan(preset="head_then_full", phase_steps=50),
    )
    config.optim.decay_towards, config.optim.weight_decay = "start", 0.01
    config.optim.ema_decay = 0.98
    return config
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Returns the command of a run, but for its workdir.

    Its images are read from files again and again, and augmented.
    """
    path = tmp_path_factory.mktemp("config") / "config.py"
    folder = pictures.write_digits(path.parent / "pictures", {"": 40}, classes=(3, 8))
    path.write_text(CONFIG.replace("FOLDER", str(folder)))
    return [sys.executable, "-m", "tljax.main", f"--config={path}"]


def start(command, workdir):
    """Starts a run and returns its process."""
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def finish(process, seconds=600):
    """Returns (exit code, stdout, stderr) of a process when it has ended."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def wait_for(condition, process, seconds=300):
    """Returns once `condition()` holds, or the process has ended."""
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def steps_saved(workdir) -> list[int]:
    """Returns the numbers of the steps whose checkpoints are committed."""
    directory = Path(workdir) / "checkpoints"
    return sorted(int(p.name) for p in directory.glob("*") if p.name.isdigit())


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    """Returns the workdir of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    code, _, err = finish(start(command, workdir))
    assert code == 0, err
    return workdir


def assert_same_end(workdir, uninterrupted):
    """Weights, statistics, optimiser and metrics are those of the undisturbed run."""
    states = []
    for directory in (workdir, uninterrupted):
        folder = checkpoint.latest(directory / "checkpoints")
        assert folder.name == ("30" if directory.name == "pretrain" else "120")
        checkpoint.verify(folder)
        with checkpoint.ocp.Checkpointer(
            checkpoint.ocp.StandardCheckpointHandler()
        ) as reader:
            args = checkpoint.ocp.args.StandardRestore()
            state = checkpoint.read(folder, reader, "state", args)
        state["key"] = jax.random.key_data(state["key"])
        states.append(state)
    jax.tree.map(np.testing.assert_array_equal, *states)
    results = [
        json.loads((directory / "result.json").read_text())
        for directory in (workdir, uninterrupted)
    ]
    for key in ("accuracy", "loss", "confusion_matrix", "best_step"):
        assert results[0][key] == results[1][key]
    splits = [
        [
            {k: v for k, v in json.loads(line).items() if k != "images_per_second"}
            for line in (directory / "metrics.jsonl").read_text().splitlines()
        ]
        for directory in (workdir, uninterrupted)
    ]
    assert splits[0] == splits[1]


# Orbax has no way to read a state without the program that made it, but this.
@pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning")
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(
    command, uninterrupted, tmp_path
):
    """In start-up, pretraining, training, the baseline, or while something is saved."""
    rng = random.Random(time.time_ns())
    for attempt in range(5):
        process = start(command, tmp_path)
        if attempt % 2:
            before = steps_saved(tmp_path)
            wait_for(lambda before=before: steps_saved(tmp_path) != before, process)
            time.sleep(rng.random() * 0.3)
        else:
            time.sleep(rng.uniform(1.0, 9.0))
        process.kill()
        finish(process)
    code, _, err = finish(start(command, tmp_path))
    assert code == 0, err
    for part in ("", "pretrain", "scratch"):
        assert_same_end(tmp_path / part, uninterrupted / part)


@pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_it_stops_at(command, uninterrupted, tmp_path, number):
    process = start(command, tmp_path)
    wait_for(lambda: steps_saved(tmp_path), process)
    time.sleep(random.random() * 0.3)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 128 + number
    notice, last = err.splitlines()
    assert notice.startswith(f"tljax: {number.name}: saving, then stopping")
    assert last.startswith(f"tljax: stopped by {number.name} at step ")
    stopped_at = steps_saved(tmp_path)[-1]
    assert f"at step {stopped_at}, which is saved" in err
    if number == signal.SIGTERM:  # For both the way on is the same.
        code, out, err = finish(start(command, tmp_path))
        assert code == 0, err
        assert f"resumed at step {stopped_at}" in out
        assert_same_end(tmp_path, uninterrupted)


def test_a_signal_before_training_ends_it(command, tmp_path):
    process = start(command, tmp_path)
    wait_for((tmp_path / "config.json").exists, process)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 143
    assert "stopped by SIGTERM" in err and "Traceback" not in err


def test_a_second_signal_ends_it_at_once():
    """The first is noted while the process is in a step; the second must not wait."""
    code = (
        "import os, signal, time\n"
        "from tljax.signals import stop_request\n"
        "with stop_request() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert stop.signal_number == signal.SIGTERM\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], timeout=600, check=False)
    assert result.returncode == 130


def test_a_workdir_has_one_live_process(command, uninterrupted, tmp_path):
    first = start(command, tmp_path)
    wait_for(lambda: steps_saved(tmp_path), first)
    first.send_signal(signal.SIGSTOP)  # It lives, and cannot finish meanwhile.
    code, _, err = finish(start(command, tmp_path))
    assert code == 2
    assert f"is in use by process {first.pid} on " in err
    assert len(err.splitlines()) == 1
    first.kill()
    finish(first)
    # A lock dies with its holder.
    before = steps_saved(tmp_path)
    third = start(command, tmp_path)
    wait_for(lambda: steps_saved(tmp_path) != before, third)
    third.kill()
    finish(third)
    assert steps_saved(tmp_path) != before


def test_a_finished_run_prints_its_result_again(command, uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_text()
    code, out, _ = finish(start(command, uninterrupted))
    assert code == 0
    assert "accuracy" in out and "compiled" not in out
    assert (uninterrupted / "metrics.jsonl").read_text() == before
