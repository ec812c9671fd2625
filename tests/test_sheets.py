"""Sheets of images, pixel by pixel, and bars of the classes of generated ones."""

import io

import numpy as np
import pytest
from PIL import Image

from tljax.evaluation import plots, sheets

NAMES = ("cat", "dog", "$x$ and a name that is very long", "猫")


def draw_images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def cell(page, row, column, height, width):
    """Returns the pixels of an image of a sheet."""
    top = sheets.LINE + row * (height + sheets.LINE)
    left = sheets.LINE + column * (width + sheets.LINE)
    return page[top : top + height, left : left + width]


@pytest.mark.parametrize(
    "shape, factor",
    [((7, 8, 8, 3), 6), ((7, 24, 30, 3), 2), ((7, 25, 60, 3), 2), ((7, 48, 50, 3), 1)],
)
def test_every_image_stands_in_its_place_and_lines_are_between(shape, factor):
    images = draw_images(*shape)
    page = sheets.sheet(images, 3)
    height, width = shape[1] * factor, shape[2] * factor
    line = sheets.LINE
    size = 3 * (height + line) + line, 3 * (width + line) + line, 3
    assert page.shape == size and page.dtype == np.uint8
    covered = np.zeros(size[:2], bool)
    for number, image in enumerate(images):
        place = (*divmod(number, 3), height, width)
        enlarged = np.kron(image, np.ones((factor, factor, 1), np.uint8))
        np.testing.assert_array_equal(cell(page, *place), enlarged)
        cell(covered, *place)[:] = True
    assert (page[~covered] == sheets.BACKGROUND).all()


def test_grey_and_other_channels_are_grey():
    images = draw_images(2, 50, 50, 1)
    page = sheets.sheet(images, 8)
    np.testing.assert_array_equal(cell(page, 0, 1, 50, 50), images[1].repeat(3, -1))
    assert page.shape == (54, 106, 3)
    images = draw_images(1, 50, 50, 5)
    found = cell(sheets.sheet(images, 1), 0, 0, 50, 50)
    assert np.abs(found - images[0].mean(axis=-1, keepdims=True)).max() <= 0.5


def test_a_sheet_is_a_png():
    page = sheets.sheet(draw_images(5, 8, 8, 1), 2)
    file = io.BytesIO()
    Image.fromarray(page).save(file, format="png")
    np.testing.assert_array_equal(np.asarray(Image.open(file)), page)


def test_nothing_makes_no_sheet():
    for count, columns in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="make no sheet"):
            sheets.sheet(np.zeros((count, 8, 8, 1), np.uint8), columns)


def test_bars_have_the_shares_of_both_sets(tmp_path):
    counts, real = np.array([6, 0, 3, 1]), np.array([10, 10, 20, 60])
    figure = sheets.class_bars(counts, real, NAMES)
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [0.6, 0.0, 0.3, 0.1]
    lines = axes.collections[0].get_segments()
    assert [line[0, 1] for line in lines] == [0.1, 0.1, 0.2, 0.6]
    assert [text.get_text() for text in axes.texts] == ["6", "0", "3", "1"]
    assert axes.get_title().endswith("(1 of 4 never seen)")
    assert axes.get_xticklabels()[1].get_text() == "dog"
    plots.save(tmp_path / "bars.png", sheets.class_bars, counts, real, NAMES)
    with Image.open(tmp_path / "bars.png") as drawn:
        assert min(drawn.size) > 300


def test_many_classes_are_sorted_and_have_no_names():
    counts, real = np.arange(1, 101), np.full(100, 7)
    figure = sheets.class_bars(counts, real, tuple(map(str, range(100))))
    (axes,) = figure.axes
    generated, equal = (patch.get_data().values for patch in axes.patches)
    np.testing.assert_allclose(generated, np.arange(100, 0, -1) / 5050)
    np.testing.assert_allclose(equal, 0.01)
    assert axes.get_title() == "Classes of generated images" and not axes.texts
