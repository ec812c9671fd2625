"""Whole runs on folders of real pictures: results, resuming, refusals, exit codes."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pictures
import pytest

from tljax import checkpoint, command_line, models, pretrained, train, workdirs
from tljax.config import (
    ColorJitter,
    Config,
    Data,
    HorizontalFlip,
    Loss,
    Mixup,
    Model,
    Optim,
    RandomResizedCrop,
)
from tljax.errors import ConfigError, DataError

ROOT = Path(__file__).parent.parent
BAD = "train/digit1/002.jpg"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TLJAX_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Wide pictures of three digits, one of them cut short; validation, but no test."""
    root = tmp_path_factory.mktemp("pictures") / "digits"
    pictures.write_digits(root, {"train": 8, "val": 4}, size=(20, 16))
    os.truncate(root / BAD, 300)
    return root


def config_of(folder, **data):
    """Returns the config of a run of six steps, with every kind of randomness."""
    settings = {
        "source": f"folder:{folder}",
        "image_size": 8,
        "batch_size": 6,
        "augment": (RandomResizedCrop(), ColorJitter(brightness=0.4), Mixup()),
        "max_bad_fraction": 0.1,
        "balanced": True,
        "eval_views": "center_flip",
    }
    return Config(
        num_steps=6,
        log_every=1,
        eval_every=3,
        checkpoint_every=2,
        num_devices=1,
        model=Model(width=2, stem="small"),
        data=Data(**settings | data),
        loss=Loss(balanced=True),
        optim=Optim(learning_rate=0.05),
    )


def lines(workdir):
    """Returns the lines of metrics.jsonl without what measures time."""
    text = (workdir / "metrics.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    return [
        {k: v for k, v in line.items() if k != "images_per_second"} for line in found
    ]


def variables(workdir):
    return checkpoint.restore_variables(checkpoint.latest(workdir / "checkpoints"))


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """Returns (workdir, result) of a run whose images lie on the device."""
    workdir = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLJAX_HOME", str(workdir / "home"))
        result = train.train_and_evaluate(config_of(folder), workdir / "run")
    return workdir / "run", result


@pytest.mark.slow
def test_the_result_says_what_was_seen_and_what_was_not(finished, folder):
    workdir, result = finished
    assert result["split"] == "val" and result["num_examples"] == 12
    assert result["class_names"] == ["digit0", "digit1", "digit2"]
    assert list(result["skipped"]) == [BAD]
    assert "OSError" in result["skipped"][BAD]
    assert result["data"]["cache"] == "device" and len(result["data"]["fingerprint"])
    augment = result["config"]["data"]["augment"]
    assert augment[0]["operation"] == "RandomResizedCrop"
    assert augment[0]["scale"] == [0.08, 1.0]
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["data"]["augment"] == augment
    assert len((workdir / "data.jsonl").read_text().splitlines()) == 36


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["disk", "none"])
def test_a_run_is_the_same_however_images_are_kept(finished, folder, tmp_path, cache):
    """Bit for bit, with augmentation, a bad image and balanced classes."""
    train.train_and_evaluate(config_of(folder, cache=cache), tmp_path / "run")
    assert lines(tmp_path / "run") == lines(finished[0])
    jax.tree.map(
        np.testing.assert_array_equal,
        variables(tmp_path / "run"),
        variables(finished[0]),
    )


def interrupt(finished, workdir):
    """Copies a run as it was when step 4 had been saved."""
    shutil.copytree(finished[0], workdir)
    shutil.rmtree(workdir / "checkpoints" / "6")
    (workdir / "result.json").unlink()


def test_resumed_with_another_cache_it_ends_the_same(finished, folder, tmp_path):
    """The cache is free to change: it changes no batch."""
    interrupt(finished, tmp_path / "run")
    train.train_and_evaluate(config_of(folder, cache="none"), tmp_path / "run")
    assert lines(tmp_path / "run") == lines(finished[0])
    jax.tree.map(
        np.testing.assert_array_equal,
        variables(tmp_path / "run"),
        variables(finished[0]),
    )


def test_images_that_have_changed_are_refused_on_resume(finished, folder, tmp_path):
    interrupt(finished, tmp_path / "run")
    names = [name for name in workdirs.read_entries(tmp_path / "run") if name]
    moved = folder / "val/digit0/000.jpg"
    moved.rename(folder / "val/digit0/new.jpg")
    try:
        message = (
            r"changed since step 4 was saved: 1 gone \(val/digit0/000.jpg\); "
            r"1 new \(val/digit0/new.jpg\); take another --workdir"
        )
        with pytest.raises(DataError, match=message):
            train.train_and_evaluate(config_of(folder), tmp_path / "run")
    finally:
        (folder / "val/digit0/new.jpg").rename(moved)
    assert len(names) == 36


def test_another_augmentation_is_another_run(finished, folder, tmp_path):
    interrupt(finished, tmp_path / "run")
    other = config_of(folder, augment=(HorizontalFlip(),))
    with pytest.raises(ConfigError, match=r"data.augment is \[.*not \[.*p': 0.5"):
        train.train_and_evaluate(other, tmp_path / "run")


def test_epochs_are_counted_in_images(folder, tmp_path):
    config = dataclasses.replace(config_of(folder), num_epochs=1, num_steps=1000)
    result = train.train_and_evaluate(config, tmp_path / "run")
    assert result["step"] == 24 // 6


def test_the_classic_recipe_loads_as_it_is_written():
    config = command_line.load(str(ROOT / "configs/folder_finetune.py"))
    assert config.data.augment == (RandomResizedCrop(), HorizontalFlip())
    assert (config.optim.learning_rate, config.optim.momentum) == (0.001, 0.9)
    assert (config.data.batch_size, config.num_epochs) == (64, 10)


@pytest.mark.slow
def test_the_classic_recipe_runs_from_the_command(tmp_path):
    """A ResNet-50 from a file of weights, on pictures of digits, at a small size."""
    pictures.write_digits(tmp_path / "digits", {"": 12}, size=(48, 40))
    model = models.create("resnet50", num_classes=1000)
    images = np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    values = jax.tree.map(
        lambda leaf: 0.02 * rng.random(leaf.shape, np.float32) + 0.01, shapes
    )
    pretrained.export(values, tmp_path / "weights.pth", "resnet50")
    flags = [
        f"--config={ROOT}/configs/folder_finetune.py",
        f"--workdir={tmp_path}/run",
        f"--config.data.source=folder:{tmp_path}/digits",
        f"--config.pretrained=file:{tmp_path}/weights.pth",
        "--config.data.image_size=32",
        "--config.data.batch_size=4",
        "--config.num_epochs=1",
        "--config.num_devices=1",
    ]
    process = subprocess.run(
        [sys.executable, "-m", "tljax.main", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["step"] == 6 and result["num_classes"] == 3
    assert "new: fc/bias, fc/kernel" in process.stdout
    missing = subprocess.run(
        [sys.executable, "-m", "tljax.main", *flags[:1], "--workdir=/tmp/x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert missing.returncode == 3
    assert missing.stderr.startswith("tljax: folder ") and "exist" in missing.stderr


HANGING = """
import sys, time
from tljax import entry, main
from tljax.data.folder import Files
read = Files.__getitem__
def hang(self, place):
    if place == 5:
        time.sleep(600)
    return read(self, place)
Files.__getitem__ = hang
if __name__ == "__main__":
    sys.exit(entry.run_command(main.run, sys.argv))
"""


@pytest.mark.slow
def test_a_file_that_cannot_be_read_to_its_end_ends_the_run(tmp_path):
    """As on a disk that hangs: one line, the threads' stacks above it, exit code 3."""
    root = pictures.write_digits(tmp_path / "digits", {"": 12})
    (tmp_path / "hanging.py").write_text(HANGING)
    (tmp_path / "config.py").write_text(
        "from tljax.config import *\n"
        "def get_config():\n"
        "    return Config(num_steps=2, num_devices=1, model=Model(width=2),"
        " data=Data(batch_size=8))\n"
    )
    process = subprocess.run(
        [
            sys.executable,
            str(tmp_path / "hanging.py"),
            f"--config={tmp_path}/config.py",
            f"--workdir={tmp_path}/run",
            f"--config.data.source=folder:{root}",
            "--config.data.timeout=2",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert process.returncode == 3
    lines = process.stderr.splitlines()
    assert lines[-1].startswith("tljax: no image could be read for 2 s")
    assert any("in hang" in line for line in lines)
