"""Training without labels from end to end, and what classification takes from it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from test_plan_runs import interrupt, without_times
from test_train import assert_same_run

from tljax import checkpoint, convert, dry_run, evaluate, predict, probe, train
from tljax.config import (
    Autoencoder,
    Config,
    Data,
    Gan,
    Loss,
    Model,
    Optim,
    Plan,
    validate,
)
from tljax.errors import ConfigError, NonFiniteError
from tljax.tasks import collapse

SMALL = Model(width=2, stem="small")


def run_of(task, **changes):
    """Returns the config of a run of a task that takes a second or two."""
    return Config(
        task=task,
        num_steps=4,
        log_every=1,
        eval_every=2,
        checkpoint_every=2,
        num_devices=1,
        optim=Optim(name="adam", learning_rate=0.003),
        **({"data": Data(source="digits", batch_size=32)} | changes),
    )


def gan_run(**changes):
    settings = {
        "model": Model(name="dcgan", width=4),
        "gan": Gan(latent=4, num_samples=50),
        "judge": run_of("classification", model=SMALL),
    }
    return run_of("gan", **(settings | changes))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Returns (config, workdir, result) of a ResNet as an autoencoder."""
    workdir = tmp_path_factory.mktemp("encoded")
    model = dataclasses.replace(SMALL, name="resnet_autoencoder")
    config = run_of("autoencoder", model=model, autoencoder=Autoencoder(latent=4))
    return config, workdir, train.train_and_evaluate(config, workdir)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Returns (config, workdir, result) of a small GAN with an average."""
    workdir = tmp_path_factory.mktemp("generated")
    config = gan_run()
    config.optim.ema_decay = 0.5
    return config, workdir, train.train_and_evaluate(config, workdir)


def pictures(workdir):
    """Returns the sizes of the pictures in a workdir, (width, height) by name."""
    sizes = {}
    for path in (workdir / "pictures").iterdir():
        with Image.open(path) as image:
            sizes[path.name] = image.size
    return sizes


def test_an_autoencoder_writes_its_measures_and_pictures(encoded):
    _, workdir, result = encoded
    assert result["psnr"] == pytest.approx(-10 * np.log10(result["mse"]))
    assert "accuracy" not in result and result["num_examples"] == 359
    found = pictures(workdir)
    # Ten columns of so many rows, 48 pixels each, with lines of two.
    assert found == {
        f"{name}_{step}.png": (10 * 50 + 2, rows * 50 + 2)
        for name, rows in (("reconstructions", 3), ("interpolation", 5))
        for step in (2, 4)
    }
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    assert {line["split"] for line in lines if "psnr" in line} == {"val", "test"}


def test_a_classifier_takes_the_encoder(encoded, tmp_path, capsys):
    _, workdir, _ = encoded
    config = run_of("classification", model=SMALL, pretrained=f"run:{workdir}")
    config = dataclasses.replace(config, num_steps=1, plan=Plan(preset="head"))
    result = train.train_and_evaluate(config, tmp_path)
    assert result["started_from"] == f"encoder of run:{workdir} at step 4"
    out = capsys.readouterr().out
    assert "100 arrays" in out and "new: fc/bias, fc/kernel" in out
    assert "its 25 other arrays are left" in out
    taken = checkpoint.restore_variables(checkpoint.latest(workdir / "checkpoints"))
    found = checkpoint.restore_variables(checkpoint.latest(tmp_path / "checkpoints"))
    del found["params"]["fc"]
    encoder = {name: taken[name]["encoder"] for name in ("params", "batch_stats")}
    jax.tree.map(np.testing.assert_array_equal, found, encoder)


@pytest.mark.slow
def test_a_gan_writes_its_measures_and_pictures(generated):
    _, workdir, result = generated
    for found in (result, result["ema"]):
        assert found["fd"] == found["fd_resnet18_digits"] > 0
        assert sum(found["class_histogram"]) == found["generated_samples"] == 50
        assert found["real_samples"] == 1168
    assert result["fd"] != result["ema"]["fd"]
    assert result["fd_real_halves"] == result["ema"]["fd_real_halves"] < result["fd"]
    assert (workdir / "judge" / "result.json").exists()
    names = {f"{name}_{step}.png" for name in ("samples", "interpolation")
             for step in (2, 4)}  # fmt: skip
    assert set(pictures(workdir)) == names | {"classes.png"}
    # The best step is that of the least distance.
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    distances = {line["step"]: line["fd"] for line in lines if line["split"] == "val"}
    assert result["best_step"] == min(distances, key=distances.get)


@pytest.mark.slow
def test_a_gan_goes_on_as_if_it_had_not_been_interrupted(generated, tmp_path):
    config, workdir, result = generated
    interrupt(workdir, 2, tmp_path / "again")
    again = train.train_and_evaluate(config, tmp_path / "again")
    assert_same_run(workdir, tmp_path / "again")
    assert without_times(again) == without_times(result)


@pytest.mark.slow
def test_a_classifier_takes_the_trunk_in_one_command(tmp_path):
    model = dataclasses.replace(SMALL, name="resnet_gan")
    gan = gan_run(model=model)
    config = run_of("classification", model=SMALL, pretrain=gan, baseline=True)
    result = train.train_and_evaluate(config, tmp_path)
    place = tmp_path / "pretrain"
    trunk = f"discriminator/trunk of run:{place} at step 4"
    assert result["started_from"] == trunk
    assert result["baseline"]["started_from"] == "scratch"
    assert {path.name for path in place.iterdir()} >= {"judge", "result.json"}


@pytest.mark.slow
def test_a_collapse_is_warned_of_with_its_step(
    generated, tmp_path, monkeypatch, capsys
):
    config, workdir, _ = generated
    monkeypatch.setattr(collapse, "LEAST_DIVERSITY", 10.0)
    gan = dataclasses.replace(config.gan, judge=f"run:{workdir / 'judge'}")
    config = dataclasses.replace(config, judge=None, gan=gan, num_steps=2)
    train.train_and_evaluate(config, tmp_path)
    out = capsys.readouterr().out
    assert "warning: step 1: the generated images differ" in out


@pytest.mark.slow
def test_numbers_that_are_not_finite_end_a_gan(generated, tmp_path):
    """What was saved before stays."""
    config, workdir, _ = generated
    gan = dataclasses.replace(config.gan, judge=f"run:{workdir / 'judge'}")
    optim = dataclasses.replace(config.optim, name="sgd", learning_rate=1e3)
    config = dataclasses.replace(
        config, judge=None, gan=gan, optim=optim, num_steps=8, checkpoint_every=1
    )
    with pytest.raises(NonFiniteError, match="step 2: loss"):
        train.train_and_evaluate(config, tmp_path)
    folder = checkpoint.latest(tmp_path / "checkpoints")
    for leaf in jax.tree.leaves(checkpoint.restore_variables(folder)):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: gan_run(judge=None),
            "needs a classifier to measure samples by: set config.judge",
        ),
        (
            lambda: gan_run(judge=gan_run()),
            r"config.judge.task = 'gan' must be 'classification'",
        ),
        (
            lambda: gan_run(model=Model(name="resnet18")),
            "'resnet18' is no model of config.task = 'gan'; choose from: dense_gan",
        ),
        (
            lambda: gan_run(model=Model(name="dense_gan", dropout=0.1)),
            "config.model.dropout is for config.task = 'classification', not for 'gan'",
        ),
        (
            lambda: gan_run(pretrained="run:/x"),
            "'gan' begins at random weights",
        ),
        (
            lambda: gan_run(plan=Plan(preset="head")),
            "in 'gan' everything trains",
        ),
        (
            lambda: gan_run(gan=Gan(loss="hing")),
            r"config.gan.loss = 'hing' is unknown \(did you mean 'hinge'\?\)",
        ),
        (
            lambda: gan_run(gan=Gan(latent=0)),
            "config.gan.latent = 0 must be at least 1",
        ),
        (
            lambda: gan_run(gan=Gan(num_samples=3)),
            "config.gan.num_samples = 3 must be at least 4",
        ),
        (
            lambda: run_of("autoencoder", autoencoder=Autoencoder(latent=0)),
            "config.autoencoder.latent = 0 must be at least 1",
        ),
    ],
)
def test_configs_that_cannot_be_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        validate(make())


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": Data(image_size=20)}, "the nearest sizes are 16 and 32"),
        ({"gan": Gan(discriminator_steps=5)}, "= 5 must divide the batch of 64"),
        ({"gan": Gan(judge="run:/nowhere"), "judge": None}, "/nowhere does not exist"),
        ({"gan": Gan(judge="walk:/x"), "judge": None}, "must be run:WORKDIR or incep"),
    ],
)
def test_a_gan_that_cannot_be_is_refused(change, message, tmp_path, generated):
    gan = Gan(judge=f"run:{generated[1] / 'judge'}")
    config = gan_run(**({"judge": None, "gan": gan, "data": Data()} | change))
    if not config.gan.judge:
        config.gan.judge = gan.judge
    with pytest.raises(ConfigError, match=message):
        train.train_and_evaluate(config, tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({}, "discriminator_steps = 4 must divide the batch of 34 images$"),
        # All of 36 could be dealt out, and the 9 of each device cannot.
        (
            {"compile": "pmap", "num_devices": 4},
            "= 4 must divide the batch of 36 images, of which each device has 9$",
        ),
    ],
)
def test_a_gan_is_refused_before_its_judge_is_trained(changes, message, tmp_path):
    data = Data(source="digits", batch_size=36 if changes else 34)
    config = gan_run(data=data, gan=Gan(latent=4, discriminator_steps=4))
    with pytest.raises(ConfigError, match=message):
        train.train_and_evaluate(dataclasses.replace(config, **changes), tmp_path)
    assert not (tmp_path / "judge").exists()


@pytest.mark.parametrize(
    "gan, message",
    [
        (Gan(judge="run:/nowhere"), "/nowhere does not exist"),
        (Gan(judge="walk:/x"), "gan.judge = 'walk:/x' must be run:WORKDIR or incep"),
    ],
)
def test_a_dry_run_opens_the_judge(gan, message):
    with pytest.raises(ConfigError, match=message):
        dry_run.dry_run(gan_run(judge=None, gan=gan))


def test_what_is_wrong_with_a_run_is_found_before_its_pretraining(tmp_path):
    """Also what only its step can tell."""
    config = run_of("classification", model=SMALL)
    weights = Loss(class_weights=(1.0, 2.0))
    config = dataclasses.replace(config, pretrain=config, loss=weights)
    with pytest.raises(ConfigError, match="class_weights"):
        train.train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "pretrain").exists()


@pytest.mark.slow
def test_what_does_not_fit_a_classifier_is_refused(encoded, generated, tmp_path):
    wide = Model(width=4, stem="small")
    for workdir, model, message in (
        (encoded[1], wide, r"'width': 2, 'stem': 'small'.*\(2,\), not \(4,\)"),
        (generated[1], SMALL, "is of a dcgan, in which there is no ResNet"),
        (tmp_path, SMALL, "there is no checkpoint there"),
    ):
        config = run_of("classification", model=model, pretrained=f"run:{workdir}")
        with pytest.raises(ConfigError, match=message):
            train.train_and_evaluate(config, tmp_path / "run")


@pytest.mark.parametrize("command, flags", [
    (evaluate, ()), (predict, ("--images=/x.png", "--output=/x.csv")),
])  # fmt: skip
def test_commands_for_classes_refuse_what_knows_none(
    command, flags, encoded, call_command
):
    code, _, err = call_command(command, f"--workdir={encoded[1]}", *flags)
    assert code == 2 and err.count("\n") == 1
    assert "config.task = 'autoencoder' must be 'classification'" in err


def test_a_probe_refuses_what_knows_no_classes(encoded, tmp_path, call_command):
    path = tmp_path / "config.py"
    path.write_text(
        "from tljax.config import Config, Model\n"
        "def get_config():\n"
        "    model = Model(name='tied_autoencoder')\n"
        "    return Config(task='autoencoder', model=model)\n"
    )
    code, _, err = call_command(
        probe, f"--config={path}", f"--workdir={tmp_path / 'probe'}"
    )
    assert code == 2 and "must be 'classification'" in err and err.count("\n") == 1


def test_an_encoder_is_converted(encoded, tmp_path, call_command):
    output = tmp_path / "encoder.safetensors"
    code, _, err = call_command(
        convert, f"--input={encoded[1]}", f"--output={output}", "--head=drop"
    )
    assert code == 0, err
    assert output.exists()
