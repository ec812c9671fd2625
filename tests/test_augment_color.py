"""Colours and tones, beside Pillow, the standard library and SciPy."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from photos import photos
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from tljax.data.pixels import color
from tljax.errors import ConfigError

FACTORS = np.array([0.0, 0.6, 1.0, 1.8], np.float32)


def by_pillow(function, images, *arguments):
    """Returns float arrays of what Pillow makes of each image with its argument."""
    results = []
    for place, image in enumerate(images):
        image = Image.fromarray(image.squeeze())
        own = [values[place].item() for values in arguments]
        results.append(np.asarray(function(image, *own), np.float32))
    return np.stack(results).reshape(images.shape)


def on_floats(function, images, *arguments):
    return np.asarray(jax.jit(function)(images.astype(np.float32), *arguments))


# Pillow cuts to whole levels; torchvision's grey is up to a level darker than Pillow's.
ENHANCERS = {
    "adjust_brightness": (ImageEnhance.Brightness, 1),
    "adjust_contrast": (ImageEnhance.Contrast, 2),
    "adjust_saturation": (ImageEnhance.Color, 2),
    "adjust_sharpness": (ImageEnhance.Sharpness, 1),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENHANCERS)
def test_factors_are_pillows(name, channels):
    images = photos(14, 18)[..., :channels]
    enhance, levels = ENHANCERS[name]
    expected = by_pillow(lambda im, f: enhance(im).enhance(f), images, FACTORS)
    found = on_floats(getattr(color, name), images, FACTORS)
    assert np.abs(found - expected).max() < levels + 1e-3
    assert np.abs(found - expected).mean() < 0.75


@pytest.mark.parametrize("channels", [1, 3])
def test_tones_are_pillows(channels):
    images = photos(40, 36)[..., :channels]
    images[0] = images[0] // 2 + 40  # Else autocontrast had nothing to do.
    bits = np.array([8, 5, 2, 0])
    thresholds = np.array([0.0, 100.0, 180.0, 255.0], np.float32)
    # Pillow's posterize wants a bit at least; without bits all is black.
    expected = by_pillow(ImageOps.posterize, images, np.maximum(bits, 1))
    expected[bits == 0] = 0
    np.testing.assert_array_equal(on_floats(color.posterize, images, bits), expected)
    expected = by_pillow(ImageOps.solarize, images, thresholds)
    np.testing.assert_array_equal(
        on_floats(color.solarize, images, thresholds), expected
    )
    expected = by_pillow(ImageOps.equalize, images)
    np.testing.assert_array_equal(on_floats(color.equalize, images), expected)
    expected = by_pillow(ImageOps.invert, images)
    np.testing.assert_array_equal(on_floats(color.invert, images), expected)
    found = on_floats(color.autocontrast, images)
    expected = by_pillow(ImageOps.autocontrast, images)
    assert np.abs(found - expected).max() < 1.001 and found.max() == 255


def test_flat_images_have_nothing_to_stretch():
    flat = np.full((1, 20, 20, 3), 7.0, np.float32)
    for function in (color.autocontrast, color.equalize):
        np.testing.assert_array_equal(on_floats(function, flat), flat)


def test_levels_between_whole_ones_are_rounded_first():
    """99.99997 is what arithmetic makes of 100; it must not fall to the next step."""
    images = np.full((1, 2, 2, 1), 127.99997, np.float32)
    assert (on_floats(color.posterize, images, np.array([1])) == 128).all()
    assert (on_floats(color.solarize, images, np.array([128.0])) == 127).all()


def test_grey_is_pillows():
    images = photos(14, 18)
    expected = by_pillow(lambda im: im.convert("L").convert("RGB"), images)
    found = on_floats(color.grayscale, images)
    assert np.abs(found - expected).max() < 1
    assert (found == found[..., :1]).all()


def test_hue_is_the_standard_librarys():
    images = photos(6, 6)
    shifts = np.array([-0.5, -0.1, 0.0, 0.3], np.float32)
    found = on_floats(color.adjust_hue, images, shifts)
    expected = np.empty_like(found)
    for place in np.ndindex(images.shape[:3]):
        hue, saturation, value = colorsys.rgb_to_hsv(*images[place] / 255)
        turned = (hue + shifts[place[0]]) % 1
        expected[place] = colorsys.hsv_to_rgb(turned, saturation, value)
    np.testing.assert_allclose(found, 255 * expected, atol=1e-2)


@pytest.mark.parametrize("kernel_size", [1, 3, 9])
def test_blur_is_a_gaussian_with_mirrors(kernel_size):
    images = photos(10, 8).astype(np.float32)
    sigmas = np.array([0.1, 0.5, 1.0, 2.0], np.float32)
    found = on_floats(
        lambda x, s: color.gaussian_blur(x, kernel_size, s), images, sigmas
    )
    taps = np.arange(kernel_size) - kernel_size // 2
    for image, sigma, result in zip(images, sigmas, found, strict=True):
        kernel = np.exp(-0.5 * (taps / sigma) ** 2)
        for axis in (0, 1):
            image = ndimage.convolve1d(
                image, kernel / kernel.sum(), axis, mode="mirror"
            )
        np.testing.assert_allclose(result, image, atol=1e-3)


def test_a_kernel_wider_than_the_mirrored_image():
    images = jnp.zeros((1, 4, 9, 3))
    color.gaussian_blur(images, 7, jnp.ones(1))
    with pytest.raises(ConfigError, match="kernel_size = 9 must be below twice"):
        color.gaussian_blur(images, 9, jnp.ones(1))


@pytest.mark.parametrize("channels", [1, 2])
def test_without_three_channels_there_is_no_colour(channels):
    images = photos(4, 4)[..., :channels].astype(np.float32)
    for function in (color.adjust_saturation, color.adjust_hue):
        np.testing.assert_array_equal(function(images, FACTORS[:4]), images)
    np.testing.assert_array_equal(color.grayscale(images), images)
