"""The list of operations: its order, its keys, its shapes, and one batch on four."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from photos import photos

from tljax.data import augment
from tljax.data import operations as ops
from tljax.data.pixels import mixing, policies
from tljax.errors import ConfigError
from tljax.settings import check_value

MEAN = (123.0, 116.0, 104.0)
EVERYTHING = (
    ops.RandomCrop(padding=2, mode="reflect"),
    ops.HorizontalFlip(),
    ops.VerticalFlip(),
    ops.Rotation(degrees=(-30.0, 30.0), interpolation="bilinear"),
    ops.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    ops.Grayscale(),
    ops.GaussianBlur(kernel_size=3),
    ops.RandAugment(num_ops=1),
    ops.TrivialAugmentWide(),
    ops.RandomErasing(value="noise"),
    ops.Mixup(),
    ops.CutMix(),
)


@pytest.fixture(scope="module")
def augmented():
    """Returns a function: key, images -> images and targets after EVERYTHING."""

    @jax.jit
    def augmented(key, images):
        targets = jnp.eye(len(images))
        fill = MEAN[: images.shape[-1]]
        return augment.apply(key, images, targets, EVERYTHING, fill)

    return augmented


mix = jax.jit(mixing.mix, static_argnums=3)


def eight_photos(channels=3):
    return np.concatenate([photos(12, 12)] * 2)[..., :channels]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images_and_targets_stay_shares(augmented, key, channels):
    images, targets = augmented(key, eight_photos(channels))
    assert images.shape == (8, 12, 12, channels) and images.dtype == jnp.float32
    assert images.min() >= 0 and images.max() <= 255 and images.std() > 20
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)


def test_the_key_decides_and_nothing_else(augmented, key):
    images = eight_photos()
    first, again = augmented(key, images), augmented(key, images)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = augmented(jax.random.key(1), images)
    assert not np.array_equal(first[0], other[0])


def test_a_batch_on_four_devices_is_the_batch_on_one(augmented, key):
    images = eight_photos()
    mesh = Mesh(jax.devices(), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    shards = jax.device_put(images, split)
    one, four = augmented(key, images), augmented(key, shards)
    assert len(four[0].sharding.device_set) == 4
    for here, there in zip(one, four, strict=True):
        # Levels are rounded on the way, where a tie falls to either side.
        apart = np.abs(here - there)
        assert apart.max() <= 1.001 and np.mean(apart > 1e-3) < 0.002
    # Mixing sends each device the last image of another, and nobody gets them all.
    assert "all-gather" not in augmented.lower(key, shards).compile().as_text()


def apply_one(key, images, operation):
    targets = jnp.zeros((len(images), 2))
    return augment.apply(key, images, targets, (operation,), MEAN)[0]


@pytest.mark.parametrize("operation", EVERYTHING[:-2], ids=lambda op: type(op).__name__)
def test_each_image_has_its_own_draw(operation, key):
    """Sixteen copies of one photograph do not all become the same."""
    copies = np.repeat(photos(12, 12)[:1], 16, axis=0)
    result = np.asarray(jax.jit(apply_one, static_argnums=2)(key, copies, operation))
    assert len({image.tobytes() for image in result}) > 1


@pytest.mark.parametrize(
    "kind", [ops.HorizontalFlip, ops.VerticalFlip, ops.Grayscale, ops.RandomErasing]
)
def test_p_0_is_never_and_p_1_is_always(kind, key):
    images = eight_photos()
    never = apply_one(key, images, kind(p=0.0))
    np.testing.assert_array_equal(never, images)
    always = apply_one(key, images, kind(p=1.0))
    assert (np.abs(always - images).max(axis=(1, 2, 3)) > 0).all()


def test_p_is_the_share_of_images(key):
    images = jnp.tile(jnp.arange(2.0).reshape(1, 1, 2, 1), (4000, 1, 1, 1))
    flipped = augment.apply(
        key, images, jnp.zeros((4000, 1)), (ops.HorizontalFlip(p=0.3),), (0.0,)
    )[0]
    assert abs(flipped[:, 0, 0, 0].mean() - 0.3) < 0.03


def test_the_same_operation_twice_is_two_draws(key):
    """Else two flips would undo each other."""
    flip = ops.HorizontalFlip()
    images = np.repeat(photos(8, 8)[:1], 64, axis=0)
    both = augment.apply(key, images, jnp.zeros((64, 1)), (flip, flip), MEAN)[0]
    changed = (np.asarray(both) != images).any(axis=(1, 2, 3))
    assert 15 < changed.sum() < 49


def test_the_crop_to_a_size_is_left_to_others(key):
    images = eight_photos()
    result = apply_one(key, images, ops.RandomResizedCrop())
    np.testing.assert_array_equal(result, images)


def test_jitter_draws_each_of_24_orders(monkeypatch):
    """Adjustments that append their digit write down in which order they came."""
    digits = {
        name: lambda x, factors, digit=digit: 10 * x + digit
        for digit, name in enumerate(augment.ADJUSTMENTS, 1)
    }
    monkeypatch.setattr(augment, "ADJUSTMENTS", digits)
    operation = ops.ColorJitter(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    jitter = jax.jit(
        lambda key: augment.jitter(key, jnp.zeros((2, 1, 1, 1)), operation)
    )
    found = [int(jitter(jax.random.key(place))[0, 0, 0, 0]) for place in range(300)]
    assert {"".join(sorted(str(order))) for order in found} == {"1234"}
    assert len(set(found)) == 24


def test_jitter_of_nothing_changes_nothing(key):
    images = eight_photos().astype(np.float32)
    np.testing.assert_array_equal(
        augment.jitter(key, images, ops.ColorJitter()), images
    )


def test_mixup_blends_with_the_image_before(key):
    images = eight_photos().astype(np.float32)
    mixed, targets = mix(key, images, jnp.eye(8), (ops.Mixup(alpha=1.0),))
    kept = np.diag(targets)
    assert len(set(kept.tolist())) == 8 and kept.min() >= 0.5
    np.testing.assert_allclose(targets[np.arange(8), np.arange(8) - 1], 1 - kept)
    kept = kept.reshape(-1, 1, 1, 1)
    expected = kept * images + (1 - kept) * images[np.arange(8) - 1]
    np.testing.assert_allclose(mixed, expected, atol=1e-3)


def test_cutmix_gives_the_target_the_share_of_the_area(key):
    """Image i holds i everywhere: what is pasted is i - 1, and can be counted."""
    images = jnp.broadcast_to(jnp.arange(64.0).reshape(-1, 1, 1, 1), (64, 10, 10, 1))
    mixed, targets = mix(key, images, jnp.eye(64), (ops.CutMix(),))
    own = np.asarray(mixed == images)
    assert (np.asarray(mixed) == np.where(own, images, np.roll(images, 1, 0))).all()
    np.testing.assert_allclose(np.diag(targets), own.mean(axis=(1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert 0.4 < own.mean() < 0.9
    for image in ~own[..., 0]:  # What is pasted is a box.
        assert image.sum() == image.any(axis=0).sum() * image.any(axis=1).sum()


@pytest.mark.parametrize("kind", [ops.Mixup, ops.CutMix])
def test_mixing_has_a_probability(kind, key):
    images = jnp.broadcast_to(jnp.arange(400.0).reshape(-1, 1, 1, 1), (400, 8, 8, 1))
    for p, low, high in ((0.0, 0, 0), (0.5, 100, 250)):
        mixed, _ = mix(key, images, jnp.eye(400), (kind(alpha=1.0, p=p),))
        changed = (mixed != images).any(axis=(1, 2, 3)).sum()
        assert low <= changed <= high


def test_of_mixup_and_cutmix_one_is_drawn_for_the_batch():
    images = jnp.arange(4.0).reshape(-1, 1, 1, 1) * jnp.ones((1, 8, 8, 1))
    both = ops.Mixup(alpha=1.0), ops.CutMix()
    kinds = []
    for place in range(40):
        mixed, _ = mix(jax.random.key(place), images, jnp.eye(4), both)
        whole = (mixed == jnp.round(mixed)).all()
        flat = (mixed == mixed[:, :1, :1]).all()
        assert whole or flat
        kinds.append(bool(whole))
    assert 10 < sum(kinds) < 30


@pytest.mark.parametrize("operation", [ops.RandAugment(), ops.TrivialAugmentWide()])
def test_policies_draw_all_operations_for_one_batch(operation, key):
    choices = policies.draw_choices(key, 1400)
    counts = np.bincount(choices, minlength=14)
    assert counts.min() > 60 and counts.max() < 140
    signs = np.asarray(policies.draw_signs(key, choices))
    signed = policies.SIGNED[choices]
    assert (signs[~signed] == 1).all() and abs(signs[signed].mean()) < 0.1
    assert policies.magnitudes(operation, 8, 12).shape == (14, 31)


def test_the_weakest_magnitude_changes_nothing():
    """But for operations without a magnitude, which are 0, 12 and 13."""
    images = np.repeat(photos(12, 12)[:1].astype(np.float32), 12, axis=0)
    table = policies.magnitudes(ops.RandAugment(), 12, 12)[:12, 0]
    result = jax.jit(policies.perform)(images, jnp.arange(12), table)
    # Solarize from 255 up turns white black.
    np.testing.assert_allclose(result[:11], images[:11], atol=1e-4)


@pytest.mark.parametrize("num_ops", [0, 1, 3])
def test_rand_augment_draws_anew_for_every_operation(num_ops, key, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        policies, "perform", lambda x, *given: drawn.append(np.stack(given)) or x
    )
    images = jnp.zeros((50, 2, 2, 3))
    policies.rand_augment(key, images, ops.RandAugment(num_ops=num_ops))
    assert len(drawn) == len({given.tobytes() for given in drawn}) == num_ops


crop, flip = ops.RandomResizedCrop(), ops.HorizontalFlip()
mixup, cutmix = ops.Mixup(), ops.CutMix()


@pytest.mark.parametrize(
    "operations, message",
    [
        ((flip, crop), "RandomResizedCrop must be the first"),
        ((ops.RandomCrop(), crop), "RandomResizedCrop must be the first"),
        ((crop, crop), "RandomResizedCrop must be the first"),
        ((mixup, flip), "Mixup must stand at the end"),
        ((cutmix, crop), "CutMix must stand at the end"),
        ((mixup, cutmix, mixup), "Mixup must stand there once"),
        (
            (ops.RandomResizedCrop(scale=(0.9, 0.1)),),
            r"scale = \(0.9, 0.1\) must begin",
        ),
        ((flip, ops.Rotation(degrees=(5.0, -5.0))), r"\[1\]: Rotation.degrees"),
        ((ops.GaussianBlur(kernel_size=4),), "kernel_size = 4 must be odd"),
        ((ops.RandAugment(magnitude=31),), "magnitude = 31 must be below num_bins"),
    ],
)
def test_lists_that_make_no_sense(operations, message):
    with pytest.raises(ConfigError, match=message) as error:
        ops.check(operations)
    assert str(error.value).startswith("config.data.augment")
    assert "\n" not in str(error.value)


def test_lists_that_make_sense():
    ops.check(())
    ops.check((crop, flip, mixup))
    ops.check((ops.RandomCrop(), flip, flip, cutmix, mixup))
    for kind in ops.Operation.__args__:
        ops.check((kind(),))


def test_every_operation_can_be_applied():
    handled = {*augment.FUNCTIONS, *mixing.SHARES, ops.RandomResizedCrop}
    assert handled == set(ops.Operation.__args__)


def test_defaults_keep_their_own_rules():
    for kind in ops.Operation.__args__:
        for field in dataclasses.fields(kind):
            check_value(field.name, getattr(kind(), field.name), field.metadata)
            assert field.metadata["doc"]


def test_every_pair_of_flips_is_reached(key):
    """The keys of two places are independent."""
    images = jnp.tile(jnp.arange(4.0).reshape(1, 2, 2, 1), (64, 1, 1, 1))
    flips = ops.HorizontalFlip(), ops.VerticalFlip()
    result = augment.apply(key, images, jnp.zeros((64, 1)), flips, (0.0,))[0]
    corners = {float(image[0, 0, 0]) for image in result}
    assert corners == {float(i) for i in range(4)}
