"""Cadence, reading one step late, and files that read as if never interrupted."""

import json

import jax.numpy as jnp
import pytest

from tljax import metrics
from tljax.errors import NonFiniteError
from tljax.terminal import Terminal, print_result


def test_is_due():
    assert [step for step in range(1, 10) if metrics.is_due(step, 3)] == [3, 6, 9]
    assert not any(metrics.is_due(step, 0) for step in range(1, 10))


def test_speed_counts_training_alone(monkeypatch):
    clock = iter([0.0, 2.0, 2.0, 100.0, 101.0, 101.0])
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    speed = metrics.Speed(batch_size=10)
    assert speed.mean() is None
    speed.start(0)
    assert speed.measure(4) == 20.0
    speed.start(4)  # A pause of 98 seconds.
    assert speed.measure(6) == 20.0
    assert speed.mean() == 20.0


@pytest.fixture
def writer(tmp_path):
    terminal = Terminal("test", 10, 1)
    terminal.start(0)
    writer = metrics.Writer(tmp_path, terminal, 0)
    yield writer
    writer.close()


def never(step, values):
    """Warns of nothing."""
    return ""


def step_metrics(loss=1.0, finite=1.0):
    values = {"loss": loss, "grad_norm": 2.0, "finite": finite}
    return {name: jnp.float32(value) for name, value in values.items()}


def test_metrics_are_read_one_step_late(writer, tmp_path):
    recorder = metrics.Recorder(writer, metrics.Speed(4), 1, never)
    recorder.speed.start(0)
    recorder.push(1, step_metrics(1.0))
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    recorder.push(2, step_metrics(2.0))
    recorder.flush()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [(line["step"], line["split"], line["loss"]) for line in found] == [
        (1, "train", 1.0),
        (2, "train", 2.0),
    ]
    assert found[0]["images_per_second"] > 0 and "finite" not in found[0]


def test_the_step_that_is_not_finite_is_named(writer):
    recorder = metrics.Recorder(writer, metrics.Speed(4), 0, never)
    recorder.push(1, step_metrics())
    recorder.push(2, step_metrics(float("nan"), finite=0.0))
    with pytest.raises(NonFiniteError, match="step 2: loss nan, gradient norm 2"):
        recorder.push(3, step_metrics())


def test_read_late_runs_one_ahead():
    events = []

    def outputs():
        for index in range(3):
            events.append(f"sent {index}")
            yield index

    for index in metrics.read_late(outputs()):
        events.append(f"read {index}")
    assert events == ["sent 0", "sent 1", "read 0", "sent 2", "read 1", "read 2"]


def test_later_lines_and_half_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        json.dumps({"step": step, "split": split})
        for step, split in ((1, "train"), (2, "val"), (2, "test"), (3, "train"))
    ]
    path.write_text("\n".join([*lines, '{"step": 1, "lo']))
    metrics.keep_until(path, 2)
    assert path.read_text().splitlines() == lines[:2]
    metrics.keep_until(tmp_path / "none.jsonl", 2)


def test_a_full_disk_costs_a_warning(writer, capsys):
    class Full:
        def write(self, text):
            raise OSError("No space left on device")

        def close(self):
            pass

    writer.file.close()
    writer.file = Full()
    writer.write(1, "val", {"loss": 1.0})
    writer.write(2, "val", {"loss": 1.0})
    out = capsys.readouterr().out
    assert out.count("warning: metrics cannot be written: No space left") == 1
    assert "step  2/10  val" in out


def test_the_table_shows_both_results(capsys):
    row = dict.fromkeys(("precision_macro", "recall_macro", "f1_macro"), 0.5)
    row |= {"num_examples": 3, "images_per_second": None, "compile_seconds": 1.0}
    result = row | {"started_from": "run:/w/x", "accuracy": 0.75}
    result["baseline"] = row | {"started_from": "scratch", "accuracy": 0.25}
    print_result(result, "/w")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:2] == ["x", "0.7500"]
    assert lines[3].split()[:2] == ["scratch", "0.2500"]
