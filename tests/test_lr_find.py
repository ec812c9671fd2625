"""The learning-rate range test: its rates, its losses, its suggestion, its command."""

import csv
import json

import jax
import numpy as np
import pytest

from tljax import lr_find, plan, programs
from tljax.config import Data, Gan, Model, Optim, Plan
from tljax.entry import run_command
from tljax.lr_find import Curve
from tljax.plan import Row

CONFIG = """
from tljax.config import *

def get_config():
    return Config(
        num_steps=4,
        num_devices=1,
        model=Model(width=2, stem="small"),
        data=Data(batch_size=32),
        optim=Optim(name="momentum"),
    )
"""


def test_the_rates_are_a_geometric_series():
    schedule = lr_find.growing(1e-5, 10.0, 7)
    found = [float(schedule(update)) for update in range(7)]
    np.testing.assert_allclose(found, np.geomspace(1e-5, 10, 7), rtol=1e-5)


def curve(losses) -> Curve:
    losses = np.array(losses, np.float64)
    return Curve(np.geomspace(1e-4, 1, len(losses)), losses, losses)


def test_the_rate_at_which_the_loss_falls_fastest_is_suggested():
    rates = np.geomspace(1e-4, 1, 41)
    # A sigmoid of the logarithm falls fastest in its middle; then the loss runs away.
    losses = 1 / (1 + (rates / 1e-2) ** 2) + (rates / 0.5) ** 4
    found = lr_find.suggest(Curve(rates, losses, losses))
    assert found["suggestion"] == pytest.approx(1e-2, rel=0.01)
    assert found["lowest"] == pytest.approx(rates[losses.argmin()])


@pytest.mark.parametrize("losses", [[1.0, 1.1, 1.2, 2.0], [1, 1, 1, 1], [1.0, 0.5], []])
def test_nothing_is_suggested_where_the_loss_does_not_fall(losses):
    assert lr_find.suggest(curve(losses)) == {"suggestion": None, "lowest": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns the folder of a test, and its command line."""
    folder = tmp_path_factory.mktemp("lr_find")
    path = folder / "config.py"
    path.write_text(CONFIG)
    argv = ["lr_find", f"--config={path}", f"--workdir={folder / 'found'}"]
    assert run_command(lr_find.run, [*argv, "--updates=12", "--high=1000"]) == 0
    return folder / "found", argv


def test_the_command_writes_the_losses_at_growing_rates(made):
    folder, _ = made
    with (folder / "lr_find.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["learning_rate", "loss", "smoothed_loss"]
    rates, losses, smoothed = np.array(rows, float).T
    np.testing.assert_allclose(rates, np.geomspace(1e-6, 1000, 12)[: len(rates)])
    found = json.loads((folder / "lr_find.json").read_text())
    assert found["updates"] == len(rates) <= 12
    weights = 0.8 ** np.arange(len(losses))[::-1]
    assert smoothed[-1] == pytest.approx(np.average(losses, weights=weights))
    # Diverged on the way, or with the last rate.
    assert len(rates) < 12 or smoothed[-1] > smoothed.min()
    assert (folder / "lr_find.png").stat().st_size > 10_000


def test_the_first_loss_is_that_of_training(made, tiny_config):
    """At so small a rate the loss of the first steps is that of the first weights."""
    folder, _ = made
    config = tiny_config(data=Data(batch_size=32))
    run = lr_find.prepare(config)
    state, _ = lr_find.begin(run)
    step = jax.jit(programs.train_step(run, run.plan.phases[0]))
    split = lr_find.open_splits(run, lr_find.Terminal("", 1, 1))["train"]
    batches = lr_find.train_batches(run, split, 0)
    _, metrics = step(state, next(batches), lr_find.stored_images(run, split))
    batches.close()
    rows = (folder / "lr_find.csv").read_text().splitlines()
    assert float(rows[1].split(",")[1]) == pytest.approx(float(metrics["loss"]), 1e-5)


def test_only_what_trains_in_the_first_phase_moves(tiny_config, tmp_path, capsys):
    """The gradient of a row that joins later is never taken."""
    rows = (Row("fc/"), Row("", unfreeze_at=2))
    config = tiny_config(
        plan=Plan(rows=rows), optim=Optim(name="adam", accumulate_steps=2)
    )
    found = lr_find.find(config, tmp_path, 1e-4, 1.0, 10)
    assert found["updates"] <= 10
    phase = plan.resolve(rows, ["fc/kernel", "conv1/kernel"]).phases[0]
    assert phase.trained == {"row0": ("fc/kernel",)}
    assert "learning rate" in capsys.readouterr().out


def test_networks_without_labels_have_their_own_optimisers(tiny_config, tmp_path):
    model = Model(name="dense_gan", width=2)
    config = tiny_config(task="gan", model=model, gan=Gan(latent=4))
    assert lr_find.find(config, tmp_path, 1e-5, 1e-3, 4)["updates"] == 4


@pytest.mark.slow
def test_statistics_are_recalibrated_as_they_are_for_the_run(tiny_config, tmp_path):
    """The first loss is that of a run whose frozen layers were measured first."""
    plain = Plan(batch_norm="frozen_statistics")
    measured = Plan(batch_norm="recalibrate")
    losses = []
    for number, settings in enumerate((plain, measured)):
        lr_find.find(tiny_config(plan=settings), tmp_path / str(number), 1e-6, 1e-5, 10)
        text = (tmp_path / str(number) / "lr_find.csv").read_text()
        losses.append(float(text.splitlines()[1].split(",")[1]))
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_a_loss_that_runs_away_at_once_asks_for_lower_rates():
    found = {"suggestion": None, "lowest": None, "low": 1.0, "high": 9.0, "updates": 2}
    assert "take a --low below 1" in lr_find.describe(found)
    assert "does not fall" in lr_find.describe(found | {"updates": 9})


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--low=1", "--high=0.1"], "--low=1 must be above 0 and below --high=0.1"),
        (["--low=0"], "--low=0 must be above 0"),
        (["--updates=3"], "updates"),
        (["--hihg=3"], "Unknown command line flag 'hihg'"),
        (["--workdir=/proc/none"], "cannot write to /proc/none"),
        (["--config.model.name=resnet19"], "did you mean 'resnet18'"),
    ],
)
def test_a_mistake_costs_a_line(made, capsys, flags, message):
    _, argv = made
    assert run_command(lr_find.run, [*argv, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
