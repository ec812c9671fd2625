"""The command `tljax.convert`, in both directions, and runs from what it writes."""

import jax
import numpy as np
import pytest
import recipe

from tljax import convert, entry, models, pretrained, train
from tljax.config import Plan, Transfer
from tljax.pretrained import catalog, files, mapping
from tljax.run import find_saved


@pytest.fixture
def call(capfd):
    """Returns a function that runs the command in this process."""

    def run_here(*flags):
        code = entry.run_command(convert.run, ["convert", *map(str, flags)])
        out, err = capfd.readouterr()
        return code, out, err

    return run_here


@pytest.fixture
def path(tmp_path):
    """A resnet18 of width 2 for the ten digits, of grey images."""
    model = models.create("resnet18", width=2, stem="small", num_classes=10)
    state = recipe.draw_state_dict(mapping.layout(model, channels=1))
    files.write(tmp_path / "tiny.pth", state, {})
    return tmp_path / "tiny.pth"


def assert_same(place, other):
    first, second = (pretrained.load(start) for start in (place, other))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_there_and_back_by_every_kind(call, path, tmp_path):
    last = path
    for name in ("a.safetensors", "b", "c.pth", "d"):
        code, out, err = call(f"--input={last}", f"--output={tmp_path / name}")
        assert (code, err) == (0, "")
        assert "resnet18, " in out and "10 classes" in out
        last = tmp_path / name
    assert_same(f"file:{path}", f"run:{tmp_path}/d")
    # What a file says of itself has come along.
    weights = pretrained.load_weights(f"file:{tmp_path}/c.pth")
    assert weights.model == {"name": "resnet18", "width": 2, "stem": "small"}
    state = files.read(tmp_path / "c.pth")
    assert state.metadata["source"]["name"] == f"run:{tmp_path}/b"
    assert len(state.metadata["source"]["sha256"]) == 64


def test_the_same_input_gives_the_same_bytes(call, path, tmp_path):
    for name in ("a.pth", "b.pth"):
        assert call(f"--input={path}", f"--output={tmp_path / name}")[0] == 0
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_head_and_channels_are_chosen(call, path, tmp_path):
    code, out, _ = call(
        f"--input={path}",
        f"--output={tmp_path / 'x.pth'}",
        "--head=replace",
        "--num_classes=3",
        "--channels=3",
        "--input_channels=repeat",
    )
    assert code == 0 and "3 classes" in out and "1 to 3 image channels" in out
    variables = pretrained.load(f"file:{tmp_path}/x.pth")
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 3, 2)


@pytest.mark.parametrize(
    "flags, code, words",
    [
        ([], 2, "--input and --output are needed"),
        (["--input=INPUT"], 2, "--input and --output are needed"),
        (["--input=INPUT", "--output=x.h5"], 2, "must be a workdir or end in .pth"),
        (["--input=nowhere.pth", "--output=x.pth"], 2, "does not exist"),
        (["--input=nowhere", "--output=x.pth"], 2, "there is no checkpoint there"),
        (["--input=INPUT", "--output=x.pth", "--arch=resnet3"], 2, "did you mean"),
        (["--input=INPUT", "--output=x.pth", "--arch=resnet50"], 3, "fits resnet18"),
        (["--input=INPUT", "--output=x.pth", "--head=no"], 2, "head = 'no' is unknown"),
        (["--input=INPUT", "--output=x.pth", "--hed=no"], 2, "Unknown command line"),
        (["--input=INPUT", "--output=no/where/x.pth"], 3, "cannot be written"),
        (["--input=INPUT", "--output=x.pth", "more"], 2, "unexpected argument 'more'"),
        (["--input=torchvision:resnet5", "--output=x.pth"], 2, "did you mean 'resnet5"),
        (["--input=INPUT", "--output=x.pth", "--entry=ema"], 3, "no state dict 'ema'"),
    ],
)
def test_mistakes_are_one_line(call, path, tmp_path, monkeypatch, flags, code, words):
    monkeypatch.chdir(tmp_path)
    found, out, err = call(*[flag.replace("INPUT", str(path)) for flag in flags])
    assert found == code and words in err, err
    assert err.startswith("tljax: ") and len(err.splitlines()) == 1 and out == ""
    assert not (tmp_path / "x.pth").exists()


def test_a_workdir_in_use_is_not_overwritten(call, path, tmp_path):
    assert call(f"--input={path}", f"--output={tmp_path / 'x'}")[0] == 0
    code, _, err = call(f"--input={path}", f"--output={tmp_path / 'x'}")
    assert code == 2 and "holds a run already" in err


def test_the_list_names_every_published_file(call):
    code, out, _ = call("--list")
    assert code == 0
    for published in catalog.CATALOG:
        assert published.file in out and f"{published.top1:.3f}" in out
    for alias in catalog.ALIASES:
        assert alias in out


def trained(workdir):
    """Returns params and batch_stats of a run's last checkpoint."""
    saved = find_saved(workdir)
    assert saved is not None
    return pretrained.load(f"run:{workdir}")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "frozen_statistics", "frozen"])
def test_batch_norm_is_trained_as_chosen(mode, path, tiny_config, tmp_path, capsys):
    config = tiny_config(
        pretrained=f"file:{path}",
        plan=Plan(batch_norm=mode),
        transfer=Transfer(head="keep"),
        num_steps=2,
    )
    train.train_and_evaluate(config, tmp_path / "run")
    assert "new:" not in capsys.readouterr().out
    before, after = pretrained.load(f"file:{path}"), trained(tmp_path / "run")

    def moved(collection, *names):
        flags = jax.tree.map(
            lambda a, b: bool((a != b).any()), before[collection], after[collection]
        )
        for name in names:
            flags = flags[name]
        return jax.tree.leaves(flags)

    assert all(moved("params", "layer2_0", "conv1"))
    assert any(moved("batch_stats")) == (mode == "train")
    assert any(moved("params", "layer2_0", "bn1")) == (mode != "frozen")
    # The head has a bias too, and no scale: it is trained in every mode.
    assert all(moved("params", "fc"))


@pytest.mark.slow
def test_the_transform_of_a_file_comes_first_but_for_the_configs(
    path, tiny_config, tmp_path, capsys
):
    state = files.read(path)
    metadata = {
        "model": {"name": "resnet18", "width": 2, "stem": "small"},
        "class_names": [str(digit) for digit in range(10)],
        "transform": {"resize": 8, "crop": 8, "mean": [0.25], "std": [0.125]},
    }
    files.write(path, state.tensors, metadata)
    config = tiny_config(pretrained=f"file:{path}", num_steps=1)
    result = train.train_and_evaluate(config, tmp_path / "a")
    assert result["transform"]["mean"] == [0.25]
    out = capsys.readouterr().out
    assert "mean 0.25, std 0.125" in out and "new:" not in out
    # A run that starts from this one inherits it.
    again = tiny_config(pretrained=f"run:{tmp_path / 'a'}", num_steps=1)
    result = train.train_and_evaluate(again, tmp_path / "b")
    assert result["transform"]["std"] == [0.125]
    config.data.mean = (0.75,)
    result = train.train_and_evaluate(config, tmp_path / "c")
    assert result["transform"]["mean"] == [0.75]
    assert result["transform"]["std"] == [0.125]
    words = "the weights were trained with resize 8, crop 8, mean 0.25, std 0.125"
    assert words in capsys.readouterr().out
