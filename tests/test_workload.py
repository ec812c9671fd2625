"""The step that the benchmarks of speed measure is the one that trains."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import machine, throughput, workload
from benchmarks.work import Work, settings, transform_of
from benchmarks.workload import make_images
from tljax import parallel, programs
from tljax.config import Config, Data, Model
from tljax.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from tljax.errors import RunError
from tljax.run import prepare

ROOT = Path(__file__).parent.parent
TINY = Work(
    model="resnet18", width=2, stem="small", image_size=8, batch_size=4, num_classes=3,
    num_devices=1,
)  # fmt: skip
# Flax imports rich, so that it is on every machine that has Flax.
MISSING = (
    "PIL", "dm_pix", "grain", "matplotlib", "orbax", "safetensors", "scipy", "sklearn",
    "tensorboardX", "tensorflow", "tensorflow_datasets", "torch",
)  # fmt: skip


def test_settings_are_those_of_a_config():
    found, default = settings(Work()), Config(model=Model(name="resnet50"))
    for section in ("model", "optim", "loss", "plan", "autoencoder", "gan"):
        expected = dataclasses.asdict(getattr(default, section))
        assert found[section].to_dict() == expected
    for name, value in found.data.items():
        assert value == getattr(default.data, name)
    assert found.num_steps == default.num_steps


def as_run(work: Work, **changes) -> Config:
    """Returns the config of a run that does the same work."""
    data = Data(
        source="synthetic", image_size=work.image_size, batch_size=work.batch_size,
        num_classes=work.num_classes, num_examples=40, cache="device",
        mean=IMAGENET_MEAN, std=IMAGENET_STD,
    )  # fmt: skip
    model = Model(name=work.model, width=work.width, stem=work.stem)
    return Config(
        num_devices=1, model=model, data=data, precision=work.precision, **changes
    )


@pytest.mark.parametrize("steps", [1, 3])
def test_the_step_is_that_of_a_run(steps):
    """As programs are before XLA optimises them, without their sources."""
    work = TINY._replace(precision="bfloat16", steps_per_call=steps)
    run = prepare(as_run(work))
    step, state = workload.train(work)
    assert run.transform == transform_of(work)
    assert jax.tree.structure(state) == jax.tree.structure(run.abstract_state())
    batch = workload.shapes(next(workload.batches(work, make_images(work), steps)))
    found = parallel.lower_step(
        step, state, batch, run.abstract_stored(),
        mesh=run.mesh, steps_per_call=steps, donate_state=True, often=work.often,
    )  # fmt: skip
    expected = programs.lower_train_step(run, run.plan.phases[0], steps)
    assert found.as_text() == expected.as_text()


def test_inference_is_what_a_network_is_asked():
    step, variables = workload.infer(TINY)
    variables = workload.draw(variables)
    images = make_images(TINY)
    log_p = jax.jit(step)(variables, jax.tree.map(jnp.asarray, images), {})
    assert log_p.shape == (2 * TINY.batch_size, TINY.num_classes)
    np.testing.assert_allclose(jnp.exp(log_p).sum(axis=1), 1.0, rtol=1e-5)


def test_drawn_states_are_like_initial_ones():
    _, abstract = workload.train(TINY._replace(width=32))
    state = workload.draw(abstract)
    kernel = state.params["layer1_0"]["conv1"]["kernel"]
    assert abs(kernel.std() / (2 / (9 * 32)) ** 0.5 - 1) < 0.05
    assert (state.params["bn1"]["scale"] == 1).all()
    assert (state.batch_stats["bn1"]["var"] == 1).all()
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.opt_state))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, abstract)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("source", ["device", "host"])
def test_batches_are_places_or_images(steps, source):
    work = TINY._replace(input=source)
    images = make_images(work)
    coming = workload.batches(work, images, steps)
    first, second = next(coming), next(coming)
    lead = (steps, 4) if steps > 1 else (4,)
    if source == "device":
        assert first["index"].shape == lead
        assert (first["index"] != second["index"]).any()
    else:
        assert first["image"].shape == (*lead, 8, 8, 3)
        assert first["image"].dtype == np.uint8
        assert first["label"].shape == lead
    assert first.get("steps", 1) == steps


def test_batches_are_sent_one_ahead_and_none_is_lost(monkeypatch):
    sent = []
    monkeypatch.setattr(parallel, "shard_batch", lambda one, _: sent.append(one) or one)
    coming = parallel.shard_batches((number for number in range(5)), None)
    for number in range(4):
        assert next(coming) == number
        assert sent[-1] == number + 1
    assert list(coming) == [4]


@pytest.mark.parametrize("compile", ["jit", "pmap"])
def test_several_steps_are_taken_on_several_devices(compile):
    work = Work(
        task="autoencoder", model="tied_autoencoder", image_size=8, channels=1,
        batch_size=4, num_devices=2, steps_per_call=3, compile=compile,
    )  # fmt: skip
    program = workload.prepare(work)
    assert program.mesh.size == 2
    program.take(2)


def test_a_command_ends_with_the_contract(call_command, tmp_path):
    file = tmp_path / "results" / "cpu.jsonl"
    flags = ["--smoke", "--phase=infer", "--num_devices=2", "--input=host"]
    flags.append(f"--output={file}")
    code, out, err = call_command(throughput, *flags)
    assert code == 0, err
    line = json.loads(out.splitlines()[-1])
    assert json.loads(file.read_text()) == line
    assert {
        "model", "phase", "image_size", "batch_size", "precision", "compile",
        "images_per_second", "step_time_ms", "compile_seconds", "device", "jax",
        "hardware", "versions", "commit", "peak_memory_bytes", "matmul_share",
    } <= set(line)  # fmt: skip
    assert set(line["step_time_ms"]) == {"median", "p10", "p90", "n"}
    assert line["step_time_ms"]["n"] == len(line["times_ms"]) == 3
    speed = 1000 * line["batch_size"] / line["step_time_ms"]["median"]
    assert line["images_per_second"] == pytest.approx(speed, rel=1e-3)
    assert line["num_devices"] == 2
    assert line["flops_per_step"] > 9e5


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--model=resnet5"], "did you mean 'resnet50'"),
        (["--batch_size=6", "--num_devices=4"], "--batch_size = 6"),
        (["--devices=abacus"], "--devices = 'abacus'"),
        (["--num_devices=99"], "--num_devices = 99"),
        (["--precision=float16"], "--precision = 'float16'"),
        (["--image_size=0"], "image_size"),
        (["--stem=small", "--model=resnet18", "--image_size=1", "--batch_size=1",
          "--num_devices=1", "--width=2"], "BatchNorm"),
        (["--phase=infer", "--steps_per_call=2"], "--steps_per_call"),
        (["--no_such_flag=1"], "no_such_flag"),
        (["stray"], "stray"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(call_command, flags, expected):
    code, out, err = call_command(throughput, *flags)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert expected in err
    assert "config." not in err


def blocked(code: str, *flags: str) -> subprocess.CompletedProcess:
    """Runs Python where a bare accelerator machine's missing packages cannot load."""
    block = f"import sys; [sys.modules.__setitem__(n, None) for n in {MISSING}]; "
    command = [sys.executable, "-c", block + code, *flags]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_bare_machine_can_import_it():
    process = blocked("import benchmarks.throughput")
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["train", "infer"])
def test_a_bare_machine_can_measure(phase):
    code = "from benchmarks import throughput as t; t.run(sys.argv)"
    process = blocked(code, "--smoke", f"--phase={phase}", "--num_devices=1")
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1])["phase"] == phase


def test_flops_are_those_of_a_product():
    shape = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    assert machine.flops(jnp.matmul, (shape, shape)) == 2 * 16**3


def test_memory_that_ran_out_is_one_line_and_other_errors_are_not_hidden():
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 9 GB\nmore")
    with (
        pytest.raises(RunError, match=r"--batch_size=4 .*9 GB$"),
        workload.enough_memory(TINY, RunError),
    ):
        raise full
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        workload.enough_memory(TINY, RunError),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")
