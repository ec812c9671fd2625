"""Recalibrated statistics are those of torch.optim.swa_utils.update_bn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")

from torch.optim import swa_utils  # noqa: E402

from tljax import batch_norm, models, parallel  # noqa: E402
from tljax.data import transforms  # noqa: E402
from tljax.pretrained import mapping  # noqa: E402


def expect(model, pixels, dtype):
    """Returns torch's statistics by layer, after batches of uint8 images."""
    mean, std = transforms.IMAGENET[2:]
    images = (pixels / 255.0 - np.array(mean)) / np.array(std)
    images = images.transpose(0, 1, 4, 2, 3).astype(dtype)
    swa_utils.update_bn(map(torch.from_numpy, images), model)
    return {name: leaf.numpy() for name, leaf in model.state_dict().items()}


def recalibrated(name, variables, pixels):
    """Returns our variables after the same batches."""
    mesh = parallel.create_mesh("cpu", 1)
    labels = np.zeros(pixels.shape[1], np.int32)
    batches = [{"image": batch, "label": labels} for batch in pixels]
    names = tuple(batch_norm.by_layer(variables["batch_stats"]))
    program = batch_norm.compile_add(
        variables,
        names,
        batches[0],
        {},
        mesh=mesh,
        model=models.create(name, num_classes=10),
        transform=transforms.IMAGENET._replace(resize=0, crop=0),  # Whole images.
        operations=(),
        key=jax.random.key(0),
    )
    return batch_norm.measure(program, variables, names, batches, {}, mesh)


@pytest.mark.parametrize(
    "name, dtype, tolerance",
    [
        ("resnet18", "float32", 1e-5),
        ("resnet18", "float64", 1e-9),
        ("resnet50", "float64", 1e-9),
    ],
)
def test_statistics_are_those_of_update_bn(name, dtype, tolerance, make_torch_model):
    """Of three batches, in all layers, whatever their statistics were before."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 40, 40, 3), np.uint8)
    theirs = make_torch_model(name, num_classes=10).to(getattr(torch, dtype))
    start = {key: leaf.numpy().copy() for key, leaf in theirs.state_dict().items()}
    state = expect(theirs, pixels, dtype)
    with jax.enable_x64(dtype == "float64"):
        variables = mapping.to_variables(start, name)
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
        found = recalibrated(name, variables, pixels)
    flat = {
        "/".join(mapping.path_of(key, 1)[1:]): state[key]
        for key in state
        for kind in ("mean", "var")
        if key.endswith(f"running_{kind}")
    }
    errors = {}
    for layer, statistics in batch_norm.by_layer(found["batch_stats"]).items():
        for kind, values in statistics.items():
            wanted = flat.pop(f"{layer}/{kind}")
            difference = np.abs(np.asarray(values) - wanted).max()
            errors[f"{layer}/{kind}"] = difference / np.abs(wanted).max()
    worst = max(errors, key=errors.get)
    print(name, dtype, len(errors), f"{errors[worst]:.1e} ({worst})")
    assert not flat and errors[worst] <= tolerance
