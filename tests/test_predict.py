"""The command `tljax.predict` on pictures with names hard to write, good and bad."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import recipe
from PIL import Image
from sklearn.datasets import load_digits

from tljax import checkpoint, convert, entry, models, predict, train
from tljax.config import Config, Data, Model, Optim
from tljax.data import augment, transforms
from tljax.pretrained import files, mapping
from tljax.run import find_saved, saved_transform
from tljax.tasks import classification

ROOT = Path(__file__).parent.parent
ODD = ('a,"b"\n.png', "ü é.jpg", "[1]*.png", "~tilde.PNG")


def write_pictures(root, names, sizes=((24, 24), (40, 20), (20, 37))):
    """Writes digits under the names, of sizes (width, height) in turn."""
    images = load_digits().images
    for number, name in enumerate(names):
        grey = np.round(images[number] * (255 / 16)).astype(np.uint8)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(grey).convert("RGB")
        image.resize(sizes[number % len(sizes)]).save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns (workdir, config) of a run on a folder that is gone."""
    root, workdir = (tmp_path_factory.mktemp(name) for name in ("data", "run"))
    write_pictures(
        root / "set", [f"{c}/{n}.png" for n in range(16) for c in ("x,y", "z", "w")]
    )
    data = Data(
        source=f"folder:{root}/set",
        image_size=12,
        resize=14,
        train_resize=16,
        batch_size=8,
        eval_views="five_crop",
        cache="none",
    )
    config = Config(
        num_steps=2,
        num_devices=1,
        model=Model(width=2, stem="small"),
        data=data,
        optim=Optim(learning_rate=0.05),
    )
    train.train_and_evaluate(config, workdir)
    shutil.rmtree(root / "set")
    return workdir, config


@pytest.fixture
def call(capfd):
    """Returns a function that runs the command in this process."""

    def run_here(*flags):
        code = entry.run_command(predict.run, ["predict", *map(str, flags)])
        out, err = capfd.readouterr()
        return code, out, err

    return run_here


def read(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def test_probabilities_are_those_of_the_network(trained, call, tmp_path):
    """Each picture prepared by itself, without canvas, batch or padding."""
    workdir, config = trained
    names = [f"{number}.png" for number in range(7)]
    write_pictures(tmp_path / "new", names)
    flags = [f"--workdir={workdir}", f"--images={tmp_path}/new", "--batch_size=3"]
    code, out, err = call(*flags, f"--output={tmp_path}/p.csv", "--top_k=9")
    assert (code, err) == (0, "") and "7 images, 0 of them" in out
    head, *rows = read(tmp_path / "p.csv")
    assert head == ["file", "error", "class_1", "prob_1", "class_2", "prob_2",
                    "class_3", "prob_3"]  # fmt: skip
    saved = find_saved(workdir)
    transform = saved_transform(saved)
    assert transform[:2] == (14, 12)
    variables = checkpoint.restore_variables(saved.folder)
    apply = jax.jit(classification.create_model(config, 3).apply)
    for name, row in zip(names, rows, strict=True):
        assert row[:2] == [f"{tmp_path}/new/{name}", ""]
        image = Image.open(tmp_path / "new" / name)
        pixels = np.asarray(transforms.resize_shorter_side(image, 14))
        tops, lefts = pixels.shape[0] - 12, pixels.shape[1] - 12
        corners = [(0, 0), (0, lefts), (tops, 0), (tops, lefts)]
        views = [pixels[top : top + 12, left : left + 12] for top, left in corners]
        views = np.stack([*views, transforms.prepare(image, transform)])
        views = augment.normalize(views, transform.mean, transform.std)
        logits = np.asarray(apply(variables, views), np.float64)
        values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        expected = dict(zip(("w", "x,y", "z"), values.mean(axis=0), strict=True))
        found = dict(zip(row[2::2], map(float, row[3::2]), strict=True))
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert found == pytest.approx(expected, abs=1e-5)


def test_odd_names_and_bad_files_have_their_rows(trained, call, tmp_path, monkeypatch):
    workdir, _ = trained
    write_pictures(tmp_path / "new", [*ODD, "sub/deep/x.png"])
    hidden = os.fsencode(tmp_path / "new") + b"/\xff.png"
    Path(os.fsdecode(hidden)).write_bytes((tmp_path / "new/[1]*.png").read_bytes())
    (tmp_path / "new" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0" + 20 * b"x")
    (tmp_path / "new" / "none.png").symlink_to("nowhere")
    (tmp_path / "new" / "notes.txt").write_text("no image by its name")
    monkeypatch.chdir(tmp_path)
    flags = [f"--workdir={workdir}", "--images=new/", "--output=p.csv", "--top_k=1"]
    code, out, err = call(*flags)
    assert (code, err) == (0, "") and "8 images, 2 of them" in out
    head, *rows = read(tmp_path / "p.csv")
    assert head == ["file", "error", "class_1", "prob_1"]
    names = [*ODD, "sub/deep/x.png", "cut.jpg", "none.png", "\udcff.png"]
    assert [row[0] for row in rows] == sorted(f"new/{name}" for name in names)
    for name, error, label, probability in rows:
        if name in ("new/cut.jpg", "new/none.png"):
            assert error and label == probability == ""
        else:
            assert error == "" and label in ("x,y", "z", "w")
            assert 1 / 3 <= float(probability) <= 1
    assert b"new/\xff.png" in (tmp_path / "p.csv").read_bytes()


def test_files_and_globs(tmp_path):
    write_pictures(tmp_path / "new", [*ODD, "1.png", "sub/x.jpg"])

    def files(images):
        found = predict.find_images(str(tmp_path / "new" / images))
        return [os.path.relpath(file.path, tmp_path / "new") for file in found]

    assert files("[1]*.png") == ["[1]*.png"]
    assert files("[1].png") == ["1.png"]
    assert files("**/*.jpg") == ["sub/x.jpg", "ü é.jpg"]
    assert files("*") == sorted([*ODD, "1.png"])
    assert files("") == sorted([*ODD, "1.png", "sub/x.jpg"])


def test_grey_images_on_any_number_of_devices(call, tmp_path):
    """A network for grey images of 8 pixels is asked about others."""
    model = models.create("resnet18", width=2, stem="small", num_classes=7)
    state = recipe.draw_state_dict(mapping.layout(model, channels=1))
    metadata = {
        "model": {"name": "resnet18", "width": 2, "stem": "small"},
        "class_names": list("abcdefg"),
        "transform": {"resize": 8, "crop": 8, "mean": [0.25], "std": [0.125]},
    }
    files.write(tmp_path / "x.pth", state, metadata)
    argv = ["convert", f"--input={tmp_path}/x.pth", f"--output={tmp_path}/run"]
    assert entry.run_command(convert.run, argv) == 0
    write_pictures(tmp_path / "new", [f"{number}.png" for number in range(5)])
    answers = []
    for devices in (1, 4):
        flags = [f"--workdir={tmp_path}/run", f"--images={tmp_path}/new"]
        flags += [f"--num_devices={devices}", f"--output={tmp_path}/p.csv"]
        assert call(*flags)[0] == 0
        rows = read(tmp_path / "p.csv")[1:]
        answers.append([dict(zip(row[2::2], row[3::2], strict=True)) for row in rows])
    for one, four in zip(*answers, strict=True):
        assert len(one) == 5 and set(one) <= set("abcdefg") and list(one) == list(four)
        for name in one:
            assert float(one[name]) == pytest.approx(float(four[name]), abs=1e-6)


def test_weights_without_class_names_or_without_a_head(trained, call, tmp_path):
    write_pictures(tmp_path / "new", ["a.png"])
    flags = [f"--output={tmp_path}/p.csv", f"--images={tmp_path}/new"]
    for head in ("replace", "drop"):
        places = [f"--input={trained[0]}", f"--output={tmp_path}/{head}"]
        argv = ["convert", *places, f"--head={head}", "--num_classes=4"]
        assert entry.run_command(convert.run, argv) == 0
    assert call(f"--workdir={tmp_path}/replace", *flags)[0] == 0
    assert set(read(tmp_path / "p.csv")[1][2::2]) == {"0", "1", "2", "3"}
    code, _, err = call(f"--workdir={tmp_path}/drop", *flags)
    assert code == 2 and "has no head, so no classes" in err


@pytest.mark.parametrize(
    "flags, code, words",
    [
        ([], 2, "--workdir is missing"),
        (["--workdir=RUN"], 2, "--images is missing"),
        (["--workdir=RUN", "--images=NEW"], 2, "--output is missing"),
        (["--workdir=RUN", "--images=NEW/*.bmp", "--output=x"], 2, "matches none"),
        (["--workdir=RUN", "--images=NEW/empty", "--output=x"], 2, "no image in the"),
        (["--workdir=NEW", "--images=NEW", "--output=x"], 2, "holds no run"),
        (["--workdir=NEW/no", "--images=NEW", "--output=x"], 2, "does not exist"),
        (["--workdir=RUN", "--images=NEW", "--output=no/x"], 2, "cannot write"),
        (["--workdir=RUN", "--images=NEW", "--output=NEW"], 2, "Is a directory"),
        (["--workdir=RUN", "--images=NEW", "--output=x", "--top_k=0"], 2, "top_k"),
        (["--workdir=RUN", "--images=NEW", "--outptu=x"], 2, "Did you mean: output"),
        (["--workdir=RUN", "--images=NEW", "--output=x", "--step=9"], 2, "best, 2"),
        (["--workdir=RUN", "--images=NEW/bad.png", "--output=x"], 3, "none of the 1"),
    ],
)
def test_mistakes_are_one_line(
    trained, call, tmp_path, monkeypatch, flags, code, words
):
    (tmp_path / "new" / "empty").mkdir(parents=True)
    (tmp_path / "new" / "bad.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    for name, place in {"RUN": trained[0], "NEW": tmp_path / "new"}.items():
        flags = [flag.replace(name, str(place)) for flag in flags]
    found, _, err = call(*flags)
    assert found == code and words in err, err
    assert err.startswith("tljax: ") and len(err.splitlines()) == 1
    assert (tmp_path / "x").exists() == (code == 3)
    assert not list(tmp_path.glob("*.part"))


def test_damage_and_another_network_are_exit_code_4(trained, call, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    write_pictures(tmp_path / "new", ["a.png"])
    flags = [f"--workdir={tmp_path}/run", f"--images={tmp_path}/new"]
    flags += [f"--output={tmp_path}/p.csv"]
    config = tmp_path / "run" / "config.json"
    before = config.read_text()
    config.write_text(before.replace('"width": 2', '"width": 3'))
    code, _, err = call(*flags)
    assert code == 4 and "not of the network in config.json" in err
    assert len(err.splitlines()) == 1
    config.write_text(before)
    files = (tmp_path / "run" / "checkpoints" / "2").rglob("*")
    max(files, key=lambda path: path.stat().st_size).write_bytes(b"")
    code, _, err = call(*flags)
    assert code == 4 and "step 2 is damaged" in err


@pytest.mark.slow
def test_a_process_predicts_without_a_word_too_many(trained, tmp_path):
    write_pictures(tmp_path / "new", ["a.png"])
    flags = [f"--workdir={trained[0]}", f"--images={tmp_path}/new"]
    process = subprocess.run(
        [sys.executable, "-m", "tljax.predict", *flags, f"--output={tmp_path}/p.csv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.splitlines() == [
        f"1 images, 0 of them cannot be used; see {tmp_path}/p.csv"
    ]
    assert len(read(tmp_path / "p.csv")) == 2


def test_help_names_every_flag(call):
    code, out, _ = call("--help")
    assert code == 0
    values = predict.parse(["predict", "--workdir=x", "--images=x", "--output=x"])
    assert all(
        f"--{name}" in out for name in values.flag_values_dict() if "?" not in name
    )
