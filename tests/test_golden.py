"""Every architecture against activations of the real torchvision.

The weights are drawn again by the recipe, written as a .pth file and loaded, so that
names, layouts, paddings and strides are all proven where torch is not installed.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
import recipe

from tljax import models, pretrained
from tljax.pretrained import files, mapping

GOLDEN = np.load(Path(__file__).parent / "golden_activations.npz")


def corner(x):
    """Returns the last rows and columns of the first channels, where padding shows."""
    return x[:, -3:, -3:, :8]


@pytest.mark.parametrize("name", models.MODELS)
def test_activations_are_torchvisions(name, tmp_path):
    model = models.create(name, num_classes=20)
    path = tmp_path / "weights.pth"
    files.write(path, recipe.draw_state_dict(mapping.layout(model)), {})
    variables = pretrained.load(f"file:{path}", arch=name)
    path.unlink()
    images = recipe.draw_images((1, 37, 45, 3))
    logits, features = jax.jit(lambda v, x: model.apply(v, x, return_features=True))(
        variables, images
    )
    found = {stage: corner(features[stage]) for stage in features if stage != "pooled"}
    found["logits"] = logits
    for stage, value in found.items():
        expected = GOLDEN[f"{name}/{stage}"]
        error = np.abs(value - expected).max() / np.abs(expected).max()
        assert error <= 1e-5, (stage, error)
