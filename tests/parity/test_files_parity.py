"""Files: torch reads what we write, and we read whatever torch.save writes."""

from collections import OrderedDict

import jax
import numpy as np
import pytest
import recipe
from PIL import Image
from sklearn import datasets

torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")
torchvision = pytest.importorskip("torchvision")

from tljax import models, pretrained  # noqa: E402
from tljax.data import augment, transforms  # noqa: E402
from tljax.pretrained import catalog, mapping, torch_file  # noqa: E402

BASE = torch.arange(24.0).reshape(4, 6)
TENSORS = OrderedDict(
    contiguous=BASE,
    transposed=BASE.T,
    strided=BASE[1:3, ::2],
    parameter=torch.nn.Parameter(BASE + 1),
    scalar=torch.tensor(3),
    empty=torch.zeros(0, 2),
    boolean=BASE > 3,
    **{
        str(dtype).removeprefix("torch."): BASE.to(dtype)
        for dtype in (
            torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32,
            torch.int16, torch.int8, torch.uint8,
        )
    },
)  # fmt: skip


def same(variables, others):
    """Returns whether two trees of arrays are bitwise equal."""
    flags = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), variables, others)
    return jax.tree.all(flags)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_tensors_of_every_kind_are_read(zip_format, tmp_path):
    path = tmp_path / "all.pth"
    # Room for the views that share one storage.
    content = {"tensors": TENSORS, "room": torch.zeros(500), "epoch": 3, "name": "x"}
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    file = torch_file.parse(path.read_bytes())
    assert (file.content["epoch"], file.content["name"]) == (3, "x")
    arrays = torch_file.arrays(file, file.content["tensors"])
    for name, tensor in TENSORS.items():
        # NumPy has no bfloat16 for torch to hand out.
        expected = tensor.detach()
        if name == "bfloat16":
            expected = expected.float()
        else:
            assert arrays[name].dtype == expected.numpy().dtype, name
        found = arrays[name].astype(expected.numpy().dtype)
        np.testing.assert_array_equal(found, expected.numpy(), strict=True)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", ["buffers", "parameters", "half", "no_counters"])
def test_published_kinds_of_files_are_read(
    zip_format, kind, tmp_path, make_torch_model
):
    model = make_torch_model("resnet18")
    expected = mapping.to_variables(
        {key: leaf.numpy() for key, leaf in model.state_dict().items()}, "resnet18"
    )
    state = model.state_dict()
    if kind == "parameters":
        state |= dict(model.named_parameters())
    if kind == "half":
        state = OrderedDict((key, leaf.half()) for key, leaf in state.items())
        expected = jax.tree.map(lambda a: a.astype("f2").astype("f4"), expected)
    if kind == "no_counters":
        state = OrderedDict((k, v) for k, v in state.items() if "batches" not in k)
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=zip_format)
    assert same(pretrained.load(f"file:{tmp_path}/x.pth", "resnet18"), expected)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", models.MODELS)
def test_the_round_trip_is_exact_and_torch_takes_it(
    name, suffix, tmp_path, make_torch_model
):
    theirs = make_torch_model(name)
    torch.save(theirs.state_dict(), tmp_path / "there.pth")
    variables = pretrained.load(f"file:{tmp_path}/there.pth", arch=name)
    path = tmp_path / f"back{suffix}"
    pretrained.export(variables, path, arch=name)
    assert same(pretrained.load(f"file:{path}", arch=name), variables)
    if suffix == ".pth":
        state = torch.load(path, weights_only=True)
    else:
        from safetensors.torch import load_file

        state = load_file(path)
    back = torchvision.models.get_model(name, weights=None).eval()
    assert (
        str(back.load_state_dict(state, strict=True))
        == "<All keys matched successfully>"
    )
    images = torch.from_numpy(recipe.draw_images((1, 3, 64, 64)))
    with torch.no_grad():
        assert torch.equal(back(images), theirs(images))


def test_torch_maps_our_file_into_memory(tmp_path, make_torch_model):
    model = make_torch_model("resnet18")
    state = {key: leaf.numpy() for key, leaf in model.state_dict().items()}
    variables = mapping.to_variables(state, "resnet18")
    pretrained.export(variables, tmp_path / "x.pth", "resnet18", {"note": "x"})
    mapped = torch.load(tmp_path / "x.pth", mmap=True, weights_only=True)
    assert all(
        torch.equal(mapped[key], leaf) for key, leaf in model.state_dict().items()
    )


def test_the_catalog_is_torchvisions():
    for entry in catalog.CATALOG:
        weights = torchvision.models.get_model_weights(entry.model)
        theirs = weights[entry.version]
        meta, preset = theirs.meta, theirs.transforms()
        assert theirs.url == f"{catalog.URL}/{entry.file}"
        assert entry.default == (theirs is weights.DEFAULT)
        metrics = meta["_metrics"]["ImageNet-1K"]
        assert (entry.top1, entry.top5) == (metrics["acc@1"], metrics["acc@5"])
        assert entry.parameters == meta["num_params"]
        assert entry.mebibytes == meta["_file_size"] and entry.gflops == meta["_ops"]
        assert entry.recipe == meta["recipe"]
        assert list(catalog.class_names()) == meta["categories"]
        transform = entry.transform
        assert [transform.resize] == preset.resize_size
        assert [transform.crop] == preset.crop_size
        assert list(transform.mean) == preset.mean and list(transform.std) == preset.std
    names = [
        f"{entry.model}.{version}"
        for entry in catalog.CATALOG
        if entry.default
        for version in torchvision.models.get_model_weights(entry.model).__members__
    ]
    assert {f"{entry.model}.{entry.version}" for entry in catalog.CATALOG} == set(
        names
    ) - {name for name in names if name.endswith("DEFAULT")}


@pytest.mark.parametrize("photo", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize("resize", [256, 232])
@pytest.mark.parametrize("size", [None, (500, 375), (131, 97), (300, 1000), (230, 233)])
def test_photographs_are_prepared_as_torchvision_does(photo, resize, size):
    image = Image.fromarray(datasets.load_sample_image(photo))
    if size is not None:
        image = image.resize(size)
    preset = torchvision.transforms._presets.ImageClassification(
        crop_size=224, resize_size=resize
    )
    tv = torchvision.transforms.functional
    expected = tv.center_crop(tv.resize(image, [resize], antialias=True), [224])
    transform = transforms.IMAGENET._replace(resize=resize)
    found = transforms.prepare(image, transform)
    np.testing.assert_array_equal(found, np.asarray(expected), strict=True)
    normalized = augment.normalize(found[None], transform.mean, transform.std)[0]
    theirs = preset(image).numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(normalized, theirs, rtol=0, atol=5e-7)


def test_small_images_are_padded_as_torchvision_does():
    image = Image.fromarray(datasets.load_sample_image("flower.jpg")).resize((151, 90))
    expected = torchvision.transforms.functional.center_crop(image, [120])
    found = transforms.center_crop(np.asarray(image), 120)
    np.testing.assert_array_equal(found, np.asarray(expected), strict=True)
