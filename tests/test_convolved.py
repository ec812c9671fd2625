"""A convolution and BatchNorm in one: with the numbers of one after the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_library
from flax import linen as nn

from tljax.models import layers, lowering
from tljax.models.lowering import choice, mode
from tljax.models.resnet import BasicBlock, Bottleneck, ResNet

pytestmark = test_library.pytestmark

measured = test_library.measured


def network(block: type[nn.Module], **options) -> ResNet:
    """Returns two stages of one block, the second with a projection at stride 2."""
    return ResNet((1, 1), block, num_classes=3, width=8, stem="small", **options)


@functools.cache
def variables_of(block: type[nn.Module]):
    """Returns images and variables, with statistics and scales that differ."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 16, 18, 3)).astype(np.float32)
    found = jax.jit(network(block).init)(jax.random.key(0), images)

    def spread(leaf):
        return np.abs(leaf + rng.normal(size=leaf.shape) / 4).astype(np.float32)

    return images, found | {"batch_stats": jax.tree.map(spread, found["batch_stats"])}


def outcome(model: ResNet, train: bool, variables, images):
    """Returns logits, statistics, and the gradients of images and parameters."""

    def loss(params, images):
        given = {**variables, "params": params}
        logits, new = model.apply(given, images, train, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(logits)), (logits, new)

    gradients = jax.grad(loss, (0, 1), has_aux=True)
    return gradients(variables["params"], images)


def by_library(model: ResNet, train: bool, variables, images):
    """Returns the outcome, and the text of the program."""
    with mode.changed(library=True), lowering.unkept():
        run = functools.partial(outcome, model, train)
        lowered = jax.jit(run).lower(variables, images)
        return lowered.compile()(variables, images), lowered.as_text()


def by_xla(model: ResNet, train: bool, variables, images):
    """Returns the outcome in float64."""
    with lowering.plain(), jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype("float64"), (variables, images))
        found = jax.jit(functools.partial(outcome, model, train))(*wide)
    return jax.tree.map(np.asarray, found)


FROZEN = frozenset({"bn1", "layer1_0/bn1", "layer2_0/bn2", "layer2_0/downsample_1"})


@pytest.mark.parametrize(
    "block, train, frozen, sums, shifts",
    [
        (BasicBlock, False, frozenset(), 2, 6),
        (Bottleneck, False, frozenset(), 2, 9),
        (BasicBlock, True, FROZEN, 1, 4),
        (Bottleneck, True, FROZEN, 0, 7),
        (BasicBlock, True, frozenset(), 0, 1),
        (Bottleneck, True, frozenset(), 0, 4),
    ],
)
def test_numbers_and_gradients_are_those_of_one_after_the_other(
    block, train, frozen, sums, shifts, measured, monkeypatch
):
    """With `sums` of residual blocks, and `shifts` of all, within convolutions."""
    monkeypatch.setattr(choice, "FOLD_WORTH", 0)
    images, variables = variables_of(block)
    model = network(block, frozen_statistics=frozen)
    found, text = by_library(model, train, variables, images)
    assert (text.count("BINARY_ADD"), text.count("BIAS")) == (sums, shifts)
    expected = by_xla(model, train, variables, images)
    for ours, exact in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(
            ours, exact, rtol=2e-4, atol=2e-4 * np.abs(exact).max()
        )


def test_bfloat16_is_rounded_once(measured):
    """And is as near to float64 as with one after the other."""
    images, variables = variables_of(Bottleneck)
    model = network(Bottleneck, dtype=jnp.bfloat16)
    expected = by_xla(network(Bottleneck), False, variables, images)[1][0]
    found = by_library(model, False, variables, images)[0][1][0]
    with lowering.plain():
        plain = outcome(model, False, variables, images)[1][0]
    near, far = (np.abs(np.asarray(x) - expected).max() for x in (found, plain))
    assert near < 1.5 * far


def test_a_bias_is_refused():
    norm = layers.BatchNorm(True)
    conv = layers.Convolution(2, 1, use_bias=True, parent=None)
    with pytest.raises(ValueError, match="without a bias"):
        norm.init(jax.random.key(0), jnp.ones((1, 2, 2, 2)), conv=conv)


def test_large_kernels_are_not_rewritten():
    """Of what BatchNorm multiplies by, where that would take longer than it saves."""
    window = lowering.Window((3, 3), 1, ((1, 1), (1, 1)))
    how = {"window": window, "library": True}
    large = choice.Case((8, 7, 7, 512), (3, 3, 512, 512), **how)
    small = choice.Case((8, 56, 56, 64), (3, 3, 64, 64), **how)
    assert small.is_folded and not large.is_folded
