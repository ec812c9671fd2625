"""The real torchvision, where it is installed (`pip install -e '.[parity]'`)."""

import importlib.util

import pytest

if importlib.util.find_spec("torch"):
    import torch

    from benchmarks.torch_side import import_torchvision

    import_torchvision()  # Here, as some builds of torch need its help.
    torch.set_num_threads(1)  # pytest takes a process for each core.


@pytest.fixture
def make_torch_model():
    """Returns a function: name -> torchvision's model with the recipe's weights."""
    import recipe
    import torchvision

    def make(name, seed=0, **options):
        model = torchvision.models.get_model(name, weights=None, **options)
        shapes = {key: tuple(leaf.shape) for key, leaf in model.state_dict().items()}
        state = recipe.draw_state_dict(shapes, seed)
        state = {key: torch.from_numpy(leaf) for key, leaf in state.items()}
        model.load_state_dict(state)
        return model.eval()

    return make
