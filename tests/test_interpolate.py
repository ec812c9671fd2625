"""The command `tljax.interpolate` on tiny runs: what it writes, chooses and refuses."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from tljax import (
    checkpoint,
    convert,
    entry,
    evaluate,
    interpolate,
    predict,
    pretrained,
    train,
    workdirs,
)
from tljax.config import Config, Data, Model, Optim
from tljax.data.operations import RandomCrop
from tljax.interpolation import judging


def tiny(classes, **changes):
    """Returns the config of a run of two steps on some digits."""
    settings = {
        "num_steps": 2,
        "log_every": 1,
        "eval_every": 1,
        "checkpoint_every": 1,
        "num_devices": 1,
        "model": Model(width=2, stem="small"),
        "data": Data(
            batch_size=50,
            classes=tuple(classes),
            labels_per_class=40,  # As many for all, so that programs are shared.
            augment=(RandomCrop(padding=1),),
        ),
        "optim": Optim(learning_rate=0.05),
    }
    return Config(**(settings | changes))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns the folder of a run with a new head, a, and of others like it.

    b is of another seed, wide of another model, data and shape of other images.
    """
    root = tmp_path_factory.mktemp("runs")
    a = tiny("567", pretrain=tiny("012", num_steps=3))
    train.train_and_evaluate(a, root / "a")
    b = dataclasses.replace(a, pretrain=None, seed=1, pretrained=f"run:{root}/a")
    write_like(root / "a", root / "b", b)
    wide = dataclasses.replace(b, model=Model(width=3, stem="small"))
    write_like(root / "a", root / "wide", wide)
    data = dataclasses.replace(b.data, seed=2, batch_size=10)
    write_like(root / "a", root / "data", dataclasses.replace(b, data=data))
    write_like(root / "a", root / "shape", b, transform={"resize": 9})
    return root


def write_like(workdir, place, config, **changes):
    """Writes a run with weights a little beside those of another one."""
    folder = checkpoint.latest(workdir / "checkpoints")
    variables = checkpoint.restore_variables(folder)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: leaf * rng.uniform(0.9, 1.1, leaf.shape).astype(leaf.dtype),
        variables,
    )
    meta = checkpoint.read_meta(folder)
    started_from = f"{config.pretrained} at step {folder.name}"
    meta |= {"config": workdirs.as_json(config), "started_from": started_from}
    meta["transform"] |= changes.get("transform", {})
    with (
        workdirs.hold(place, config),
        checkpoint.Checkpoints(place / "checkpoints", config) as checkpoints,
    ):
        checkpoints.save(2, variables, meta, {})


@pytest.fixture
def call(call_command):
    """Returns a function that runs a command in this process."""

    def run_here(*flags, command=interpolate):
        return call_command(command, *flags)

    return run_here


def read(output):
    return json.loads((output / "interpolation.json").read_text())


def last_weights(workdir):
    return checkpoint.restore_variables(checkpoint.latest(workdir / "checkpoints"))


def test_a_line_from_start_to_run(runs, call, tmp_path):
    """Its ends are the runs as they are, in numbers and bits; the rest is by hand."""
    output = tmp_path / "out"
    flags = [f"--workdir={runs}/a", "--alphas=0.5,0.25", f"--output={output}"]
    code, out, err = call(*flags)
    assert (code, err) == (0, "")
    found = read(output)
    rows = {row["alpha"]: row for row in found["rows"]}
    assert list(rows) == [0.0, 0.25, 0.5, 1.0]
    assert all((rows[alpha]["val_recalibrated"] is None) == (alpha in (0, 1))
               for alpha in rows)  # fmt: skip
    lines = [json.loads(line) for line in (runs / "a" / "metrics.jsonl").open()]
    val = next(line for line in lines if line["split"] == "val" and line["step"] == 2)
    assert rows[1.0]["val"]["accuracy"] == pytest.approx(val["accuracy"], abs=1e-12)
    assert rows[1.0]["val"]["log_loss"] == pytest.approx(val["loss"], rel=1e-6)
    result = json.loads((runs / "a" / "result.json").read_text())
    ends = {one["alpha"]: one for one in found["results"]}
    assert ends[1.0]["accuracy"] == pytest.approx(result["accuracy"], abs=1e-12)
    assert ends[1.0]["log_loss"] == pytest.approx(result["loss"], rel=1e-6)
    for one in found["results"]:
        assert one["accuracy_low"] <= one["accuracy"] <= one["accuracy_high"]
    # The best on validation, and never below the run.
    scores = {
        (alpha, key): (row[key]["accuracy"], -row[key]["log_loss"])
        for alpha, row in rows.items()
        for key in ("val", "val_recalibrated")
        if row[key]
    }
    chosen = max(scores, key=scores.get)
    assert found["chosen"]["alpha"] == chosen[0]
    assert found["chosen"]["recalibrated"] == (chosen[1] == "val_recalibrated")
    assert found["chosen"]["val"]["accuracy"] >= rows[1.0]["val"]["accuracy"]
    start, end = last_weights(runs / "a" / "pretrain"), last_weights(runs / "a")
    expected = (1 - chosen[0]) * start["params"]["conv1"]["kernel"] + chosen[0] * end[
        "params"
    ]["conv1"]["kernel"]
    kept = last_weights(output)
    np.testing.assert_allclose(
        kept["params"]["conv1"]["kernel"], expected, rtol=1e-5, atol=1e-7
    )
    # The start has other classes: the head is that of the run.
    np.testing.assert_allclose(
        kept["params"]["fc"]["kernel"], end["params"]["fc"]["kernel"], rtol=1e-6
    )
    for words in ("alpha 0.25 ", "chosen on validation", "95 % interval", "the start"):
        assert words in out
    with Image.open(output / "interpolation.png") as image:
        image.load()
        assert image.format == "PNG" and min(image.size) > 300
    # What is there is left alone.
    code, _, err = call(*flags)
    assert code == 2 and "holds a run already" in err


@pytest.fixture(scope="module")
def output(runs, tmp_path_factory):
    """Returns a workdir that the mean of two runs was written to."""
    output = tmp_path_factory.mktemp("mean") / "out"
    code = entry.run_command(
        interpolate.run,
        ["", f"--workdir={runs}/a", f"--runs={runs}/b", f"--output={output}"],
    )
    assert code == 0
    return output


def test_runs_are_averaged(runs, output):
    found = read(output)
    names = [f"1: {runs}/a", f"2: {runs}/b", "mean of 1, 2"]
    assert [row["name"] for row in found["rows"]] == names
    best = max(row["val"]["accuracy"] for row in found["rows"][:2])
    assert found["chosen"]["val"]["accuracy"] >= best
    assert found["gain"]["over"] == "the best run"
    assert (output / "interpolation.png").exists()


def test_the_output_is_a_workdir(runs, output, call, fast, tmp_path):
    """It is evaluated, converted, asked, started from, and said to be finished."""
    found = read(output)
    result = json.loads((output / "result.json").read_text())
    assert call(f"--workdir={output}", command=evaluate)[0] == 0
    metrics = json.loads((output / "evaluation" / "metrics.json").read_text())
    (chosen,) = (one for one in found["results"]
                 if one["row"] == found["chosen"]["row"])  # fmt: skip
    for name in ("accuracy", "f1_macro", "roc_auc", "accuracy_low", "accuracy_high"):
        assert metrics[name] == pytest.approx(chosen[name], abs=1e-6)
    assert metrics["confusion_matrix"] == result["confusion_matrix"]
    assert metrics["started_from"] == result["started_from"]
    assert f"run:{runs}/" in metrics["started_from"]
    assert call(f"--workdir={output}", "--split=val", command=evaluate)[0] == 0
    val = json.loads((output / "evaluation_val" / "metrics.json").read_text())
    expected = found["chosen"]["val"]
    assert val["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-12)
    assert val["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-6)
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    flags = [f"--images={tmp_path}/x.png", f"--output={tmp_path}/x.csv"]
    assert call(f"--workdir={output}", *flags, command=predict)[0] == 0
    with (tmp_path / "x.csv").open() as file:
        assert len(list(csv.reader(file))) == 2
    flags = [f"--input={output}", f"--output={tmp_path}/x.safetensors"]
    assert call(*flags, command=convert)[0] == 0
    given = pretrained.load(f"run:{output}")
    np.testing.assert_array_equal(
        given["params"]["fc"]["bias"], last_weights(output)["params"]["fc"]["bias"]
    )
    # A finished run returns its result, and trains nothing.
    config = workdirs.load_classifier(output)
    assert train.train_and_evaluate(config, output) == result
    # Its own start is not there: one line.
    code, _, err = call(f"--workdir={output}", f"--output={tmp_path}/again")
    assert code == 2 and "cannot be had any more" in err
    assert len(err.splitlines()) == 1


def test_statistics_are_measured_on_the_training_images(runs, monkeypatch, tmp_path):
    """The batches of one epoch, no image twice; not for what was trained."""
    options = interpolate.parse(["", f"--workdir={runs}/a"])
    run, saved = evaluate.open_run(runs / "a", options)
    found = interpolate.ingredients.load_line(run, saved, runs / "a")
    terminal = judging.Terminal("test", 0, 0)
    bench = judging.prepare(run, found.variables, terminal)
    seen = []
    add = bench.meter.program

    def count(state, batch, stored):
        seen.append(np.asarray(batch["index"]))
        return add(state, batch, stored)

    bench = bench._replace(meter=bench.meter._replace(program=count))
    trial = judging.judge(bench, "x", found.variables[1], False)
    number = len(run.source.splits["train"].labels)
    assert len(seen) == number // 50
    assert len(set(np.concatenate(seen))) == len(seen) * 50
    before, after = (one.variables for one in trial)
    np.testing.assert_array_equal(
        after["params"]["conv1"]["kernel"], before["params"]["conv1"]["kernel"]
    )
    assert not np.allclose(
        after["batch_stats"]["bn1"]["mean"], before["batch_stats"]["bn1"]["mean"]
    )
    assert trial.plain.score != trial.recalibrated.score
    assert judging.judge(bench, "x", found.variables[1], True).recalibrated is None
    # What is the same in start and run was frozen, and follows nothing.
    same = judging.prepare(run, [found.variables[1]] * 2, terminal)
    assert same.meter is None
    assert judging.judge(same, "x", found.variables[1], False).recalibrated is None


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], "--workdir is missing"),
        (["--workdir=NOWHERE"], "does not exist"),
        (["--workdir=A", "--alphas=0.5,2"], "'2' must be a number from 0 to 1"),
        (["--workdir=A", "--alphas=half"], "'half' must be a number from 0 to 1"),
        (["--workdir=A", "--alphas=nan"], "must be a number from 0 to 1"),
        (["--workdir=A", "--alphas=0.5", "--runs=B"], "are of one run and its start"),
        (["--workdir=A", "--step=7"], "--step = '7' is unknown; choose from: best"),
        (["--workdir=A", "--alpha=1"], "Did you mean: alphas"),
        (["--workdir=A", "--output=FILE/x"], "cannot write to workdir"),
        (["--workdir=A", "--runs=A"], "is named twice"),
        (["--workdir=A", "--runs=NOWHERE"], "does not exist"),
        (["--workdir=A", "--runs=A/pretrain"],
         "other data: config.data.classes is ['0', '1', '2'] there"),
        (["--workdir=A", "--runs=ROOT/wide"],
         "another model: config.model.width is 3 there, not 2"),
        (["--workdir=A", "--runs=ROOT/data"],
         "other data: config.data.seed is 2 there, not 0\n"),
        (["--workdir=A", "--runs=ROOT/shape"], "other images: transform is"),
        (["--workdir=A/pretrain"], "there is nothing to interpolate from"),
        (["--workdir=A", "--entry=ema"], "holds no moving average"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_code_2(runs, call, tmp_path, flags, words):
    (tmp_path / "file").write_text("")
    places = {"NOWHERE": tmp_path / "no", "FILE": tmp_path / "file", "=A": f"={runs}/a",
              "=B": f"={runs}/b", "ROOT": runs}  # fmt: skip
    for name, place in places.items():
        flags = [flag.replace(name, str(place)) for flag in flags]
    code, _, err = call(*flags)
    assert code == 2 and words in err, err
    assert err.startswith("tljax: ") and len(err.splitlines()) == 1


def test_a_start_that_is_gone(runs, call, tmp_path):
    def refused(code, words, *flags):
        found, _, err = call(*flags, f"--output={tmp_path}/out")
        assert found == code and words in err and len(err.splitlines()) == 1, err

    # A workdir may be moved; its start may go, be damaged, or train on.
    moved = tmp_path / "moved"
    shutil.copytree(runs / "a", moved)
    options = interpolate.parse(["", f"--workdir={moved}"])
    run, saved = evaluate.open_run(moved, options)
    interpolate.ingredients.load_start(run, saved, moved)
    step = moved / "pretrain" / "checkpoints" / "3"
    (step / checkpoint.MANIFEST).write_text("{")
    refused(4, "cannot be had any more: checkpoint step 3 is damaged",
            f"--workdir={moved}")  # fmt: skip
    shutil.rmtree(step)
    refused(2, "what is there now is", f"--workdir={moved}")
    shutil.rmtree(moved / "pretrain")
    refused(2, "cannot be had any more: weights", f"--workdir={moved}")
    shutil.rmtree(moved / "checkpoints")
    refused(2, "holds no checkpoint", f"--workdir={moved}")
    assert not (tmp_path / "out").exists()


def test_help_names_every_flag(call):
    code, out, _ = call("--help")
    assert code == 0
    values = interpolate.parse(["", "--workdir=x"]).flag_values_dict()
    assert all(f"--{name}" in out for name in values if "?" not in name)
    assert interpolate.parse_alphas("") == [n / 10 for n in range(11)]


def test_other_seeds_and_other_starts_are_noted(runs):
    load = interpolate.ingredients
    first, other = (evaluate.network.find(runs / place) for place in "ab")
    assert not list(load.find_notes([first, first]))
    starts, seeds = load.find_notes([first, other])
    assert "different weights" in starts and f"run:{runs}/a/pretrain at" in starts
    assert "different seeds, 0, 1" in seeds


@pytest.mark.parametrize("name, start", [("a", "a/pretrain"), ("b", "a")])
def test_the_head_of_the_start_is_taken_where_it_is_of_these_classes(runs, name, start):
    """As training takes it: the run b started from one of its own classes."""
    options = interpolate.parse(["", f"--workdir={runs / name}"])
    run, saved = evaluate.open_run(runs / name, options)
    found = interpolate.ingredients.load_line(run, saved, runs / name)
    given, trained = last_weights(runs / start), last_weights(runs / name)
    head = trained if name == "a" else given
    expected = {**given, "params": given["params"] | {"fc": head["params"]["fc"]}}
    jax.tree.map(np.testing.assert_array_equal, found.variables[0], expected)
    jax.tree.map(np.testing.assert_array_equal, found.variables[1], trained)
    assert found.origins[1] == f"run:{runs}/{name} at step 2"
