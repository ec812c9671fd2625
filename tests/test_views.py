"""What is cut from photographs of any shape, against Pillow and our transform."""

import jax
import jax.numpy as jnp
import numpy as np
import photos
import pytest
from PIL import Image

from tljax.data import canvas, transforms, views
from tljax.data.operations import RandomResizedCrop
from tljax.data.transforms import Transform

SIZES = [(40, 30), (30, 40), (33, 33), (59, 30), (30, 47), (31, 90)]  # (width, height)
SHORT, CROP = 24, 16
CHINA = Image.fromarray(photos.photos(60, 80)[0])


@pytest.fixture(scope="module")
def images():
    return [CHINA.resize(size) for size in SIZES]


@pytest.fixture(scope="module")
def batch(images):
    """The photographs on one canvas."""
    sizes = np.array([(height, width) for width, height in SIZES])
    shape = canvas.fit(sizes, SHORT, 3)
    drawn = [canvas.draw(image, shape) for image in images]
    return {
        "image": np.stack([pixels for pixels, _ in drawn]),
        "extent": np.array([extent for _, extent in drawn], np.int32),
    }


def resized(image):
    return np.asarray(transforms.resize_shorter_side(image, SHORT))


def test_the_canvas_is_as_long_as_the_longest_image_and_no_panorama(batch):
    assert batch["image"].shape == (6, 24, 48, 3)
    assert batch["extent"].tolist() == [
        [24, 32], [32, 24], [24, 24], [24, 47], [37, 24], [48, 24]
    ]  # fmt: skip
    square = canvas.fit(np.array([[5, 5], [0, 0], [90, 90]]), 8, 1)
    assert square == (8, 8, 1) and square.bytes == 64


def test_the_centre_is_that_of_the_transform_to_the_last_bit(images, batch):
    found = np.asarray(views.center(batch, CROP))
    transform = Transform(SHORT, CROP)
    for place, image in enumerate(images[:-1]):  # The last is cut to a canvas of 2:1.
        np.testing.assert_array_equal(
            found[place], transforms.prepare(image, transform)
        )


def test_corners_and_mirror_images(images, batch):
    found = np.asarray(jnp.stack(views.EVAL_VIEWS["ten_crop"](batch, CROP)))
    assert found.shape == (10, 6, CROP, CROP, 3)
    for place, image in enumerate(images[:-1]):
        whole = resized(image)
        corners = [
            whole[:CROP, :CROP],
            whole[:CROP, -CROP:],
            whole[-CROP:, :CROP],
            whole[-CROP:, -CROP:],
        ]
        np.testing.assert_array_equal(found[:4, place], np.stack(corners))
    np.testing.assert_array_equal(found[4], views.center(batch, CROP))
    np.testing.assert_array_equal(found[5:], found[:5, :, :, ::-1])


def test_a_random_box_is_pillows_resized_crop(images, batch, key):
    """One key, one box: drawn for the upright image, whichever way it lies."""
    operation = RandomResizedCrop(scale=(0.2, 0.9))
    resize = jax.jit(views.random_resized, static_argnums=(2, 3))
    found = np.asarray(resize(key, batch, operation, CROP))
    boxes = views.geometry.draw_boxes(
        key, jnp.asarray(batch["extent"]), operation.scale, operation.ratio
    )
    for place, image in enumerate(images[:-1]):
        top, left, height, width = (int(number) for number in boxes[place])
        box = Image.fromarray(resized(image)).crop(
            (left, top, left + width, top + height)
        )
        expected = np.asarray(box.resize((CROP, CROP), Image.Resampling.BILINEAR))
        assert np.abs(found[place] - expected).max() <= 1


def test_images_that_fill_their_canvas_need_no_extent(key):
    images = np.asarray(CHINA.resize((CROP, CROP)))[None]
    batch = {"image": images}
    np.testing.assert_array_equal(views.center(batch, CROP), images)
    full = {"image": images, "extent": np.array([[CROP, CROP]], np.int32)}
    for view in ("five_crop", "ten_crop"):
        some, others = (views.EVAL_VIEWS[view](b, 9) for b in (batch, full))
        jax.tree.map(np.testing.assert_array_equal, some, others)
    resize = jax.jit(views.random_resized, static_argnums=(2, 3))
    np.testing.assert_array_equal(
        resize(key, batch, RandomResizedCrop(), 8),
        resize(key, full, RandomResizedCrop(), 8),
    )
