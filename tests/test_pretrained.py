"""Weights from files: names, wrappers, choices of head and channels, what travels."""

import json
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import recipe
import safetensors
from flax import traverse_util
from PIL import Image

from tljax import models, pretrained
from tljax.data import transforms
from tljax.errors import ConfigError, WeightsError
from tljax.pretrained import catalog, files, mapping


@pytest.fixture
def state():
    """A resnet18 of width 4 for seven classes, named as torchvision names it."""
    model = models.create("resnet18", width=4, stem="small", num_classes=7)
    return recipe.draw_state_dict(mapping.layout(model))


@pytest.fixture
def path(tmp_path, state):
    files.write(tmp_path / "tiny.pth", state, {})
    return tmp_path / "tiny.pth"


def assert_same(tree, other):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b, strict=True), tree, other
    )


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("options", [{}, {"width": 16, "stem": "small"}])
def test_the_layout_is_the_models_own(name, options):
    """One entry for each variable, of the shape that the module makes it."""
    model = models.create(name, num_classes=5, **options)
    images = jax.ShapeDtypeStruct((1, 32, 32, 2), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    expected = {
        path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables).items()
    }
    layout = mapping.layout(model, channels=2)
    found = {}
    for key, shape in layout.items():
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(shape), (0,))
        path = mapping.path_of(key, len(shape))
        found[path] = tuple(shape[axis] for axis in axes)
        assert mapping.name_of(path) == key
    assert found == expected and len(found) == len(layout)


def test_loading_transposes_and_exporting_transposes_back(path, state, tmp_path):
    variables = pretrained.load(f"file:{path}")
    kernel = variables["params"]["layer2_0"]["conv1"]["kernel"]
    theirs = state["layer2.0.conv1.weight"]
    assert kernel[1, 2, 3, 5] == theirs[5, 3, 1, 2]
    assert variables["params"]["fc"]["kernel"][3, 6] == state["fc.weight"][6, 3]
    for suffix in files.SUFFIXES:
        pretrained.export(variables, tmp_path / f"back{suffix}", "resnet18")
        again = pretrained.load(f"file:{tmp_path}/back{suffix}", "resnet18")
        assert_same(again, variables)


def test_a_file_says_nothing_and_is_recognised(path):
    weights = pretrained.load_weights(f"file:{path}")
    assert weights.model == {"name": "resnet18", "width": 4, "stem": "small"}
    assert weights.class_names == () and weights.transform == transforms.IMAGENET


def test_metadata_travels(tmp_path, state):
    metadata = {
        "model": {"name": "resnet18", "width": 4, "stem": "small"},
        "class_names": list("abcdefg"),
        "transform": {"resize": 9, "crop": 8, "mean": [0.1], "std": [0.2]},
    }
    for suffix in (".pth", ".safetensors"):
        files.write(tmp_path / f"x{suffix}", state, metadata)
        weights = pretrained.load_weights(f"file:{tmp_path}/x{suffix}")
        assert weights.class_names == tuple("abcdefg")
        assert weights.transform == transforms.Transform(9, 8, (0.1,), (0.2,))
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        assert json.loads(archive.read("archive/tljax.json")) == metadata
    with safetensors.safe_open(tmp_path / "x.safetensors", "numpy") as file:
        assert file.metadata()["format"] == "pt"


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floats_become_float32(dtype, state, tmp_path):
    state = {key: value.astype(dtype) for key, value in state.items()}
    files.write(tmp_path / "x.pth", state, {})
    variables = pretrained.load(f"file:{tmp_path}/x.pth")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    bias = variables["params"]["bn1"]["bias"]
    np.testing.assert_array_equal(bias, state["bn1.bias"].astype(np.float32))


def test_integers_are_no_weights(state, tmp_path):
    state["bn1.bias"] = np.zeros(4, np.int8)
    files.write(tmp_path / "x.pth", state, {})
    with pytest.raises(WeightsError, match=r"hold no floats: bn1\.bias"):
        pretrained.load(f"file:{tmp_path}/x.pth")


def test_every_difference_is_listed(state, tmp_path):
    del state["layer3.0.conv1.weight"]
    state["layer9.weight"] = np.zeros(3, np.float32)
    state["bn1.weight"] = np.zeros(5, np.float32)
    files.write(tmp_path / "x.pth", state, {})
    with pytest.raises(WeightsError) as raised:
        pretrained.load(f"file:{tmp_path}/x.pth", arch="resnet18")
    for words in (
        "- layer9.weight (3,)",
        "+ layer3.0.conv1.weight (16, 8, 3, 3)",
        "bn1.weight (5,), not (4,)",
    ):
        assert words in str(raised.value)
    assert str(raised.value).count(";") == 2


def test_another_architecture_is_named(path):
    with pytest.raises(WeightsError, match="does not fit resnet34; it fits resnet18"):
        pretrained.load(f"file:{path}", arch="resnet34")
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        pretrained.load(f"file:{path}", arch="resnet81")


@pytest.mark.parametrize(
    "rename, words",
    [
        (("conv1.weight", "conv1.0.weight"), "a stem of three convolutions"),
        (("layer1.0.bn2.weight", "layer1.0.se.fc1.weight"), "channel attention"),
        (("layer2.0.downsample.0.weight", "layer2.0.downsample.2.x"), "average pool"),
    ],
)
def test_timms_variants_are_refused_by_name(state, tmp_path, rename, words):
    old, new = rename
    state = {new if key == old else key: value for key, value in state.items()}
    files.write(tmp_path / "x.safetensors", state, {})
    with pytest.raises(WeightsError, match=words):
        pretrained.load(f"file:{tmp_path}/x.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "module.model."])
def test_common_prefixes_are_dropped_and_named(state, tmp_path, prefix):
    wrapped = {prefix + key: value for key, value in state.items()}
    wrapped["n_averaged"] = np.array(3)
    files.write(tmp_path / "x.pth", wrapped, {})
    weights = pretrained.load_weights(f"file:{tmp_path}/x.pth", "resnet18")
    assert f"dropped the prefix '{prefix}'" in weights.origin
    assert_same(weights.variables, mapping.to_variables(state, "resnet18"))


def test_two_networks_in_one_file_are_refused(state, tmp_path):
    both = {
        f"{name}.{key}": value
        for name in ("student", "teacher")
        for key, value in state.items()
    }
    files.write(tmp_path / "x.pth", both, {})
    with pytest.raises(WeightsError, match=r"several networks: student\., teacher\."):
        pretrained.load(f"file:{tmp_path}/x.pth")


def test_a_head_is_kept_replaced_or_dropped(path):
    start = f"file:{path}"
    kept = pretrained.load(start, num_classes=7)
    dropped = pretrained.load_weights(start, head="drop")
    assert "fc" not in dropped.variables["params"]
    replaced = pretrained.load(start, head="replace", num_classes=3)
    bound = 32**-0.5
    for leaf in replaced["params"]["fc"].values():
        assert leaf.dtype == np.float32 and np.abs(leaf).max() <= bound
    assert replaced["params"]["fc"]["kernel"].shape == (32, 3)
    assert_same(replaced["batch_stats"], kept["batch_stats"])
    other = pretrained.load(start, head="replace", num_classes=3, seed=1)
    assert (other["params"]["fc"]["bias"] != replaced["params"]["fc"]["bias"]).any()
    with pytest.raises(
        ConfigError, match="a head of 7 classes, not of 5: head = 'keep'"
    ):
        pretrained.load(start, num_classes=5)
    with pytest.raises(ConfigError, match="needs num_classes"):
        pretrained.load(start, head="replace")
    with pytest.raises(ConfigError, match="did you mean 'keep'"):
        pretrained.load(start, head="keeep")


def test_a_backbone_without_head_is_kept_as_it_is(path, tmp_path):
    headless = pretrained.load(f"file:{path}", head="drop")
    pretrained.export(headless, tmp_path / "x.pth", "resnet18")
    with pytest.raises(ConfigError, match="a head of 0 classes"):
        pretrained.load(f"file:{tmp_path}/x.pth")
    assert_same(pretrained.load(f"file:{tmp_path}/x.pth", head="drop"), headless)


def test_the_sum_over_channels_answers_a_grey_image_as_before(path, key):
    start = f"file:{path}"
    model = models.create("resnet18", width=4, stem="small", num_classes=7)
    grey = jax.random.normal(key, (2, 9, 9, 1))
    apply = jax.jit(model.apply)
    before = apply(pretrained.load(start), jnp.repeat(grey, 3, axis=-1))
    summed = pretrained.load_weights(start, channels=1, input_channels="sum")
    after = apply(summed.variables, grey)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    assert summed.transform.mean == pytest.approx([0.449], abs=1e-3)
    for channels in (1, 2, 5, 6):
        repeated = pretrained.load(start, channels=channels, input_channels="repeat")
        kernel = repeated["params"]["conv1"]["kernel"]
        assert kernel.shape == (3, 3, channels, 4) and kernel.dtype == np.float32
    # Equal channels are answered as before where each is repeated as often.
    after = apply(repeated, jnp.repeat(grey, 6, axis=-1))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "channels, how, words",
    [
        (1, "error", "of 3 channels, not of 1.*'sum' or 'repeat'"),
        (4, "error", "of 3 channels, not of 4.*'error'; 'repeat'"),
        (4, "sum", "of 3 channels, not of 4.*'sum'; 'repeat'"),
        (1, "summ", "did you mean 'sum'"),
    ],
)
def test_other_channels_need_a_choice(path, channels, how, words):
    with pytest.raises(ConfigError, match=words):
        pretrained.load(f"file:{path}", channels=channels, input_channels=how)


def test_variables_of_another_model_are_not_exported(path, tmp_path):
    variables = pretrained.load(f"file:{path}")
    with pytest.raises(WeightsError, match=r"\+ layer1\.2\.conv1\.weight"):
        pretrained.export(variables, tmp_path / "x.pth", "resnet34")
    with pytest.raises(ConfigError, match="did you mean 'resnet34'"):
        pretrained.export(variables, tmp_path / "x.pth", "resnet43")
    with pytest.raises(ConfigError, match="must end in"):
        pretrained.export(variables, tmp_path / "x.h5", "resnet18")
    assert not (tmp_path / "x.pth").exists()


@pytest.mark.parametrize(
    "name, file",
    [
        ("resnet50", "resnet50-11ad3fa6.pth"),
        ("resnet50.DEFAULT", "resnet50-11ad3fa6.pth"),
        ("resnet50.IMAGENET1K_V1", "resnet50-0676ba61.pth"),
        ("resnet18", "resnet18-f37072fd.pth"),
        ("resnet50-19c8e357", "resnet50-19c8e357.pth"),
        ("wide_resnet50_2-95faca4d.pth", "wide_resnet50_2-95faca4d.pth"),
    ],
)
def test_published_weights_go_by_several_names(name, file):
    assert catalog.find(name).file == file
    assert file.endswith(f"-{catalog.find(name).hash_prefix}.pth")


def test_an_unknown_name_of_published_weights():
    with pytest.raises(ConfigError, match=r"did you mean 'resnet50\.IMAGENET1K_V2'"):
        catalog.find("resnet50.IMAGENET1K_V3")
    assert len(catalog.CATALOG) == 17 and len(catalog.ALIASES) == 5


def test_a_photograph_keeps_its_shape_until_it_is_cropped():
    rows = np.tile(np.arange(200, dtype=np.uint8)[:, None, None], (1, 300, 3))
    image = Image.fromarray(rows)
    transform = transforms.Transform(100, 80)
    prepared = transforms.prepare(image, transform)
    assert prepared.shape == (80, 80, 3) and prepared.dtype == np.uint8
    # Row 10 of the crop is row 20 of the half-size image, rows 40 and 41 of the whole.
    assert abs(int(prepared[10, 0, 0]) - 40.5) <= 1
    with pytest.raises(ConfigError, match="without the size"):
        transforms.prepare(image, transforms.Transform())
