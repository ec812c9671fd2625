"""FID's Inception beside torchvision's, changed where the FID's differs from it."""

import types

import jax
import numpy as np
import pytest
import recipe

torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")
torchvision = pytest.importorskip("torchvision")

from torch.nn import functional  # noqa: E402

from tljax.models import inception  # noqa: E402
from tljax.pretrained import inception as weights  # noqa: E402

AVERAGED = ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b")


def without_padding(x, **options):
    return functional.avg_pool2d(x, **options, count_include_pad=False)


def with_pool(block, pool):
    """Makes a block of torchvision's pool by another function than avg_pool2d."""
    forward = type(block)._forward
    names = forward.__globals__ | {"F": types.SimpleNamespace(avg_pool2d=pool)}
    changed = types.FunctionType(forward.__code__, names)
    block._forward = types.MethodType(changed, block)


def draw_network():
    """Returns pytorch-fid's network in torch, without its head, and its state dict."""
    model = torchvision.models.inception_v3(
        num_classes=1008, aux_logits=False, init_weights=False
    )
    for name in AVERAGED:
        with_pool(getattr(model, f"Mixed_{name}"), without_padding)
    with_pool(model.Mixed_7c, functional.max_pool2d)
    shapes = {key: tuple(leaf.shape) for key, leaf in model.state_dict().items()}
    drawn = recipe.draw_state_dict(shapes)
    state = model.state_dict() | {
        key: torch.from_numpy(leaf) for key, leaf in drawn.items()
    }
    model.load_state_dict(state)
    model.fc = torch.nn.Identity()
    return model.eval(), state


def prepare(images):
    """Returns images as pytorch-fid hands them on, [b, 3, 299, 299]."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
    size = inception.SIZE, inception.SIZE
    return 2 * functional.interpolate(x, size, mode="bilinear") - 1


def draw_images(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize("height, width", [(32, 24), (299, 299), (310, 700), (1, 450)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_prepared_as_torch_does(height, width, channels):
    images = draw_images(2, height, width, channels)
    found = jax.jit(inception.prepare)(images)
    expected = prepare(images).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_features_are_those_of_torch(tmp_path):
    model, state = draw_network()
    torch.save(state, tmp_path / "fid.pth")
    variables, name = weights.load(tmp_path / "fid.pth")
    assert name.startswith("inception_")
    images = draw_images(2, 32, 24, 3)
    with torch.no_grad():
        expected = model(prepare(images)).numpy()
    found = jax.jit(inception.FidInception().apply)(variables, images)
    assert found.shape == (2, inception.FEATURES)
    close = {"rtol": 1e-4, "atol": 1e-4 * expected.std()}
    np.testing.assert_allclose(found, expected, **close)
