"""Makes tests/golden_activations.npz from the real torchvision, which needs torch:

pip install -e '.[test,parity]' && python tests/parity/make_golden.py
"""

import sys
from pathlib import Path

import numpy as np
import torch

TESTS = Path(__file__).parent.parent
sys.path.append(str(TESTS))
import recipe  # noqa: E402

from benchmarks.torch_side import import_torchvision  # noqa: E402
from tljax import models  # noqa: E402

IMAGES = recipe.draw_images((1, 37, 45, 3))
PLACE = TESTS / "golden_activations.npz"


def activations(name: str) -> dict[str, np.ndarray]:
    """Returns a corner of every stage's output, and logits, as [b, h, w, c]."""
    get_model = import_torchvision().models.get_model
    model = get_model(name, weights=None, num_classes=20).eval()
    shapes = {key: tuple(leaf.shape) for key, leaf in model.state_dict().items()}
    state = recipe.draw_state_dict(shapes)
    model.load_state_dict({key: torch.from_numpy(leaf) for key, leaf in state.items()})
    x = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())
    found = {}
    with torch.no_grad():
        found["logits"] = model(x).numpy()
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        found["stem"] = corner(x)
        for stage in range(1, 5):
            x = getattr(model, f"layer{stage}")(x)
            found[f"layer{stage}"] = corner(x)
    return {f"{name}/{key}": value for key, value in found.items()}


def corner(x: torch.Tensor) -> np.ndarray:
    """Returns the last rows and columns of the first channels, where padding shows."""
    return x[:, :8, -3:, -3:].numpy().transpose(0, 2, 3, 1)


if __name__ == "__main__":
    arrays = {}
    for name in models.MODELS:
        arrays |= activations(name)
    np.savez_compressed(PLACE, **arrays)
    print(f"{len(arrays)} arrays, {PLACE.stat().st_size:,} bytes: {PLACE}")
