"""The command `tljax.probe`: its features, its files, its refusals."""

import dataclasses
import functools
import json
import re
import shutil

import jax
import numpy as np
import pictures
import pytest
from PIL import Image
from probes import begin, tiny

from tljax import checkpoint, entry, probe, train
from tljax.config import Mixup, RandomCrop
from tljax.data import augment
from tljax.errors import ConfigError, DataError, NonFiniteError
from tljax.probing import features, head, logistic, options, report
from tljax.run import prepare

CONFIG = """
from tljax.config import *
def get_config():
    return Config(
        num_steps=3,
        num_devices=1,
        model=Model(width=2, stem="small"),
        data=Data(classes=("0", "1", "2"), batch_size=50, {data}),
        {more}
    )
"""


@pytest.fixture
def call(tmp_path, capfd, monkeypatch):
    """Returns a function: settings, flags -> exit code, stdout and stderr."""
    monkeypatch.setattr(logistic, "PENALTIES", np.geomspace(1e-3, 10, 3))

    def run_here(*flags, data="", more="", workdir=tmp_path / "probe"):
        file = tmp_path / "config.py"
        file.write_text(CONFIG.format(data=data, more=more))
        argv = ["probe", f"--config={file}", f"--workdir={workdir}", *flags]
        code = entry.run_command(probe.run, argv)
        return code, *capfd.readouterr()

    return run_here


@pytest.fixture(scope="module")
def begun():
    return begin()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns the workdir of a run whose head was trained."""
    workdir = tmp_path_factory.mktemp("trained")
    train.train_and_evaluate(tiny(), workdir)
    return workdir


def test_features_are_those_of_the_network_in_order(begun):
    run, variables, found = begun
    apply = jax.jit(functools.partial(run.model.apply, return_features=True))
    for name in ("train", "test"):
        split = run.source.splits[name]
        # No split is a multiple of a batch.
        assert len(split.labels) % 50
        images = np.asarray(split.images)[-20:]
        _, expected = apply(variables, augment.normalize(images, (0.5,), (0.5,)))
        np.testing.assert_allclose(
            found[name].values[-20:], expected["pooled"], rtol=1e-4, atol=1e-6
        )
        np.testing.assert_array_equal(found[name].labels, split.labels)
        assert found[name].values.dtype == np.float32


def test_evaluation_looks_at_all_its_views():
    run = prepare(tiny(eval_views="center_flip"))
    images = np.asarray(run.source.splits["val"].images)[:4]
    first, second = features.middle(run, None, {"image": images})
    np.testing.assert_array_equal(first[:, :, ::-1], second)
    np.testing.assert_allclose(first, images / 127.5 - 1, atol=1e-6)


def test_copies_are_augmented_each_in_its_own_way(begun):
    _, variables, plain = begun
    run = prepare(tiny(augment=(RandomCrop(padding=2), Mixup())))
    found, _ = features.compute(run, variables, copies=3)
    # Mixup, which mixes labels, is left out.
    unmixed = prepare(tiny(augment=(RandomCrop(padding=2),)))
    again, _ = features.compute(unmixed, variables, copies=2)
    number = len(plain["train"].labels)
    values, labels = found["train"]
    copies = values.reshape(3, number, -1)
    np.testing.assert_array_equal(copies[0], plain["train"].values)
    np.testing.assert_array_equal(values[: 2 * number], again["train"].values)
    np.testing.assert_array_equal(labels, np.tile(plain["train"].labels, 3))
    np.testing.assert_array_equal(found["val"].values, plain["val"].values)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (copies[first] != copies[second]).any(axis=1).mean() > 0.5
    assert features.unmixed(run.config.data.augment) == (RandomCrop(padding=2),)


def test_images_that_cannot_be_used_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TLJAX_HOME", str(tmp_path / "home"))
    root = pictures.write_digits(
        tmp_path / "set", {"train": 9, "val": 5}, (0, 1), (24, 36)
    )
    bad = sorted((root / "train" / "digit1").iterdir())[0]
    bad.write_bytes(bad.read_bytes()[:90])
    run = prepare(
        tiny(
            source=f"folder:{root}",
            classes=(),
            image_size=12,
            batch_size=4,
            max_bad_fraction=0.2,
        )
    )
    found, skipped = features.compute(run, probe.begin(run)[0], copies=1)
    assert found["train"].labels.tolist() == [0] * 9 + [1] * 8
    assert found["train"].values.shape == (17, 16)
    assert [name.endswith(f"digit1/{bad.name}") for name in skipped] == [True]
    assert len(found["val"].labels) == 10


def test_copies_that_differ_are_noticed():
    rows = [features.Features(np.zeros((n, 2)), np.zeros(n)) for n in (3, 2)]
    with pytest.raises(DataError, match="changed while"):
        features.join(rows)


def test_features_that_are_no_numbers_are_an_error(begun):
    run, variables, _ = begun
    variables = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    with pytest.raises(NonFiniteError, match="features"):
        features.compute(run, variables, copies=1)


def test_the_head_is_that_of_training_the_head_alone(begun, trained):
    run, variables, found = begun
    folder = checkpoint.latest(trained / "checkpoints")
    expected = checkpoint.restore_variables(folder)["params"]["fc"]
    rows = head.rows_of_steps(found["train"].labels, 1, run.batch_size, run.config)
    labels = run.source.splits["train"].labels
    weights = run.task.find_class_weights(run.config, labels, 3)
    initial = variables["params"]["fc"]
    mine, losses = head.train(initial, found["train"], rows, weights, run.config)
    assert losses.shape == (6,)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(mine[name], expected[name], rtol=1e-3, atol=1e-5)
        assert np.abs(expected[name] - initial[name]).max() > 0.01


@pytest.mark.slow
def test_all_of_a_probe_from_a_run(call, tmp_path, trained):
    asked = ["--shots=1,3", "--seeds=2", f"--config.pretrained=run:{trained}"]
    code, out, err = call(*asked)
    assert (code, err) == (0, "")
    workdir = tmp_path / "probe"
    found = json.loads((workdir / "probe.json").read_text())
    assert found["started_from"] == f"run:{trained} at step 6"
    assert found["features"]["stored"] is False
    assert found["features"]["dimension"] == 16
    assert found["options"] == {"copies": 1, "seeds": 2, "max_iterations": 1000}
    assert found["split"] == "test" and found["class_names"] == ["0", "1", "2"]
    assert [row["penalty"] for row in found["logistic_regression"]["path"]] == (
        pytest.approx([1e-3, 0.1, 10])
    )
    assert [row["shots"] for row in found["few_shot"]] == [1, 3]
    for name in ("nearest_neighbours", "logistic_regression", "head"):
        row = found[name]
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert f"{row['val_accuracy']:.4f}" in out and f"{row['accuracy']:.4f}" in out
    assert found["head"]["num_steps"] == 3
    assert set(found["seconds"]) == {
        "prepare", "features", "nearest_neighbours", "logistic_regression", "head",
        "few_shot",
    }  # fmt: skip
    assert {"device", "versions", "config", "transform", "data"} <= set(found)
    with Image.open(workdir / "probe.png") as picture:
        assert picture.size[0] > 1000
    lines = list(report.lines(found))
    assert all(line in out for line in lines)
    assert not any("converged" in line or "no test split" in line for line in lines)
    assert not list(workdir.rglob("*.part"))


def test_what_must_be_known_is_said():
    found = {
        "split": "val",
        "options": {"max_iterations": 7},
        "logistic_regression": {
            "converged": False,
            "path": [{"converged": True}, {"converged": False}],
        },
        "few_shot": [{"shots": 9, "converged": [True, False], "accuracy_low": None}],
        "features": {"skipped": {"a.png": "no image"}},
    }
    assert list(report.notes(found)) == [
        "no test split: settings were chosen on the very images that are judged",
        "1 of 2 logistic regressions have not converged in 7 iterations; the chosen "
        "one has not",
        "9 a class: 1 of 2 have not converged",
        "9 a class: all draws are the same images: no interval",
        "1 images were skipped; probe.json names them",
    ]


def test_a_run_to_start_from_is_made_first(call, tmp_path, trained, monkeypatch):
    def train_first(config, workdir):
        assert config.data.batch_size == 31
        shutil.copytree(trained, workdir)
        calls.append(workdir)

    calls = []
    monkeypatch.setattr(train, "train_and_evaluate", train_first)
    monkeypatch.setattr(features, "compute", lambda run, *_: stop(run.given.origin))
    more = "pretrain=Config(num_devices=1, data=Data(batch_size=31), "
    more += 'model=Model(width=2, stem="small"))'
    code, _, err = call(more=more)
    place = tmp_path / "probe" / "pretrain"
    assert code == 2 and f"run:{place} at step 6" in err and calls == [place]


def stop(text):
    raise ConfigError(text)


@pytest.mark.parametrize(
    "flags, settings, words",
    [
        (["--shots=1,x"], {}, "--shots = '1,x' must be numbers"),
        (["--shots=0"], {}, "--shots = '0' must be numbers"),
        (["--shots=1,5000"], {}, "5000 images a class .* class '.' has 1"),
        (["--copies=0"], {}, "copies"),
        (["--seeds=x"], {}, "seeds"),
        (["--copies=2"], {}, "data.augment has no operation"),
        (["--copies=2"], {"data": "augment=(Mixup(),)"}, "no operation"),
        (["--config.data.classes=('3',)"], {}, "all are of the class '3'"),
        (["--shot=3"], {}, "shot"),
        (["--workdir="], {}, "--workdir is missing"),
        (["more"], {}, "unexpected argument 'more'"),
    ],
)
def test_a_mistake_is_one_line(call, flags, settings, words):
    code, out, err = call(*flags, **settings)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert re.search(words, err), err


def test_a_workdir_that_cannot_be_used_is_refused(call, tmp_path):
    def refused(words):
        code, _, err = call()
        assert (code, len(err.splitlines())) == (2, 1) and words in err, err

    workdir = tmp_path / "probe"
    workdir.write_text("a file")
    refused("cannot write to workdir")
    workdir.unlink()
    (workdir / "probe.json").mkdir(parents=True)
    refused("cannot write")
    (workdir / "config.json").write_text("{}")
    refused("holds a run")
    config = dataclasses.replace(tiny(), task="gan")
    with pytest.raises(
        ConfigError, match=r"config\.task = 'gan' must be 'classification'"
    ):
        options.check(config, options.Options(workdir, 1, None, 5, 10))


def test_what_is_asked_for_by_default_is_what_there_is():
    run = prepare(tiny(labels_per_class=7, batch_size=20))
    assert probe.choose_shots(run, None) == (1, 5)
    assert probe.choose_shots(run, (2, 7)) == (2, 7)
    assert options.parse_shots("10,1,5,1") == (1, 5, 10)


def test_help_names_every_flag(call):
    code, out, _ = call("--help")
    assert code == 0
    assert all(f"--{name}" in out for name in options.Options._fields)
