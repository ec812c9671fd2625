"""The side of PyTorch in the benchmarks does the work that ours does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")

import jax  # noqa: E402

from benchmarks import (  # noqa: E402
    compare_torch,
    small_models,
    torch_rival,
    torch_small,
    workload,
)
from benchmarks.work import Work  # noqa: E402
from tljax.errors import RunError  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
TINY = Work(
    model="resnet18", width=4, stem="small", image_size=8, batch_size=4, num_classes=5
)


@pytest.mark.parametrize(
    "changes",
    [{}, {"width": 64, "stem": "standard"}, {"channels": 1}, {"model": "resnet50"}],
)
def test_both_models_have_the_same_parameters(changes):
    work = TINY._replace(**changes)
    _, variables = workload.infer(work)
    ours = [leaf.size for leaf in jax.tree.leaves(variables["params"])]
    theirs = [leaf.numel() for leaf in torch_rival.create_model(work).parameters()]
    assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize("name", torch_small.GANS)
def test_both_gans_have_the_same_parameters(name):
    work = small_models.work_of(name)
    _, state = workload.train(work)
    ours = [leaf.size for leaf in jax.tree.leaves(state.params)]
    networks = torch_small.GANS[name](work)
    theirs = [leaf.numel() for net in networks for leaf in net.parameters()]
    assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize("source", ["device", "host"])
@pytest.mark.parametrize("mode", ["eager", "channels_last"])
def test_batches_are_images_as_a_network_sees_them(source, mode):
    layout, _ = torch_rival.MODES[mode]
    device = torch.device("cpu")
    images, labels = next(torch_rival.SOURCES[source](TINY, device, layout))
    assert images.shape == (4, 3, 8, 8)
    assert images.is_contiguous(memory_format=layout)
    made = workload.make_images(TINY)
    seen = torch_rival.normalized(torch.from_numpy(made["image"]), TINY)
    for image, label in zip(images, labels, strict=True):
        (place,) = np.flatnonzero((seen == image).all(dim=(1, 2, 3)))
        assert made["label"][place] == label


def test_training_trains_and_inference_does_not(monkeypatch):
    models = []
    create = torch_rival.create_model

    def keep(work):
        models.append(create(work))
        return models[-1]

    monkeypatch.setattr(torch_rival, "create_model", keep)
    for phase, changes in (("train", True), ("infer", False)):
        take = torch_rival.make_take(TINY._replace(phase=phase), "cpu", "eager")
        before = {k: v.clone() for k, v in models[-1].state_dict().items()}
        take(2)
        after = models[-1].state_dict()
        assert any((after[k] != v).any() for k, v in before.items()) == changes


@pytest.mark.parametrize(
    "flag, expected",
    [("--torch=eger", "did you mean 'eager'"), ("--num_devices=2", "one CPU"),
     ("--torch=", "--torch is empty"), ("--model=resnet1", "is unknown")],
)  # fmt: skip
def test_a_mistake_is_one_line(call_command, flag, expected):
    code, _, err = call_command(compare_torch, flag)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert expected in err


@pytest.mark.parametrize("name", ["compare_torch", "small_models"])
def test_a_comparison_ends_with_its_ratio(name):
    process = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--smoke"],
        cwd=ROOT,
        # torch's threads wait for one another without sleep where cores are shared.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["ratio_low"] <= result["ratio"] <= result["ratio_high"]
    assert result["versions"]["torch"] == torch.__version__


def test_a_side_that_fails_says_why_and_the_others_go_on(monkeypatch):
    def make_take(work, platform, mode):
        if mode == "compile":
            raise ValueError("no compiler\nhere")
        return lambda count: None

    monkeypatch.setattr(torch_rival, "make_take", make_take)
    sides, known = compare_torch.prepare_theirs(TINY, "cpu", ["eager", "compile"])
    assert list(sides) == ["eager"]
    assert known["compile"] == {"failed": "ValueError: no compiler here"}
    with pytest.raises(RunError, match="no compiler here"):
        compare_torch.prepare_theirs(TINY, "cpu", ["compile"])
