"""Evaluation: logits and features of every stage equal torchvision's."""

import jax
import numpy as np
import pytest
import recipe

torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")
torchvision = pytest.importorskip("torchvision")

from tljax import models  # noqa: E402
from tljax.pretrained import mapping  # noqa: E402

SIZES = [(224, 224), (64, 64), (97, 131)]


def torch_features(model, images):
    """Returns logits and the outputs of stem, stages and pooling as [b, h, w, c]."""
    features = {}

    def keep(name):
        def hook(module, inputs, output):
            array = output.detach().numpy()
            features[name] = array.transpose(0, 2, 3, 1)

        return hook

    stages = {"stem": model.maxpool} | {
        f"layer{stage}": getattr(model, f"layer{stage}") for stage in range(1, 5)
    }
    handles = [
        module.register_forward_hook(keep(name)) for name, module in stages.items()
    ]
    with torch.no_grad():
        logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    for handle in handles:
        handle.remove()
    return logits, features


def relative_error(found, expected):
    """Returns the largest difference over the largest value."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def to_variables(model, name):
    """Returns our variables of a torch model."""
    state = {key: leaf.numpy() for key, leaf in model.state_dict().items()}
    return mapping.to_variables(state, name)


@pytest.mark.parametrize("name", models.MODELS)
def test_logits_and_features_are_torchvisions(name, make_torch_model, record_property):
    theirs, ours = make_torch_model(name), models.create(name)
    variables = to_variables(theirs, name)
    for size in SIZES:
        images = recipe.draw_images((2, *size, 3))
        expected, expected_features = torch_features(theirs, images)
        logits, features = jax.jit(
            lambda v, x: ours.apply(v, x, train=False, return_features=True)
        )(variables, images)
        errors = {"logits": relative_error(logits, expected)} | {
            stage: relative_error(features[stage], expected_features[stage])
            for stage in expected_features
        }
        print(name, size, {key: f"{value:.1e}" for key, value in errors.items()})
        assert max(errors.values()) <= 1e-5, (size, errors)


@pytest.mark.parametrize("name", models.MODELS)
def test_names_and_shapes_are_torchvisions(name):
    with torch.device("meta"):
        state = torchvision.models.get_model(name, weights=None).state_dict()
    expected = {
        key: tuple(leaf.shape)
        for key, leaf in state.items()
        if not mapping.is_counter(key)
    }
    assert list(mapping.layout(models.create(name)).items()) == list(expected.items())
