"""Boxes, flips and warps, beside Pillow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from photos import photos
from PIL import Image

from tljax.data.operations import RandomErasing, Rotation
from tljax.data.pixels import geometry, warps

BOXES = np.array([[0, 0, 30, 40], [3, 5, 9, 30], [20, 0, 7, 5], [0, 39, 30, 1]])
resized_crop = jax.jit(geometry.resized_crop, static_argnums=2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [12, 35])
def test_a_resized_crop_is_pillows_crop_and_resize(size, channels):
    """Down and up, whole and thin; Pillow rounds after each of two directions."""
    images = photos(30, 40)[..., :channels]
    found = resized_crop(images, BOXES, size)
    assert found.shape == (4, size, size, channels) and found.dtype == jnp.float32
    for image, box, result in zip(images, BOXES, found, strict=True):
        top, left, height, width = box.tolist()
        image = Image.fromarray(image.squeeze())
        image = image.crop((left, top, left + width, top + height))
        expected = image.resize((size, size), Image.Resampling.BILINEAR)
        expected = np.asarray(expected, np.float32).reshape(result.shape)
        np.testing.assert_allclose(result, expected, atol=1.001)


def test_nothing_outside_of_the_box_is_seen():
    images = np.full((4, 30, 40, 3), 255, np.uint8)
    for image, (top, left, height, width) in zip(images, BOXES, strict=True):
        image[top : top + height, left : left + width] = 77
    np.testing.assert_allclose(resized_crop(images, BOXES, 12), 77, atol=1e-3)


def test_a_whole_image_of_the_size_stays_as_it_is():
    images = photos(16, 16)
    whole = np.tile([0, 0, 16, 16], (4, 1))
    np.testing.assert_array_equal(geometry.resized_crop(images, whole, 16), images)


def test_a_resized_crop_has_no_gather():
    text = resized_crop.lower(photos(30, 40), BOXES, 12).compile().as_text()
    assert "gather(" not in text and "dot(" in text


@functools.partial(jax.jit, static_argnums=(1, 2))
def compiled_draw(extents, scale, ratio):
    return geometry.draw_boxes(jax.random.key(0), extents, scale, ratio)


def draw_boxes(extents, scale=(0.08, 1.0)):
    return np.asarray(compiled_draw(extents, scale, (3 / 4, 4 / 3)))


def test_boxes_lie_inside_their_own_image():
    extents = np.tile([[40, 60], [90, 30], [7, 7], [1, 1]], (250, 1))
    boxes = draw_boxes(extents)
    np.testing.assert_array_equal(boxes, np.round(boxes))
    corners, sides = boxes[:, :2], boxes[:, 2:]
    assert (corners >= 0).all() and (sides >= 1).all()
    assert (corners + sides <= extents).all()
    assert len(np.unique(boxes[::4], axis=0)) > 240


def test_boxes_have_the_area_and_the_shape_asked_for():
    extents = np.tile([[400, 600]], (4000, 1))
    boxes = draw_boxes(extents, scale=(0.1, 0.5))
    shares, ratios = boxes[:, 2:].prod(1) / 240_000, boxes[:, 3] / boxes[:, 2]
    assert 0.099 < shares.min() < 0.105 and 0.495 < shares.max() < 0.501
    assert abs(shares.mean() - 0.3) < 0.01
    assert 0.74 < ratios.min() < 0.76 and 1.31 < ratios.max() < 1.35
    assert abs(np.log(ratios).mean()) < 0.01
    for axis, extent in enumerate((400, 600)):
        free = extent - boxes[:, 2 + axis]
        assert boxes[:, axis].min() == 0 and (boxes[:, axis] == free).any()
        assert abs((boxes[:, axis] / np.maximum(free, 1)).mean() - 0.5) < 0.02


@pytest.mark.parametrize(
    "extents, box",
    [
        ((10, 100), (0, 43, 10, 13)),
        ((100, 10), (43, 0, 13, 10)),
        ((9, 11), (0, 0, 9, 11)),
    ],
)
def test_where_no_box_fits_it_is_the_largest_central_one(extents, box):
    """No tall, or no wide, box has twice the area of the image."""
    boxes = draw_boxes(np.array([extents]), scale=(2.0, 2.0))
    np.testing.assert_array_equal(boxes, [box])


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_padded_crops_are_pieces_of_the_padded_image(mode):
    image = photos(6, 6)[:1]
    padded = np.pad(image[0], ((2, 2), (2, 2), (0, 0)), mode=mode)
    pieces = {
        padded[top : top + 6, left : left + 6].tobytes(): (top, left)
        for top in range(5)
        for left in range(5)
    }
    copies = np.repeat(image, 400, axis=0)
    result = geometry.pad_and_crop(jax.random.key(0), copies, 2, mode)
    found = [pieces[piece.tobytes()] for piece in np.asarray(result)]
    assert len(set(found)) == 25


@pytest.mark.parametrize("axis, name", [(2, "FLIP_LEFT_RIGHT"), (1, "FLIP_TOP_BOTTOM")])
def test_flips_are_pillows(axis, name, key):
    images = photos(6, 8)
    method = getattr(Image.Transpose, name)
    expected = [np.asarray(Image.fromarray(im).transpose(method)) for im in images]
    np.testing.assert_array_equal(geometry.flip(key, images, 1.0, axis), expected)


@functools.partial(jax.jit, static_argnums=2)
def turn(images, degrees, interpolation="nearest", fill=0.0):
    fill = jnp.full(images.shape[-1], fill)
    return warps.affine(
        images.astype(jnp.float32), warps.rotations(degrees), interpolation, fill
    )


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [8, 9])
def test_quarter_turns_are_exact(size, interpolation):
    images = photos(size, size)
    degrees = jnp.array([0.0, 90.0, 180.0, -90.0])
    expected = [np.rot90(image, k) for k, image in enumerate(images)]
    np.testing.assert_allclose(turn(images, degrees, interpolation), expected, atol=0.1)


@pytest.mark.parametrize("channels", [1, 3])
def test_rotations_are_pillows(channels):
    """Inside to a level; Pillow's border is another than torchvision's."""
    images = photos(31, 40)[..., :channels]
    degrees = np.array([-40.0, -7.5, 12.0, 30.0], np.float32)
    found = np.asarray(turn(images, degrees, "bilinear"))
    for image, angle, result in zip(images, degrees, found, strict=True):
        image = Image.fromarray(image.squeeze())
        rotate = functools.partial(image.rotate, angle, Image.Resampling.BILINEAR)
        expected = np.asarray(rotate(), np.float32).reshape(result.shape)
        np.testing.assert_allclose(result[10:21, 10:30], expected[10:21, 10:30], atol=1)


def test_what_comes_into_view_is_the_fill():
    images = np.full((1, 20, 20, 3), 200, np.uint8)
    for interpolation in ("nearest", "bilinear"):
        result = turn(images, jnp.array([45.0]), interpolation, 90.0)
        assert result[0, 0, 0, 0] == 90 and abs(result[0, 10, 10, 0] - 200) < 1e-3
        assert result.min() >= 90 - 1e-3


def test_shears_and_moves_follow_the_matrix():
    images = photos(8, 10)[:2].astype(np.float32)
    matrices = jnp.array([[[1.0, 0, 2], [0, 1, -1]], [[1, 1, 0.5], [0, 1, 0]]])
    moved, sheared = warps.affine(images, matrices, "nearest", jnp.zeros(3))
    np.testing.assert_array_equal(moved[1:, :-2], images[0, :-1, 2:])
    assert (moved[0] == 0).all() and (moved[:, -2:] == 0).all()
    # Row 5 lies 1.5 below the centre, so it looks 2 pixels to the right.
    np.testing.assert_array_equal(sheared[5, :-2], images[1, 5, 2:])


def test_angles_lie_in_their_range(key):
    """A point right of the centre shows where the angle went."""
    images = np.zeros((500, 21, 21, 1), np.float32)
    images[:, 10, 20] = 255
    result = np.asarray(warps.rotate(key, images, Rotation(degrees=(0.0, 90.0))))
    _, rows, columns, _ = np.nonzero(result)
    angles = np.degrees(np.arctan2(10 - rows, columns - 10))
    assert angles.min() >= -4 and angles.max() <= 94
    assert abs(angles.mean() - 45) < 5 and angles.std() > 20


@functools.partial(jax.jit, static_argnums=(2,))
def erase(key, images, operation):
    return geometry.erase(key, images, operation, jnp.array([9.0, 8.0, 7.0]))


def test_erased_is_one_box_of_the_fill(key):
    images = np.full((300, 20, 24, 3), 100, np.float32)
    result = np.asarray(erase(key, images, RandomErasing(p=1.0)))
    erased = (result != images).any(axis=3)
    assert (result[erased] == (9, 8, 7)).all()
    shares = erased.mean(axis=(1, 2))
    assert 0.01 < shares.min() < 0.05 and 0.28 < shares.max() < 0.36
    for image in erased:
        assert image.sum() == image.any(axis=0).sum() * image.any(axis=1).sum()
    assert erased.any(axis=0).all()


def test_erased_with_noise_and_with_probability(key):
    images = np.full((400, 16, 16, 3), -1, np.float32)
    result = np.asarray(erase(key, images, RandomErasing(p=0.25, value="noise")))
    erased = (result != -1).any(axis=(1, 2, 3)).mean()
    assert 0.18 < erased < 0.32
    noise = result[result != -1]
    assert 0 <= noise.min() < 1 and 254 < noise.max() <= 255
    assert abs(noise.mean() - 127.5) < 2 and abs(noise.std() - 73.6) < 2


def test_what_cannot_be_erased_stays(key):
    images = np.full((8, 16, 16, 3), 100, np.float32)
    impossible = RandomErasing(p=1.0, scale=(1.0, 1.0))
    np.testing.assert_array_equal(erase(key, images, impossible), images)
