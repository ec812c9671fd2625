"""The whole loop: one compilation each, exact resume, results, refusals."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import optax
import pytest
from sklearn import metrics as sklearn_metrics

from tljax import checkpoint, train
from tljax.config import Config, Data, Model, Optim
from tljax.data import sources
from tljax.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from tljax.pretrained import weights
from tljax.tasks import classification


def final_state(workdir):
    """Returns the arrays of the latest checkpoint, by name."""
    folder = checkpoint.latest(workdir / "checkpoints")
    return folder.name, checkpoint.restore_variables(folder)


def assert_same_run(first, second):
    """Both workdirs end with bitwise equal variables and equal lines of metrics."""
    (step, variables), (other_step, others) = final_state(first), final_state(second)
    assert step == other_step
    jax.tree.map(np.testing.assert_array_equal, variables, others)
    assert lines(first) == lines(second)


def lines(workdir):
    """Returns the lines of metrics.jsonl without what measures time."""
    found = []
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        values.pop("images_per_second", None)
        found.append(values)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns (config, workdir, result, traces) of a run of four steps."""
    workdir = tmp_path_factory.mktemp("finished")
    config = Config(
        num_steps=4,
        log_every=1,
        eval_every=2,
        checkpoint_every=2,
        num_devices=1,
        model=Model(width=2, stem="small"),
        data=Data(batch_size=50),
        optim=Optim(learning_rate=0.05),
    )
    traces = {"train_step": 0, "eval_step": 0}

    def counted(name):
        step = getattr(classification, name)

        def run(*args, **kwargs):
            traces[name] += 1
            return step(*args, **kwargs)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in traces:
            patch.setattr(classification, name, counted(name))
        result = train.train_and_evaluate(config, workdir)
    return config, workdir, result, traces


def test_each_step_is_traced_once(finished):
    """Three validations with a partial last batch and a test compile nothing more."""
    _, _, _, traces = finished
    assert traces == {"train_step": 1, "eval_step": 1}


def test_a_workdir_holds_what_the_contract_says(finished):
    _, workdir, result, _ = finished
    assert json.loads((workdir / "config.json").read_text())["num_steps"] == 4
    assert json.loads((workdir / "result.json").read_text()) == result
    assert list(workdir.glob("events.out.tfevents.*"))
    steps = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert steps == ["2", "4"]
    assert [(line["step"], line["split"]) for line in lines(workdir)] == [
        (1, "train"),
        (2, "train"),
        (2, "val"),
        (3, "train"),
        (4, "train"),
        (4, "val"),
        (4, "test"),
    ]
    expected = {
        "step": 4,
        "split": "test",
        "num_classes": 10,
        "num_examples": 359,
        "class_names": list("0123456789"),
        "started_from": "scratch",
    }
    assert result | expected == result
    assert set(result["versions"]) == {"python", "jax", "flax", "tljax"}
    assert result["device"]["platform"] == "cpu"
    assert result["images_per_second"] > 0 and result["compile_seconds"] > 0
    assert np.sum(result["confusion_matrix"]) == 359


def test_the_result_is_that_of_the_saved_weights(finished):
    """Every number again, from the checkpoint, by scikit-learn, in one batch."""
    config, workdir, result, _ = finished
    test = sources.load(config.data).splits["test"]
    model = classification.create_model(config, 10)
    logits = jax.jit(model.apply)(
        final_state(workdir)[1],
        classification.augment.normalize(test.images, (0.5,), (0.5,)),
    )
    predictions = np.argmax(logits, axis=-1)
    report = sklearn_metrics.precision_recall_fscore_support(
        test.labels, predictions, average="macro", zero_division=0
    )
    found = [result[f"{name}_macro"] for name in ("precision", "recall", "f1")]
    np.testing.assert_allclose(found, report[:3], atol=1e-12)
    assert result["accuracy"] == pytest.approx(np.mean(predictions == test.labels))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, test.labels)
    assert result["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)


def test_a_finished_run_is_not_run_again(finished, monkeypatch):
    config, workdir, result, _ = finished
    monkeypatch.setattr(train, "prepare", lambda config: pytest.fail("ran again"))
    assert train.train_and_evaluate(config, workdir) == result


def test_the_seed_repeats_the_run_and_another_does_not(finished, tmp_path):
    config, workdir, _, _ = finished
    train.train_and_evaluate(config, tmp_path / "again")
    assert_same_run(workdir, tmp_path / "again")
    other = dataclasses.replace(config, seed=1)
    train.train_and_evaluate(other, tmp_path / "other")
    with pytest.raises(AssertionError):
        assert_same_run(workdir, tmp_path / "other")


def test_another_config_is_refused_and_says_where_it_differs(finished):
    config, workdir, _, _ = finished
    other = dataclasses.replace(config, seed=5, optim=Optim(learning_rate=0.5))
    with pytest.raises(ConfigError) as raised:
        train.train_and_evaluate(other, workdir)
    message = str(raised.value)
    assert "config.seed is 0 there, not 5" in message
    assert "config.optim.learning_rate is 0.05 there, not 0.5" in message
    assert "num_steps" not in message


def test_what_does_not_change_the_weights_may_change(finished, monkeypatch):
    config, workdir, result, _ = finished
    monkeypatch.setattr(train, "prepare", lambda config: pytest.fail("ran again"))
    other = dataclasses.replace(config, log_every=3, keep_checkpoints=7)
    assert train.train_and_evaluate(other, workdir) == result


def test_a_result_of_another_config_is_not_returned(finished, tmp_path):
    config, workdir, _, _ = finished
    for name in ("config.json", "result.json"):
        (tmp_path / name).write_text((workdir / name).read_text())
    with pytest.raises(ConfigError, match=r"config\.seed is 0 there, not 5"):
        train.train_and_evaluate(dataclasses.replace(config, seed=5), tmp_path)


@pytest.mark.slow
def test_an_attempt_that_came_to_nothing_is_no_reason_to_refuse(tiny_config, tmp_path):
    wrong = tiny_config(data=Data(labels_per_class=10_000))
    with pytest.raises(DataError):
        train.train_and_evaluate(wrong, tmp_path)
    right = tiny_config(num_steps=1)
    assert train.train_and_evaluate(right, tmp_path)["step"] == 1


def test_a_saved_config_without_a_new_setting_has_its_default(finished):
    config, _, _, _ = finished
    saved = train.workdirs.as_json(config)
    asked = train.workdirs.as_json(config)
    del saved["optim"]["clip_norm"], saved["precision"]
    assert train.workdirs.compare(saved, asked) == []
    asked["optim"]["clip_norm"] = 2.0
    assert train.workdirs.compare(saved, asked) == [
        "config.optim.clip_norm is 0.0 there, not 2.0"
    ]


@pytest.mark.slow
def test_four_devices_save_resume_and_evaluate_as_one(finished, tmp_path):
    """Begun on four devices, resumed on one: the numbers of one device."""
    config, _, _, _ = finished
    four = dataclasses.replace(
        config, num_devices=4, data=dataclasses.replace(config.data, batch_size=48)
    )
    one = dataclasses.replace(four, num_devices=1)
    expected = train.train_and_evaluate(one, tmp_path / "one")
    result = train.train_and_evaluate(four, tmp_path / "four")
    assert result["device"]["count"] == 4
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    shutil.rmtree(tmp_path / "four" / "checkpoints" / "4")
    (tmp_path / "four" / "result.json").unlink()
    resumed = train.train_and_evaluate(one, tmp_path / "four")
    assert resumed["device"]["count"] == 1
    assert resumed["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert np.sum(result["confusion_matrix"]) == 359


def test_the_best_is_saved_between_checkpoints(tiny_config, tmp_path):
    config = tiny_config(num_steps=3, eval_every=1, checkpoint_every=0)
    result = train.train_and_evaluate(config, tmp_path)
    accuracies = {
        line["step"]: line["accuracy"]
        for line in lines(tmp_path)
        if line["split"] == "val"
    }
    best = max(accuracies.values())
    assert accuracies[result["best_step"]] == best
    assert (tmp_path / "checkpoints" / str(result["best_step"])).exists()


def test_a_workdir_in_use_is_refused(tiny_config, tmp_path):
    config = tiny_config()
    with (
        train.workdirs.hold(tmp_path, config),
        pytest.raises(ConfigError, match=r"is in use by process \d+ on "),
    ):
        train.train_and_evaluate(config, tmp_path)


def test_a_checkpoint_of_another_run_is_refused(finished, tiny_config, tmp_path):
    config, workdir, _, _ = finished
    (tmp_path / "checkpoints").symlink_to(workdir / "checkpoints")
    other = dataclasses.replace(config, optim=Optim(learning_rate=0.5))
    with pytest.raises(CheckpointError, match=r"another run: config\.optim\.learning"):
        train.train_and_evaluate(other, tmp_path)


def test_a_damaged_checkpoint_ends_the_run(tiny_config, tmp_path):
    config = tiny_config(num_steps=2)
    train.train_and_evaluate(config, tmp_path)
    (tmp_path / "result.json").unlink()
    folder = checkpoint.latest(tmp_path / "checkpoints")
    damaged = max(folder.rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"step 2 is damaged: .*differs from"):
        train.train_and_evaluate(config, tmp_path)
    assert damaged.read_bytes() == data


@pytest.mark.slow
def test_the_last_good_state_stays_when_numbers_are_not_finite(tiny_config, tmp_path):
    """The warm-up's first step does nothing; its second leaves no finite weight."""
    config = tiny_config(
        num_steps=60,
        checkpoint_every=1,
        eval_every=0,
        optim=Optim(name="sgd", learning_rate=3e38, warmup_steps=50),
    )
    with pytest.raises(NonFiniteError, match=r"step 2: loss .* not finite") as raised:
        train.train_and_evaluate(config, tmp_path)
    assert raised.value.exit_code == 5
    step, variables = final_state(tmp_path)
    assert step == "1"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
    assert not (tmp_path / "result.json").exists()


def test_gradient_descent_takes_the_whole_training_set(tiny_config, tmp_path):
    config = tiny_config(
        num_steps=1,
        data=Data(batch_size=0, labels_per_class=2),
        optim=Optim(name="gradient_descent"),
    )
    run = train.prepare(config)
    assert run.batch_size == 20


@pytest.mark.slow
def test_precision_and_accumulation_and_clipping_run(tiny_config, tmp_path):
    config = tiny_config(
        num_steps=2,
        precision="bfloat16",
        optim=Optim(name="adamw", accumulate_steps=2, clip_norm=1.0, weight_decay=0.1),
    )
    result = train.train_and_evaluate(config, tmp_path)
    assert 0 <= result["accuracy"] <= 1


def test_transfer_and_baseline(tiny_config, tmp_path, capsys):
    """The backbone is taken, the head of other classes is not; all in one result."""
    source = tiny_config(data=Data(classes=("0", "1", "2"), batch_size=32))
    config = tiny_config(
        num_steps=1,
        pretrain=source,
        baseline=True,
        optim=Optim(name="sgd", learning_rate=1e-9),
        data=Data(classes=("5", "6", "7"), batch_size=32),
    )
    result = train.train_and_evaluate(config, tmp_path)
    assert result["started_from"] == f"run:{tmp_path}/pretrain at step 4"
    assert result["baseline"]["started_from"] == "scratch"
    assert "new: fc/bias, fc/kernel" in (
        capsys.readouterr().out.replace("kernel, fc/bias", "bias, fc/kernel")
    )
    pretrained = final_state(tmp_path / "pretrain")[1]
    fine_tuned = final_state(tmp_path)[1]
    for name, leaf in pretrained["params"]["layer4_1"]["conv2"].items():
        np.testing.assert_allclose(
            fine_tuned["params"]["layer4_1"]["conv2"][name], leaf, atol=1e-6
        )
    head = fine_tuned["params"]["fc"]["kernel"]
    assert not np.allclose(head, pretrained["params"]["fc"]["kernel"], atol=1e-3)


def test_a_run_may_start_from_the_same_classes_with_its_head(finished, tmp_path):
    config, workdir, _, _ = finished
    config = dataclasses.replace(
        config,
        num_steps=1,
        pretrained=f"run:{workdir}",
        optim=Optim(name="sgd", learning_rate=1e-9),
    )
    train.train_and_evaluate(config, tmp_path)
    head = final_state(tmp_path)[1]["params"]["fc"]["kernel"]
    np.testing.assert_allclose(
        head, final_state(workdir)[1]["params"]["fc"]["kernel"], atol=1e-6
    )


def test_weights_that_do_not_fit_are_all_listed(finished, tmp_path, capsys):
    config, workdir, _, _ = finished
    model = Model(width=3, stem="small")
    config = dataclasses.replace(config, model=model, pretrained=f"run:{workdir}")
    words = r"params/conv1/kernel \(3, 3, 1, 2\), not"
    with pytest.raises(ConfigError, match=words) as raised:
        train.train_and_evaluate(config, tmp_path)
    assert "compiled" not in capsys.readouterr().out
    assert str(raised.value).count(";") > 10


def test_weights_of_another_model_are_named(finished, tmp_path):
    config, workdir, _, _ = finished
    model = Model(name="resnet34", width=2, stem="small")
    config = dataclasses.replace(config, model=model, pretrained=f"run:{workdir}")
    with pytest.raises(ConfigError, match="is of resnet18, not of resnet34"):
        train.train_and_evaluate(config, tmp_path)


def test_a_pretraining_that_will_not_fit_is_not_begun(tiny_config, tmp_path):
    config = tiny_config(pretrain=tiny_config(model=Model(width=3, stem="small")))
    with pytest.raises(
        ConfigError, match=r"config\.pretrain, .*'width': 3.* do not fit"
    ):
        train.train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "pretrain").exists()


def test_a_run_may_be_named_by_a_relative_path(finished, tmp_path, monkeypatch):
    config, workdir, _, _ = finished
    monkeypatch.chdir(workdir.parent)
    config = dataclasses.replace(config, num_steps=1, pretrained=f"run:{workdir.name}")
    result = train.train_and_evaluate(config, tmp_path)
    assert result["started_from"] == f"run:{workdir.name} at step 4"


def test_a_run_may_be_named_below_a_home(finished, monkeypatch):
    _, workdir, _, _ = finished
    monkeypatch.setenv("HOME", str(workdir.parent))
    given = weights.load(f"run:~/{workdir.name}")
    assert given.origin == f"run:~/{workdir.name} at step 4"
    with pytest.raises(ConfigError, match="weights 'run:~nobody_/x': "):
        weights.load("run:~nobody_/x")


def test_a_run_without_a_checkpoint_cannot_be_started_from(tiny_config, tmp_path):
    config = tiny_config(pretrained=f"run:{tmp_path}/nowhere")
    with pytest.raises(ConfigError, match="there is no checkpoint there"):
        train.train_and_evaluate(config, tmp_path / "run")
