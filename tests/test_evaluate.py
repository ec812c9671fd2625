"""The command `tljax.evaluate` on tiny runs: its files, its numbers, its refusals."""

import csv
import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pictures
import pytest
from PIL import Image
from sklearn import metrics

from tljax import convert, entry, evaluate, network, train, workdirs
from tljax.config import ColorJitter, Config, Data, Mixup, Model, Optim, RandomCrop
from tljax.config import validate as checked
from tljax.errors import ConfigError
from tljax.evaluation import numbers
from tljax.run import prepare

ROOT = Path(__file__).parent.parent
PLOTS = ("confusion", "reliability", "roc", "learning_curves", "mistakes")


def tiny(**changes):
    """Returns the config of a run of two steps."""
    settings = {
        "num_steps": 2,
        "log_every": 1,
        "eval_every": 1,
        "checkpoint_every": 1,
        "num_devices": 1,
        "model": Model(width=2, stem="small"),
        "data": Data(batch_size=50),
        "optim": Optim(learning_rate=0.05),
    }
    return Config(**(settings | changes))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Returns (workdir, result) of a run on digits."""
    workdir = tmp_path_factory.mktemp("digits")
    return workdir, train.train_and_evaluate(tiny(), workdir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns (workdir, root) of a run on a folder with names hard to write."""
    root = tmp_path_factory.mktemp("folder") / "data"
    pictures.write_digits(root, {"train": 12, "val": 6, "test": 7}, (0, 1, 2), (40, 20))
    for split in ("train", "val", "test"):
        (root / split / "digit0").rename(root / split / 'a,"b"\nü $x$')
    bad = root / "test" / "digit1" / "000.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    data = Data(
        source=f"folder:{root}",
        image_size=12,
        resize=14,
        train_resize=16,
        batch_size=8,
        eval_views="five_crop",
        max_bad_fraction=0.1,
        cache="none",
        num_threads=1,
    )
    workdir = tmp_path_factory.mktemp("run")
    train.train_and_evaluate(tiny(data=data), workdir)
    return workdir, root


@pytest.fixture
def call(call_command):
    """Returns a function that runs the command in this process."""
    return functools.partial(call_command, evaluate)


@pytest.fixture
def copy(digits, tmp_path):
    """Returns a copy of the run on digits, to be damaged."""
    shutil.copytree(digits[0], tmp_path / "copy")
    return tmp_path / "copy"


def read(place):
    """Returns metrics.json and the rows of predictions.csv in a folder."""
    with (place / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return json.loads((place / "metrics.json").read_text()), rows


def test_the_numbers_are_those_of_training_and_of_the_predictions(digits, call):
    workdir, result = digits
    code, out, err = call(f"--workdir={workdir}")
    assert (code, err) == (0, "")
    found, (head, *rows) = read(workdir / "evaluation")
    assert found["split"] == "test" and found["step"] == 2
    for name in ("accuracy", "precision_macro", "recall_macro", "f1_macro"):
        assert found[name] == pytest.approx(result[name], abs=1e-12)
    assert found["log_loss"] == pytest.approx(result["loss"], rel=1e-6)
    for name in ("confusion_matrix", "class_names", "num_examples", "started_from",
                 "config", "versions", "device", "transform"):  # fmt: skip
        assert found[name] == result[name]
    assert found["data"]["fingerprint"] == result["data"]["fingerprint"]
    assert head == ["index_or_file", "label", "prediction", *(
        f"prob_{digit}" for digit in range(10))]  # fmt: skip
    labels = np.array([int(row[1]) for row in rows])
    values = np.array([[float(cell) for cell in row[3:]] for row in rows])
    assert [row[2] for row in rows] == [str(place) for place in values.argmax(axis=1)]
    assert len({row[0] for row in rows}) == 359
    # scikit-learn warns where probabilities do not add up to 1.
    expected = {
        "log_loss": metrics.log_loss(labels, values),
        "roc_auc": metrics.roc_auc_score(labels, values, multi_class="ovr"),
        "top5": metrics.top_k_accuracy_score(labels, values, k=5),
        "f1_weighted": metrics.f1_score(
            labels, values.argmax(axis=1), average="weighted", zero_division=0
        ),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9)
    for name in numbers.SCALARS:
        assert found[f"{name}_low"] <= found[f"{name}_high"]
        # The calibration error is biased upwards, and more so in a resample.
        if not name.startswith("ece"):
            assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
        if not name.endswith("_micro"):
            assert f"\n{name} " in out
    assert len(found["per_class"]) == 10
    for name in PLOTS:
        with Image.open(workdir / "evaluation" / f"{name}.png") as image:
            image.load()
            assert image.format == "PNG" and min(image.size) > 150
            assert len(np.unique(np.asarray(image))) > 10


def test_any_number_of_devices_and_other_splits(digits, call, fast):
    """Batches of 50, the last one padded, on two devices: the numbers of one."""
    workdir, result = digits
    for split, size in (("val", 270), ("train", 1168)):
        assert call(f"--workdir={workdir}", f"--split={split}")[0] == 0
        found, rows = read(workdir / f"evaluation_{split}")
        assert found["num_examples"] == len(rows) - 1 == size
    val = json.loads((workdir / "evaluation_val" / "metrics.json").read_text())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    last = next(line for line in lines if line["split"] == "val" and line["step"] == 2)
    assert val["accuracy"] == pytest.approx(last["accuracy"], abs=1e-12)
    assert val["log_loss"] == pytest.approx(last["loss"], rel=1e-6)
    code, _, err = call(f"--workdir={workdir}", "--num_devices=4")
    assert code == 2 and "cannot be divided among 4 devices" in err
    assert call(f"--workdir={workdir}", "--num_devices=2")[0] == 0
    found, _ = read(workdir / "evaluation")
    assert found["device"]["count"] == 2
    assert found["confusion_matrix"] == result["confusion_matrix"]
    assert found["log_loss"] == pytest.approx(result["loss"], rel=1e-5)


def test_steps_are_chosen(digits, call, fast):
    workdir, result = digits
    steps = {}
    for step in ("1", "best", ""):
        assert call(f"--workdir={workdir}", f"--step={step}")[0] == 0
        steps[step] = read(workdir / "evaluation")[0]
    assert steps["1"]["step"] == 1 and steps[""]["step"] == 2
    assert steps["best"]["step"] == result["best_step"]
    assert steps["1"]["log_loss"] != steps[""]["log_loss"]
    assert steps[""]["log_loss"] == pytest.approx(result["loss"], rel=1e-6)


@pytest.mark.slow
def test_a_folder_with_hard_names_and_a_bad_file(folder, call):
    workdir, _ = folder
    code, out, err = call(f"--workdir={workdir}")
    assert (code, err) == (0, "")
    assert "skipped: test/digit1/000.jpg" in out and "1 images were skipped" in out
    assert 'a,"b"\\nü $x$' in out
    found, (head, *rows) = read(workdir / "evaluation")
    name = 'a,"b"\nü $x$'
    assert found["class_names"] == [name, "digit1", "digit2"]
    assert head == ["index_or_file", "label", "prediction", f"prob_{name}",
                    "prob_digit1", "prob_digit2"]  # fmt: skip
    assert found["num_examples"] == len(rows) == 20
    assert list(found["skipped"]) == ["test/digit1/000.jpg"]
    assert all(row[0].startswith(f"test/{row[1]}/") for row in rows)
    assert [row["support"] for row in found["per_class"]] == [7, 6, 7]
    # Training images are seen as all others are, not as in training.
    run = prepare(workdirs.load_classifier(workdir), workdir)
    shape = run.storage.canvases["val"]
    assert evaluate.storage_of(run, "train").canvases == {"train": shape}
    assert run.storage.canvases["train"] != shape
    assert call(f"--workdir={workdir}", "--split=train")[0] == 0
    assert read(workdir / "evaluation_train")[0]["num_examples"] == 36


def test_changed_data_and_other_classes_are_refused(folder, call, fast, tmp_path):
    workdir, root = folder
    moved = tmp_path / "data"
    shutil.copytree(root, moved)
    path = workdir / "config.json"
    before = path.read_text()
    try:
        path.write_text(before.replace(str(root), str(moved)))
        (moved / "test" / "digit1" / "001.png").unlink()
        code, _, err = call(f"--workdir={workdir}")
        assert code == 3 and "has changed since step 2" in err and "1 gone" in err
        for split in ("train", "val", "test"):
            (moved / split / "digit1").rename(moved / split / "digit7")
        code, _, err = call(f"--workdir={workdir}")
        assert code == 2 and len(err.splitlines()) == 1
        assert "without digit1; with the new digit7" in err
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], "--workdir is missing"),
        (["--workdir=NOWHERE"], "does not exist"),
        (["--workdir=EMPTY"], "holds no run: there is no config.json"),
        (["--workdir=RUN", "--split=tets"], "did you mean 'test'?"),
        (["--workdir=RUN", "--step=3"], "--step = '3' is unknown; choose from: best"),
        (["--workdir=RUN", "--splt=val"], "Did you mean: split"),
        (["--workdir=RUN", "more"], "unexpected argument 'more'"),
        (["--workdir=RUN", "--device=tpu"], "there is no such device"),
        (["--workdir=" + 300 * "x"], "cannot use the path"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(digits, call, tmp_path, flags, words):
    places = {"NOWHERE": tmp_path / "no", "EMPTY": tmp_path, "RUN": digits[0]}
    for name, place in places.items():
        flags = [flag.replace(name, str(place)) for flag in flags]
    code, _, err = call(*flags)
    assert code == 2 and words in err, err
    assert err.startswith("tljax: ") and len(err.splitlines()) == 1


def test_a_run_that_cannot_be_evaluated(copy, call, fast):
    def refused(code, words):
        found, _, err = call(f"--workdir={copy}")
        assert found == code and words in err and len(err.splitlines()) == 1, err

    config = json.loads((copy / "config.json").read_text())
    newer = config | {"optim": config["optim"] | {"sharpness": 1}}
    (copy / "config.json").write_text(json.dumps(newer))
    refused(2, "config.optim.sharpness is not a setting of tljax")
    other = config | {"model": config["model"] | {"width": 3}}
    (copy / "config.json").write_text(json.dumps(other))
    refused(4, "another run: config.model.width is 2 there, not 3")
    (copy / "config.json").write_text(json.dumps(config))
    shutil.rmtree(copy / "evaluation", ignore_errors=True)
    (copy / "evaluation").write_text("in the way")
    refused(2, "cannot write to")
    largest = max(
        (copy / "checkpoints" / "2").rglob("*"), key=lambda p: p.stat().st_size
    )
    largest.write_bytes(b"")
    refused(4, "step 2 is damaged")
    (copy / "evaluation").unlink()
    assert call(f"--workdir={copy}", "--step=1")[0] == 0
    shutil.rmtree(copy / "checkpoints")
    refused(2, "its run has not saved a step yet")


def test_converted_weights_have_no_data_to_be_evaluated_on(digits, call, tmp_path):
    workdir, _ = digits
    file, other = tmp_path / "x.safetensors", tmp_path / "other"
    for source, target in ((workdir, file), (file, other)):
        argv = ["convert", f"--input={source}", f"--output={target}", "--head=replace",
                "--num_classes=3"]  # fmt: skip
        assert entry.run_command(convert.run, argv) == 0
    code, _, err = call(f"--workdir={other}")
    assert code == 2 and "has other classes than checkpoint" in err


def test_a_process_ends_with_the_exit_code(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "tljax.evaluate", f"--workdir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.startswith("tljax: ")
    assert len(process.stderr.splitlines()) == 1


def test_help_names_every_flag(call):
    code, out, _ = call("--help")
    assert code == 0
    values = evaluate.parse(["evaluate", "--workdir=x"])
    assert all(
        f"--{name}" in out for name in values.flag_values_dict() if "?" not in name
    )


def test_a_config_comes_back_from_its_json(tmp_path):
    config = checked(
        tiny(
            pretrain=tiny(seed=3),
            data=Data(
                batch_size=50,
                classes=("1", "2"),
                mean=(0.25,),
                augment=(RandomCrop(padding=2), ColorJitter(hue=0.1), Mixup(alpha=0.3)),
            ),
        )
    )
    record = workdirs.as_json(config)
    workdirs.write_json(tmp_path / "config.json", record)
    found = workdirs.load_classifier(tmp_path)
    assert found == config
    assert workdirs.as_json(found) == record
    # A setting that an older version did not write has its default.
    del record["data"]["timeout"], record["pretrain"]["optim"]["b1"]
    workdirs.write_json(tmp_path / "config.json", record)
    assert workdirs.load_classifier(tmp_path) == config


@pytest.mark.parametrize(
    "change, words",
    [
        ({"speed": 1}, r"config\.speed is not a setting of tljax"),
        ({"pretrain": {"a": 1}}, r"config\.pretrain\.a is not a setting"),
        ({"model": 3}, r"config\.model = 3 must be Model"),
        ({"seed": {"a": 1}}, r"config\.seed = .* must be int"),
        ({"data": {"augment": [{"operation": "Mixupp"}]}}, "did you mean 'Mixup'"),
        ({"data": {"augment": [{"operation": "Mixup", "b": 1}]}}, r"\[0\]\.b is not"),
    ],
)
def test_a_config_that_cannot_be_had_is_refused(tmp_path, change, words):
    workdirs.write_json(tmp_path / "config.json", change)
    with pytest.raises(ConfigError, match=words):
        workdirs.load_classifier(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not a config"):
        workdirs.load_classifier(tmp_path)


def test_the_best_step_is_that_of_training(digits, copy):
    _, result = digits
    assert int(network.find(copy, "best").folder.name) == result["best_step"]
    for step in (1, 2):
        shutil.rmtree(copy / "checkpoints" / str(step) / "metrics")
    with pytest.raises(ConfigError, match=r"no step saved in .* has been validated"):
        network.find(copy, "best")


def test_evaluating_does_not_change_the_run(digits, copy, call, fast):
    def files():
        return {
            str(path.relative_to(copy)): path.read_bytes()
            for path in copy.rglob("*")
            if path.is_file() and "evaluation" not in str(path.relative_to(copy))
        }

    before = files()
    assert call(f"--workdir={copy}")[0] == 0
    assert files() == before
    config = dataclasses.replace(tiny(), log_every=2)
    assert train.train_and_evaluate(config, copy)["step"] == 2
