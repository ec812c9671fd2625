"""A look at the data: what its pictures and data.json hold, what people read."""

import json
import shutil

import jax
import numpy as np
import pictures
import pytest
from PIL import Image, ImageEnhance

from tljax import run
from tljax.batches import open_splits, stored_images, train_batches
from tljax.config import Data, HorizontalFlip, Mixup, RandomCrop
from tljax.data import augment, canvas, report, show, survey, views
from tljax.data import pictures as drawing
from tljax.data.duplicates import Copies
from tljax.entry import run_command
from tljax.terminal import Terminal

CONFIG = """
from tljax.config import *
def get_config():
    return Config(
        model=Model(width=2, stem="small"),
        num_devices=1,
        data=Data(source="folder:{root}", image_size=16, batch_size=5, {more}),
    )
"""


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("TLJAX_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with copies, a file that is no image by name, and two that are bad."""
    root = pictures.write_digits(
        tmp_path_factory.mktemp("f") / "set", {"train": 9, "test": 4}, size=(24, 36)
    )
    shutil.copy(root / "train/digit0/001.png", root / "test/digit0/same.png")
    image = Image.open(root / "train/digit1/003.png")
    darker = ImageEnhance.Brightness(image.resize((48, 72))).enhance(0.8)
    darker.save(root / "test/digit1/darker.jpg")
    shutil.copy(root / "test/digit2/001.png", root / "test/digit1/moved.png")
    (root / "train/digit2/bad.jpg").write_text("no image")
    (root / "test/digit2/bad.png").write_text("no image")
    (root / "train/digit2/notes.txt").write_text("notes")
    return root


@pytest.fixture
def look(tmp_path, root):
    """Returns a function: settings, flags -> the exit code, DIR and its data.json."""

    def make(*flags, more="max_bad_fraction=0.1", root=root):
        file, output = tmp_path / "c.py", tmp_path / "out"
        file.write_text(CONFIG.format(root=root, more=more))
        code = run_command(
            show.run, ["show", f"--config={file}", f"--output={output}", *flags]
        )
        data = output / "data.json"
        return code, output, json.loads(data.read_text()) if data.exists() else None

    return make


@pytest.mark.parametrize("cache", ["none", "disk", "device"])
def test_data_json_holds_counts_sizes_and_copies(look, cache, capsys):
    code, output, data = look(f"--config.data.cache={cache}")
    assert code == 0
    assert {path.name for path in output.iterdir()} == {
        "batch.png",
        "classes.png",
        "data.json",
    }
    assert [row["train"] for row in data["classes"]] == [8, 8, 8]
    assert [row["test"] for row in data["classes"]] == [5, 6, 5]
    assert data["splits"]["test"]["ratio"] == 1.2
    assert data["splits"]["test"]["largest_class"] == {"name": "digit1", "images": 6}
    assert data["splits"]["test"]["original_size"] == {
        "smallest": [36, 24],
        "median": [36, 24],
        "largest": [72, 48],
    }
    assert data["skipped"] == dict.fromkeys(
        ["train/digit2/bad.jpg", "test/digit2/bad.png"],
        "not an image of a known format",
    )
    assert "notes.txt" in data["notes"][0] and f"cache={cache}" in data["kept"]
    copies = data["copies"]
    names = [[image["name"] for image in group] for group in copies["exact"]]
    assert sorted(map(sorted, names)) == [
        ["test/digit0/same.png", "train/digit0/001.png"],
        ["test/digit1/moved.png", "test/digit2/001.png"],
    ]
    (near,) = copies["near"]
    assert [image["name"] for image in near] == [
        "train/digit1/003.png",
        "test/digit1/darker.jpg",
    ]
    assert copies["across"]["test in train"] == {"exact": 1, "near": 1}
    assert copies["across"]["test in test"] == {"exact": 1, "near": 0}
    assert copies["groups_of_several_classes"] == 1
    assert copies["blank"] == []
    text = capsys.readouterr().out
    assert "test/digit1/moved.png (digit1) = test/digit2/001.png (digit2)" in text
    assert ": results are inflated" in text and "digit1      8    1     6" in text


@pytest.mark.slow
def test_the_first_steps_see_what_is_shown(tmp_path, root, tiny_config):
    operations = (HorizontalFlip(), RandomCrop(padding=2), Mixup())
    config = tiny_config(
        num_steps=8,
        data=Data(
            source=f"folder:{root}",
            image_size=16,
            batch_size=20,
            max_bad_fraction=0.1,
            mean=(0.3, 0.5, 0.7),
            std=(0.2, 0.3, 0.4),
            augment=operations,
        ),
    )
    prepared = run.prepare(config)
    split = open_splits(prepared, Terminal("t", 8, 20))["train"]
    shown, targets = show.first_seen(prepared, split)
    stored = stored_images(prepared, split)
    state = jax.jit(prepared.create_state)()
    batches = train_batches(prepared, split, 0)
    expected, labels = [], []
    for step in range(2):
        batch = views.gather(next(batches), stored)
        # As train_step: the key of the state, folded with the step.
        _, key = jax.random.split(jax.random.fold_in(state.key, step))
        one_hot = jax.nn.one_hot(batch["label"], 3)
        fill = tuple(255 * level for level in prepared.transform.mean)
        images, mixed = augment.apply(
            key, views.center(batch, 16), one_hot, operations, fill
        )
        expected.append(images)
        labels.append(mixed)
    batches.close()
    assert shown.shape == (32, 16, 16, 3) and shown.dtype == np.uint8
    difference = shown - np.concatenate(expected)[:32]
    assert np.abs(difference).max() <= 0.51
    np.testing.assert_allclose(targets, np.concatenate(labels)[:32], atol=1e-6)


def test_one_channel_and_no_augmentation(look):
    code, output, data = look("--config.data.channels=1")
    assert code == 0 and data["seen"] == {"height": 16, "width": 16, "channels": 1}
    page = np.asarray(Image.open(output / "batch.png"))
    assert len(np.unique(page)) > 20  # A title, and pictures.


@pytest.mark.parametrize(
    "target, text",
    [
        ([1, 0, 0], ["cat"]),
        ([0.3, 0.7, 0], ["dog 0.7", "cat 0.3"]),
        ([0.98, 0.02, 0], ["cat"]),
        ([0.4, 0.3, 0.3], ["cat 0.4", "dog 0.3", "owl 0.3"]),
    ],
)
def test_labels_of_mixed_images(target, text):
    assert drawing.describe_target(np.array(target), ("cat", "dog", "owl")) == text


@pytest.mark.parametrize("height, width", [(8, 8), (32, 40), (224, 224), (600, 500)])
def test_small_images_are_enlarged_pixel_by_pixel_and_large_ones_reduced(height, width):
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    shown = np.asarray(drawing.fit(image))
    assert max(shown.shape) <= 320 and min(shown.shape[:2]) >= 144
    factor = shown.shape[0] // height
    if factor:
        np.testing.assert_array_equal(shown[::factor, ::factor], image)


def test_long_and_strange_names_stay_within_the_grid():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    names = ["a " * 200, "b" * 300, "\x1b[31m\n猫 $x^2$ \udcff"]
    page = drawing.draw_grid(images, [[name] for name in names], "title " * 100)
    assert page.size[0] == 3 * (144 + 10) + 10
    pixels = np.asarray(page)
    assert (pixels[:, :9] == 255).all() and (pixels[:, -9:] == 255).all()
    cut = drawing.wrap([f"{'c' * 100} 0.7"] * 2, drawing.font_of(14), 144)
    assert all(line.endswith("c 0.7") and "…" in line for line in cut)


@pytest.mark.parametrize("number, bars", [(2, 2), (10, 10), (200, 41)])
def test_bars_of_few_and_of_many_classes(number, bars):
    counts = np.arange(number)
    names = tuple(f"$x^{{{place}$ \udcff {'x' * 90}" for place in range(number))
    chosen = drawing.choose_bars(counts)
    assert len(chosen) == bars
    if number == 200:
        assert chosen[:2] == [199, 198] and chosen[-1] == 0 and chosen[20] is None
    splits = {"train": counts, "val": counts[::-1], "test": np.zeros(number, int)}
    picture = drawing.draw_classes(splits, names, "title $ of all")
    assert picture.width == 1430 and picture.height < 2000


@pytest.mark.parametrize("height, width", [(18, 27), (27, 18), (18, 18), (18, 20)])
def test_images_are_taken_upright_from_their_canvas(height, width):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    drawn, extent = canvas.draw(Image.fromarray(pixels), canvas.Canvas(18, 27, 3))
    assert drawn.shape == (18, 27, 3)
    np.testing.assert_array_equal(survey.upright(drawn, extent), pixels)


def test_what_has_an_exact_copy_is_not_counted_as_a_near_one():
    splits = ["train", "train", "test", "test", "test"]
    images = [{"split": split, "name": "", "class": "a"} for split in splits]
    copies = Copies([np.array([0, 2])], [np.array([0, 2, 3, 4])], np.array([1]))
    found = survey.describe_copies(copies, images)
    assert found["across"]["test in train"] == {"exact": 1, "near": 2}
    assert found["across"]["test in test"] == {"exact": 0, "near": 2}
    assert found["across"]["train in train"] == {"exact": 0, "near": 0}
    assert found["blank"] == [images[1]]


def test_images_without_classes_have_no_ratio():
    assert survey.ratio(np.array([4, 0])) is None
    assert survey.ratio(np.array([4, 1])) == 4


def test_only_the_first_of_many_copies_are_named():
    group = [{"split": "train", "name": str(n), "class": "a"} for n in range(9)]
    across = {"train in train": {"exact": 8, "near": 0}}
    copies = {
        "across": across,
        "exact": [group] * 7,
        "near": [],
        "groups_of_several_classes": 0,
        "blank": group,
    }
    lines = report.copies_lines(copies)
    assert lines[1].startswith("  same pixels: train: 0 = train: 1")
    assert lines[1].endswith(" and 4 more")
    assert lines[6] == "  and 2 more, in data.json"


def test_mistakes_end_in_one_line(look, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert look()[0] == 2
    (tmp_path / "out").unlink()
    assert look("--output=")[0] == 2
    assert look("--config.data.lerning=1")[0] == 2
    assert look("--workdir=/x")[0] == 2
    assert look(more="max_bad_fraction=0")[0] == 3
    assert look(root=tmp_path / "nowhere")[0] == 3
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 6 and all(line.startswith("tljax: ") for line in lines)
    assert "out: File exists" in lines[0] and "usage: python -m tljax.data" in lines[1]


def test_help(capsys):
    assert run_command(show.run, ["show", "--help"]) == 0
    assert "--output=DIR" in capsys.readouterr().out


def test_a_table_on_a_terminal_and_in_a_pipe(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    show.print_table(["class", "train"], [["cat", "7"], ["[red]", "12"]])
    assert capsys.readouterr().out == "class  train\ncat        7\n[red]     12\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    show.print_table(["class", "train"], [["cat", "7"], ["[red]", "12"]])
    text = capsys.readouterr().out
    assert "┃" in text and "[red]" in text
