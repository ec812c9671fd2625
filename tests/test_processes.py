"""Two processes of two devices each: one run, the numbers of one process of four."""

import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tljax import checkpoint, processes
from tljax.errors import ConfigError
from tljax.signals import StopRequest

COMMAND = sys.executable, "-m", "tljax.main"
CONFIG = """
from tljax.config import Config, Data, HorizontalFlip, Model, Optim, Plan, Row

def get_config():
    return Config(
        num_steps=4, log_every=1, eval_every=2, checkpoint_every=2,
        model=Model(width=2, stem="small"),
        data=Data(batch_size=40, cache="CACHE", augment=(HorizontalFlip(),)),
        optim=Optim(learning_rate=0.05), MORE
    )
"""
# Each device holds a share of the state, which is gathered to measure statistics.
SHARED = """
        shard_params=True, plan=Plan(rows=(Row(".*", batch_norm="recalibrate"),)),
"""


# Trained without labels: an autoencoder whose encoder a classifier takes, and a GAN
# that a classifier judges.
UNLABELLED = """
from tljax.config import Autoencoder, Config, Data, Gan, Model, Optim

EVERY = {"num_steps": 2, "log_every": 1, "eval_every": 2, "checkpoint_every": 2}

def classifier(**more):
    return Config(
        model=Model(width=2, stem="small"), data=Data(batch_size=40),
        optim=Optim(learning_rate=0.05), **EVERY, **more,
    )

def autoencoder():
    return classifier(pretrain=Config(
        task="autoencoder", data=Data(batch_size=40), autoencoder=Autoencoder(latent=8),
        model=Model(name="resnet_autoencoder", encoder="resnet18", width=2,
                    stem="small"),
        optim=Optim(learning_rate=0.05), **EVERY,
    ))

def gan():
    return Config(
        task="gan", judge=classifier(), model=Model(name="dcgan", width=4),
        data=Data(batch_size=40), gan=Gan(spectral_norm=True, num_samples=100),
        optim=Optim(name="adam", learning_rate=0.0004, ema_decay=0.9), **EVERY,
    )

def get_config():
    return WHICH()
"""


@pytest.mark.parametrize(
    ("address", "number", "place", "message"),
    [
        ("nowhere", 2, 1, "must be HOST:PORT, or auto"),
        ("localhost:99999", 2, 1, "must be HOST:PORT"),
        ("localhost:1234", 2, 2, r"process_id=2 must be .* below --num_processes=2"),
        ("localhost:1234", 2, -1, "process_id=-1 must be"),
        ("localhost:1", 2, 1, "localhost:1: the first process cannot be reached"),
    ],
)
def test_processes_that_cannot_be_one_run(address, number, place, message, monkeypatch):
    monkeypatch.setattr(processes, "TIMEOUT", 0.1)
    with pytest.raises(ConfigError, match=message):
        processes.connect(address, number, place)


def test_a_process_that_is_alone_joins_nobody(monkeypatch):
    monkeypatch.setattr(processes.jax.distributed, "initialize", pytest.fail)
    processes.connect("", 1, 0)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    processes.connect("", 1, 0)
    asked = []
    initialize = lambda **found: asked.append(found)  # noqa: E731
    monkeypatch.setattr(processes.jax.distributed, "initialize", initialize)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    processes.connect("", 1, 0)
    assert asked == [{"initialization_timeout": processes.TIMEOUT}]


def test_a_signal_to_one_process_counts_once_all_have_been_asked(monkeypatch):
    """Here nobody is asked: what the other has received is made up."""
    gather = lambda number: np.array([number, 15])  # noqa: E731
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gather)
    stop = StopRequest(alone=False)
    for step in range(3, 3 * processes.EVERY, 3):
        processes.agree(stop, step, 3)
        assert bool(stop) == (step >= processes.EVERY)
        if stop:
            break
    assert stop.signal_number == 15


def run(path, workdir, num_devices, *flags):
    """Starts a run with so many virtual devices."""
    flag = f"--xla_force_host_platform_device_count={num_devices}"
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tljax.main",
            f"--config={path}",
            f"--workdir={workdir}",
            *flags,
        ],
        env={**os.environ, "XLA_FLAGS": flag},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_address():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return f"localhost:{found.getsockname()[1]}"


def together(path, workdir, *flags):
    """Returns (exit code, stdout, stderr) of each of two processes of one run."""
    joint = f"--coordinator={free_address()}", "--num_processes=2", *flags
    started = [run(path, workdir, 2, *joint, f"--process_id={n}") for n in range(2)]
    return [(*each.communicate(timeout=600), each.returncode) for each in started]


def lines(workdir):
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{**line, "images_per_second": 0} for line in found]


@pytest.mark.slow
@pytest.mark.parametrize("cache, more", [("device", ""), ("disk", SHARED)])
def test_two_processes_are_one_run(tmp_path, cache, more):
    path = tmp_path / "config.py"
    path.write_text(CONFIG.replace("CACHE", cache).replace("MORE", more))
    alone = run(path, tmp_path / "one", 4)
    _, err = alone.communicate(timeout=600)
    assert alone.returncode == 0, err
    workdir = tmp_path / "two"
    (first, err, code), (second, other, other_code) = together(path, workdir)
    assert (code, other_code) == (0, 0), err + other
    assert "started from" in first
    # The first writes; the lines of Gloo are its own.
    assert "two: " not in second and "result" not in second
    assert_same(tmp_path / "one", workdir)
    # Two processes go on from what is saved.
    shutil.rmtree(workdir / "checkpoints" / "4")
    (workdir / "result.json").unlink()
    (first, err, code), (_, other, other_code) = together(path, workdir)
    assert (code, other_code) == (0, 0), err + other
    assert "resumed at step 2" in first
    assert_same(tmp_path / "one", workdir)
    assert json.loads((workdir / "result.json").read_text())["device"]["count"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("which, part", [("autoencoder", "pretrain"), ("gan", "judge")])
def test_two_processes_train_without_labels(tmp_path, which, part):
    path = tmp_path / "config.py"
    path.write_text(UNLABELLED.replace("WHICH", which))
    alone = run(path, tmp_path / "one", 4)
    _, err = alone.communicate(timeout=600)
    assert alone.returncode == 0, err
    (_, err, code), (_, other, other_code) = together(path, tmp_path / "two")
    assert (code, other_code) == (0, 0), err + other
    for folder in (".", part):
        assert_same(*(tmp_path / name / folder for name in ("one", "two")), step=2)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    path, workdir = tmp_path / "config.py", tmp_path / "run"
    settings = CONFIG.replace("CACHE", "device").replace("MORE", "")
    path.write_text(settings.replace("num_steps=4", "num_steps=100_000"))
    joint = f"--coordinator={free_address()}", "--num_processes=2"
    started = [run(path, workdir, 2, *joint, f"--process_id={n}") for n in range(2)]
    end = time.monotonic() + 120
    while not (workdir / "checkpoints" / "2").exists():
        assert time.monotonic() < end and all(each.poll() is None for each in started)
        time.sleep(0.1)
    started[1].send_signal(signal.SIGTERM)
    errors = [each.communicate(timeout=600)[1] for each in started]
    assert [each.returncode for each in started] == [143, 143], errors
    steps = [re.search(r"SIGTERM at step (\d+),", err).group(1) for err in errors]
    assert steps[0] == steps[1] and int(steps[0]) % processes.EVERY == 0
    assert checkpoint.latest(workdir / "checkpoints").name == steps[0]


def assert_same(alone, together, step=4):
    """Metrics, and weights at a step, are those of the run of one process."""
    close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-4)
    for line, other in zip(lines(alone), lines(together), strict=True):
        assert line.pop("split") == other.pop("split")
        jax.tree.map(close, line, other)
    folders = [workdir / "checkpoints" / f"{step}" for workdir in (alone, together)]
    jax.tree.map(close, *map(checkpoint.restore_variables, folders))
