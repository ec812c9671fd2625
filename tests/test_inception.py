"""FID's Inception without torch: its shape, its weight file, and other files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipe

from tljax.errors import ConfigError, WeightsError
from tljax.evaluation import generative
from tljax.models import inception
from tljax.pretrained import files
from tljax.pretrained import inception as weights


@pytest.fixture(scope="module")
def layout():
    return weights.layout()


@pytest.fixture(scope="module")
def state(layout):
    return recipe.draw_state_dict(layout[1])


def test_it_is_as_large_as_torchvisions(layout):
    paths, shapes = layout
    # 27,161,264 of torchvision's inception_v3, less those of both its heads.
    trained = [key for key in paths if "running" not in key]
    sizes = [int(np.prod(shapes[key])) for key in trained]
    assert sum(sizes) == 27_161_264 - 3_326_696 - 2_049_000
    assert len(trained) == 3 * 94
    assert shapes["Mixed_6b.branch7x7_3.conv.weight"] == (192, 128, 7, 1)
    assert shapes["Mixed_7c.branch3x3dbl_3b.bn.running_var"] == (384,)


def test_pools_leave_out_what_is_padded():
    ones = jnp.ones((1, 4, 5, 2))
    np.testing.assert_array_equal(inception.average(ones), ones)


def test_grey_images_have_three_equal_channels():
    grey = jnp.linspace(0, 1, 12).reshape(1, 3, 4, 1)
    found = inception.prepare(grey)
    assert found.shape == (1, 299, 299, 3)
    assert (found[..., :1] == found).all()
    assert found.min() == -1 and found.max() == 1
    with pytest.raises(ValueError, match="2 channels must have 1 or 3"):
        inception.prepare(jnp.zeros((1, 3, 4, 2)))


def test_a_weight_file_is_read_with_its_name(tmp_path, state, layout):
    path = tmp_path / "own.pth"
    counter = {"Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros((), np.int64)}
    files.write(path, state | counter, {})
    variables, name = weights.load(path)
    assert name == f"inception_{files.sha256(path)[:8]}"
    kernel = variables["params"]["Mixed_6b"]["branch7x7_2"]["conv"]["kernel"]
    theirs = state["Mixed_6b.branch7x7_2.conv.weight"]
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))
    flat = jax.tree.leaves(variables)
    assert len(flat) == len(layout[0]) and all(leaf.dtype == "f4" for leaf in flat)
    path.rename(tmp_path / weights.FILE)
    with pytest.raises(WeightsError, match=r"SHA-256 is .*, not 6726825d\.\.\."):
        weights.load(tmp_path / weights.FILE)
    assert weights.NAME == generative.INCEPTION


def test_another_network_is_one_line(tmp_path, state):
    with pytest.raises(ConfigError, match="does not exist"):
        weights.load(tmp_path / "none.pth")
    files.write(tmp_path / "x.pth", {"layer1.0.conv1.weight": np.zeros(3, "f4")}, {})
    with pytest.raises(WeightsError, match=r"x.pth cannot .* - layer1.* and \d+ more$"):
        weights.load(tmp_path / "x.pth")
    torchvisions = state | {
        "fc.weight": np.zeros((1000, 2048), "f4"),
        "fc.bias": np.zeros(1000, "f4"),
        "AuxLogits.fc.bias": np.zeros(1000, "f4"),
    }
    with pytest.raises(WeightsError) as caught:
        weights.to_variables(torchvisions)
    assert str(caught.value).endswith(
        "- AuxLogits.fc.bias; fc.weight (1000, 2048), not (1008, 2048); "
        "fc.bias (1000,), not (1008,)"
    )
    key = "Conv2d_1a_3x3.bn.weight"
    with pytest.raises(WeightsError, match=f"{key} holds no floats"):
        weights.to_variables(state | {key: np.zeros(32, np.int32)})
