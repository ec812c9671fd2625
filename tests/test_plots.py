"""What an evaluation draws and prints."""

import numpy as np
import pytest
from PIL import Image

from tljax.data import canvas
from tljax.evaluation import gallery, numbers, plots, tables


@pytest.mark.parametrize("number", [1, 2, 12, 150])
def test_plots_of_any_number_of_classes(number, tmp_path):
    """Names that would be formulas, hidden from legends, or drawn over two lines."""
    rng = np.random.default_rng(number)
    labels = rng.integers(0, number, 60)
    logs = np.log(rng.dirichlet(np.ones(number), 60) + 1e-9)
    odd = ("_hidden", "$x_{1$", "two\nlines", "漢字", "x" * 90)
    names = tuple(f"{odd[label % 5]}{label}" for label in range(number))
    counts = numbers.confusion(labels, logs)
    plots.save(tmp_path / "a.png", plots.confusion, counts, names)
    areas = numbers.ranked(labels, logs)["roc_auc"]
    plots.save(tmp_path / "b.png", plots.roc, labels, np.exp(logs), areas, names)
    image = rng.integers(0, 256, (30, 20, 2)).astype(np.uint8)
    mistakes = [gallery.Mistake(image, names[0], names[-1], 0.5, "a/b_$")] * 7
    plots.save(tmp_path / "c.png", gallery.draw, mistakes, 60)
    plots.save(tmp_path / "d.png", gallery.draw, [], 60)
    plots.save(tmp_path / "e.png", plots.learning_curves, [])
    for name in "abcde":
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert max(picture.size) < 3000


def test_the_most_confident_mistakes_come_first():
    labels = np.array([0, 0, 1, 1, 0])
    logs = np.log([[0.3, 0.7], [0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.1, 0.9]])
    assert list(gallery.most_confident(labels, logs)) == [4, 2, 0]


@pytest.mark.parametrize("size", [(30, 20), (20, 30), (20, 20), (70, 10)])
def test_a_picture_is_taken_off_its_canvas_as_it_was(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    shape = canvas.Canvas(min(size), 2 * min(size), 3)
    drawn = canvas.Drawn(*canvas.draw(Image.fromarray(pixels), shape), "")
    if max(size) > 2 * min(size):  # A panorama is cut at both ends.
        pixels = pixels[:, 25:45]
    np.testing.assert_array_equal(canvas.taken_off(drawn), pixels)


def test_of_many_classes_the_worst_are_printed():
    rows = [
        {"class": f"c{n}", "support": 3, "precision": 0.5, "recall": 0.5, "f1": n / 99,
         "roc_auc": None, "average_precision": 0.5}
        for n in reversed(range(50))
    ]  # fmt: skip
    lines = list(tables.class_lines(rows))
    assert len(lines) == 22 and lines[1].startswith("c0 ") and lines[1].count(" -") == 1
    assert "20 of 50 classes" in lines[-1]
