"""Each operation beside torchvision, for the same parameters.

Results are compared with those of uint8 tensors, which torchvision cuts or rounds to
whole levels: a level is what may lie between.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from photos import photos

from tljax.data import operations as ops
from tljax.data.pixels import color, geometry, policies, warps

torch = pytest.importorskip("torch")
v2 = pytest.importorskip("torchvision.transforms.v2")
F = v2.functional
LEVEL = 1 + 1e-3
NEAREST, BILINEAR = v2.InterpolationMode.NEAREST, v2.InterpolationMode.BILINEAR


def images(height=24, width=20):
    """Returns photographs with noise, uint8 [4, h, w, 3]: all levels, no flat areas."""
    noise = np.random.default_rng(0).normal(0, 12, (4, height, width, 3))
    return np.clip(photos(height, width) + noise, 0, 255).astype(np.uint8)


def as_torch(image):
    return torch.from_numpy(np.moveaxis(image, -1, 0).copy())


def by_torch(function, batch, *arguments):
    """Returns float32 [b, h, w, c] of a function of one image and its arguments."""
    results = []
    for image, *own in zip(batch, *arguments, strict=True):
        own = [value.tolist() for value in own]
        results.append(np.moveaxis(function(as_torch(image), *own).numpy(), 0, -1))
    return np.stack(results).astype(np.float32)


def compiled(function, batch, *arguments):
    return np.asarray(jax.jit(function)(batch.astype(np.float32), *arguments))


@pytest.mark.parametrize("size", [9, 16, 31])
def test_resized_crops(size):
    rng = np.random.default_rng(size)
    batch = np.tile(images(33, 47), (6, 1, 1, 1))
    sides = np.stack([rng.integers(1, 34, 24), rng.integers(1, 48, 24)], 1)
    boxes = np.concatenate([rng.integers(0, [34, 48] - sides), sides], 1)
    found = jax.jit(geometry.resized_crop, static_argnums=2)(batch, boxes, size)
    resize = functools.partial(F.resized_crop, size=[size, size], antialias=True)
    expected = by_torch(lambda im, box: resize(im, *box), batch, boxes)
    assert np.abs(found - expected).max() < LEVEL
    # Of floats nothing is rounded on the way.
    expected = by_torch(lambda im, box: resize(im.float(), *box), batch, boxes)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("fill", [0.0, 90.0])
@pytest.mark.parametrize("mode", [NEAREST, BILINEAR])
def test_rotations(mode, fill):
    batch = np.tile(images(), (5, 1, 1, 1))
    degrees = np.random.default_rng(1).uniform(-180, 180, 20).astype(np.float32)
    degrees[:4] = 0, 90, 180, -90

    def turn(batch, degrees):
        levels = jnp.full(3, fill)
        return warps.affine(batch, warps.rotations(degrees), mode.value, levels)

    rotate = functools.partial(F.rotate, interpolation=mode, fill=[fill])
    expected = by_torch(rotate, batch, degrees)
    assert np.abs(compiled(turn, batch, degrees) - expected).max() < LEVEL


FACTORS = np.array([0.0, 0.35, 1.0, 1.9], np.float32)
FUNCTIONS = {
    "adjust_brightness": FACTORS,
    "adjust_contrast": FACTORS,
    "adjust_saturation": FACTORS,
    "adjust_sharpness": FACTORS,
    "adjust_hue": np.array([-0.5, -0.13, 0.0, 0.4], np.float32),
    "posterize": np.array([8, 5, 2, 0]),
    "solarize": np.array([0.0, 100.0, 128.5, 255.0], np.float32),
    "autocontrast": None,
    "equalize": None,
    "invert": None,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_colors(name, channels):
    batch = images()[..., :channels]
    batch[0] = 30 + batch[0] // 2
    arguments = [] if FUNCTIONS[name] is None else [FUNCTIONS[name]]
    found = compiled(getattr(color, name), batch, *arguments)
    expected = by_torch(getattr(F, name), batch, *arguments)
    exact = name in ("posterize", "solarize", "equalize", "invert")
    assert np.abs(found - expected).max() < (1e-6 if exact else LEVEL)


def test_grey_and_blur():
    batch, sigmas = images(), np.array([0.1, 0.5, 1.1, 2.0], np.float32)
    grey = functools.partial(F.rgb_to_grayscale, num_output_channels=3)
    expected = by_torch(grey, batch)
    assert np.abs(compiled(color.grayscale, batch) - expected).max() < LEVEL
    for size in (3, 11):
        found = compiled(
            lambda x, s, k=size: color.gaussian_blur(x, k, s), batch, sigmas
        )
        expected = by_torch(
            lambda x, s, k=size: F.gaussian_blur(x, k, s), batch, sigmas
        )
        assert np.abs(found - expected).max() < LEVEL


POLICIES = {
    "RandAugment": (ops.RandAugment(), v2.RandAugment()),
    "TrivialAugmentWide": (ops.TrivialAugmentWide(), v2.TrivialAugmentWide()),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("height, width", [(24, 20), (32, 34)])
@pytest.mark.parametrize("name", POLICIES)
def test_policies_have_torchvisions_operations(name, height, width, channels):
    """Every operation at every magnitude, of both signs, on one photograph.

    Sheared rows can look exactly between two pixels. Rounding noise decides which of
    them is taken, here and there; these places are left out.
    """
    operation, reference = POLICIES[name]
    image = images(height, width)[1][..., :channels]
    table = policies.magnitudes(operation, height, width)
    choices, amounts, expected = [], [], []
    for choice, (label, space) in enumerate(reference._AUGMENTATION_SPACE.items()):
        of_bins, signed = space
        assert policies.SIGNED[choice] == signed
        bins = of_bins(31, height, width)
        for place in range(31):
            for sign in (1, -1)[: 1 + signed]:
                magnitude = 0.0 if bins is None else float(bins[place])
                result = reference._apply_image_or_video_transform(
                    as_torch(image), label, sign * magnitude, NEAREST, reference._fill
                )
                expected.append(np.moveaxis(result.numpy(), 0, -1))
                choices.append(choice)
                amounts.append(sign * table[choice, place])
    choices, amounts = np.array(choices), np.array(amounts)
    batch = np.broadcast_to(image, (len(choices), *image.shape))
    found = compiled(policies.perform, batch, choices, amounts)
    close = np.abs(found - np.stack(expected)).max(axis=3) < LEVEL
    assert (close | halfway(choices, amounts, height, width)).all()
    assert close.mean() > 0.999


def halfway(choices, amounts, height, width):
    """Returns bool [n, h, w]: whether a shear looks between two pixels."""
    rows = np.arange(0.5, height).reshape(1, -1, 1)
    columns = np.arange(0.5, width).reshape(1, 1, -1)
    slopes = amounts.reshape(-1, 1, 1)
    across = np.where(choices.reshape(-1, 1, 1) == 1, slopes * rows, 0.0)
    down = np.where(choices.reshape(-1, 1, 1) == 2, slopes * columns, 0.0)
    return np.abs((across + down) % 1 - 0.5) < 1e-5
