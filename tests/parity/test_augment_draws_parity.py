"""The distribution of everything that operations draw, beside torchvision's.

Samples of fixed keys and seeds: a test that passes once passes always.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tljax.data import augment
from tljax.data import operations as ops
from tljax.data.pixels import geometry, mixing, per_image, policies, warps

torch = pytest.importorskip("torch")
v2 = pytest.importorskip("torchvision.transforms.v2")


def same_distribution(found, expected):
    """Asserts that two samples could be of one distribution (Kolmogorov-Smirnov)."""
    assert stats.ks_2samp(np.ravel(found), np.ravel(expected)).pvalue > 1e-3


def drawn_by_torch(transform, count, height, width, *names):
    """Returns the named parameters of so many draws, float [count, names]."""
    torch.manual_seed(0)
    image = [torch.zeros(3, height, width)]
    drawn = [transform.make_params(image) for _ in range(count)]
    return np.array([[params[name] for name in names] for params in drawn], float)


@pytest.mark.parametrize(
    "height, width, scale",
    [(48, 64, (0.08, 1.0)), (30, 100, (0.3, 1.0)), (10, 100, (0.9, 1.0))],
)
def test_boxes_are_drawn_alike(height, width, scale):
    """Where one of ten draws always fits, sometimes, and never."""
    count, ratio = 3000, (3 / 4, 4 / 3)
    extents = jnp.tile(jnp.array([[height, width]]), (count, 1))
    found = geometry.draw_boxes(jax.random.key(0), extents, scale, ratio)
    transform = v2.RandomResizedCrop(8, scale=scale, ratio=ratio)
    names = "top", "left", "height", "width"
    compare_boxes(found, drawn_by_torch(transform, count, height, width, *names))


def compare_boxes(found, expected):
    found = np.asarray(found, float)
    for column in range(4):
        same_distribution(found[:, column], expected[:, column])
    same_distribution(found[:, 2] * found[:, 3], expected[:, 2] * expected[:, 3])
    same_distribution(found[:, 3] / found[:, 2], expected[:, 3] / expected[:, 2])


def test_erased_boxes_are_drawn_alike():
    count, height, width = 2000, 24, 32
    batch = jnp.zeros((count, height, width, 1))
    ratio = 0.5, 3.0  # Not the default, which is as high as wide.
    operation = ops.RandomErasing(p=1.0, ratio=ratio)
    erased = geometry.erase(jax.random.key(0), batch, operation, jnp.ones(1))
    rows, columns = (np.asarray(erased[..., 0].max(axis=axis)) for axis in (2, 1))
    found = [rows.argmax(1), columns.argmax(1), rows.sum(1), columns.sum(1)]
    transform = v2.RandomErasing(p=1.0, ratio=ratio)
    expected = drawn_by_torch(transform, count, height, width, "i", "j", "h", "w")
    compare_boxes(np.stack(found, axis=1), expected)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_drawn_alike(alpha):
    count, size = 2000, 16
    batch, targets = jnp.zeros((count, size, size, 1)), jnp.eye(count)
    mix = jax.jit(mixing.mix, static_argnums=3)
    for kind, reference, name in (
        (ops.Mixup, v2.MixUp, "lam"),
        (ops.CutMix, v2.CutMix, "lam_adjusted"),
    ):
        operations = (kind(alpha=alpha),)
        _, mixed = mix(jax.random.key(0), batch, targets, operations)
        transform = reference(alpha=alpha, num_classes=2)
        expected = drawn_by_torch(transform, count, size, size, name)
        if kind is ops.Mixup:  # Ours keeps the larger part for the image itself.
            expected = np.maximum(expected, 1 - expected)
        same_distribution(np.diag(mixed), expected)


def test_pasted_boxes_are_drawn_alike():
    count, height, width = 2000, 20, 28
    draw = jax.jit(mixing.cutmix_shares, static_argnums=(1, 2))
    kept, _ = draw(jax.random.key(0), (count, height, width), ops.CutMix())
    pasted = 1 - np.asarray(kept)[..., 0]
    rows, columns = pasted.max(axis=2), pasted.max(axis=1)
    boxes = drawn_by_torch(v2.CutMix(num_classes=2), count, height, width, "box")[:, 0]
    # Torch says where an empty box lies; a mask cannot.
    left, top, right, bottom = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)].T
    some = pasted.any(axis=(1, 2))
    same_distribution(rows[some].argmax(1), top)
    same_distribution(columns[some].argmax(1), left)
    same_distribution(rows[some].sum(1), bottom - top)
    same_distribution(columns[some].sum(1), right - left)
    assert abs(some.mean() - len(left) / count) < 0.03


def test_angles_are_drawn_alike():
    """Channels that hold x and y show, beside the centre, by how much they turned."""
    count = 1500
    y, x = np.mgrid[-2:3, -2:3].astype(np.float32)
    image = np.stack([x, y], axis=-1)
    batch = jnp.asarray(np.broadcast_to(image, (count, 5, 5, 2)))
    operation = ops.Rotation(degrees=(-40.0, 70.0), interpolation="bilinear")
    turned = np.asarray(warps.rotate(jax.random.key(0), batch, operation))
    found = np.degrees(np.arctan2(turned[:, 2, 3, 1], turned[:, 2, 3, 0]))
    transform = v2.RandomRotation((-40, 70))
    same_distribution(found, drawn_by_torch(transform, count, 5, 5, "angle"))


def test_jitter_and_blur_are_drawn_alike():
    """A grey image shows its brightness; beside a point, the blur shows its width."""
    count, key = 1500, jax.random.key(0)
    grey = jnp.full((count, 1, 1, 1), 100.0)
    found = augment.jitter(key, grey, ops.ColorJitter(brightness=0.4)) / 100
    jitter = v2.ColorJitter(brightness=0.4)
    expected = drawn_by_torch(jitter, count, 1, 1, "brightness_factor")
    same_distribution(found, expected)
    red = jnp.tile(jnp.array([200.0, 0.0, 0.0]).reshape(1, 1, 1, 3), (count, 1, 1, 1))
    found = augment.jitter(key, red, ops.ColorJitter(hue=0.1)).reshape(count, 3) / 1200
    expected = drawn_by_torch(v2.ColorJitter(hue=0.1), count, 1, 1, "hue_factor")
    same_distribution(found[:, 1] - found[:, 2], expected)
    point = jnp.zeros((count, 7, 7, 1)).at[:, 3, 3].set(1.0)
    operation = ops.GaussianBlur(kernel_size=3, sigma=(0.3, 2.0), p=1.0)
    blurred = augment.blur(key, point, operation)
    ratios = np.asarray(blurred[:, 3, 4] / blurred[:, 3, 3])
    transform = v2.GaussianBlur(3, (0.3, 2.0))
    expected = drawn_by_torch(transform, count, 7, 7, "sigma")[:, 0, 0]
    same_distribution(np.sqrt(-0.5 / np.log(ratios)), expected)


def test_operations_are_drawn_with_equal_chance():
    """Torchvision draws one of fourteen evenly, a bin evenly, a sign at one half."""
    choices_key, signs_key, bins_key = jax.random.split(jax.random.key(0), 3)
    choices = policies.draw_choices(choices_key, 14_000)
    assert stats.chisquare(np.bincount(choices, minlength=14)).pvalue > 1e-3
    signs = np.asarray(policies.draw_signs(signs_key, choices))
    signed = policies.SIGNED[choices]
    negative = int((signs[signed] == -1).sum())
    assert stats.binomtest(negative, int(signed.sum())).pvalue > 1e-3
    drawn = np.asarray(per_image.whole(bins_key, jnp.full(14_000, 31.0)))
    assert stats.chisquare(np.bincount(drawn.astype(int))).pvalue > 1e-3


def test_bins_of_trivial_augment_are_drawn_evenly(monkeypatch):
    """What `perform` is given for brightness: 31 magnitudes, of both signs."""
    given = []
    monkeypatch.setattr(policies, "perform", lambda *arguments: given.extend(arguments))
    batch = jnp.zeros((30_000, 2, 2, 3))
    policies.trivial_augment(jax.random.key(0), batch, ops.TrivialAugmentWide())
    _, choices, amounts = given
    amounts = np.asarray(amounts)[np.asarray(choices) == policies.PLACES["brightness"]]
    bins = np.round(np.abs(amounts) / 0.033).astype(int)
    np.testing.assert_allclose(bins * 0.033, np.abs(amounts), atol=1e-5)
    assert stats.chisquare(np.bincount(bins, minlength=31)).pvalue > 1e-3
