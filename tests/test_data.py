"""Splits by class and seed, an order that can be repeated, exact padding."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tljax.config import Data
from tljax.data import augment, loader, sources, transforms
from tljax.errors import ConfigError, DataError


def test_digits_are_scikit_learns():
    source = sources.load(Data(source="digits"))
    images = np.concatenate([split.images for split in source.splits.values()])
    assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8
    originals = load_digits().images
    found = {image.tobytes() for image in images}
    scaled = np.round(originals * 255 / 16).astype(np.uint8)
    assert found == {image.tobytes() for image in scaled}
    assert source.class_names == tuple("0123456789")


def test_splits_have_every_class_in_proportion():
    source = sources.load(Data(source="digits", val_fraction=0.1, test_fraction=0.3))
    sizes = {name: len(split.labels) for name, split in source.splits.items()}
    assert sizes == {"train": 1078, "val": 180, "test": 539}
    overall = np.bincount(load_digits().target) / 1797
    for split in source.splits.values():
        share = np.bincount(split.labels) / len(split.labels)
        np.testing.assert_allclose(share, overall, atol=0.01)


def test_the_seed_alone_decides_the_splits():
    first = sources.load(Data(seed=1)).splits
    again = sources.load(Data(seed=1)).splits
    other = sources.load(Data(seed=2)).splits
    for name in first:
        np.testing.assert_array_equal(first[name].images, again[name].images)
        assert not np.array_equal(first[name].images, other[name].images)


def test_chosen_classes_are_relabelled_in_the_order_given():
    whole = sources.load(Data()).splits
    source = sources.load(Data(classes=("7", "2")))
    assert source.class_names == ("7", "2")
    total = sum(len(split.labels) for split in source.splits.values())
    assert total == sum((load_digits().target == digit).sum() for digit in (2, 7))
    sevens = {
        image.tobytes()
        for split in whole.values()
        for image in split.images[split.labels == 7]
    }
    split = source.splits["train"]
    assert set(split.labels) == {0, 1}
    assert all(image.tobytes() in sevens for image in split.images[split.labels == 0])


def test_no_choice_moves_an_image_to_another_split():
    """Else a run on all digits, fine-tuned on some, had seen images of their test."""
    whole, some = sources.load(Data()).splits, sources.load(Data(classes=("5", "6")))
    for name, split in some.splits.items():
        images = {image.tobytes() for image in whole[name].images}
        assert all(image.tobytes() in images for image in split.images)


def test_labels_per_class_keeps_so_many_and_no_other_split_changes():
    few = sources.load(Data(labels_per_class=3)).splits
    whole = sources.load(Data()).splits
    np.testing.assert_array_equal(np.bincount(few["train"].labels), [3] * 10)
    np.testing.assert_array_equal(few["test"].images, whole["test"].images)
    train = {image.tobytes() for image in whole["train"].images}
    assert all(image.tobytes() in train for image in few["train"].images)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"classes": ("1", "x")}, ConfigError, "config.data.classes = 'x' is unknown"),
        ({"classes": ("1", "1")}, ConfigError, "'1' more than once"),
        ({"labels_per_class": 999}, DataError, "class '0' has only"),
        ({"val_fraction": 0.001, "test_fraction": 0.001}, DataError, "cannot split"),
    ],
)
def test_data_that_is_not_there(changes, error, message):
    with pytest.raises(error, match=message):
        sources.load(Data(**changes))


def test_digits_are_resized():
    assert sources.load(Data(image_size=12)).image_shape == (12, 12, 1)


def test_synthetic_has_any_shape_and_repeats():
    data = Data(
        source="synthetic", image_size=20, channels=5, num_classes=3, num_examples=90
    )
    source, again = sources.load(data), sources.load(data)
    assert source.image_shape == (20, 20, 5)
    assert source.class_names == ("class0", "class1", "class2")
    assert sum(len(split.labels) for split in source.splits.values()) == 90
    np.testing.assert_array_equal(
        source.splits["train"].images, again.splits["train"].images
    )


@pytest.mark.parametrize("batch_size", [1, 7, 10, 33])
def test_every_epoch_holds_every_example_once(batch_size):
    num_examples = 10
    stream = np.concatenate(
        [
            loader.batch_indices(5, step, batch_size, num_examples)
            for step in range(10 * num_examples)
        ]
    )
    epochs = stream[: len(stream) // num_examples * num_examples].reshape(-1, 10)
    assert (np.sort(epochs) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs[:50]}) > 1


def test_order_depends_on_seed_and_epoch():
    orders = [loader.epoch_order(seed, epoch, 50) for seed, epoch in ((0, 0), (0, 1))]
    assert not np.array_equal(*orders)
    assert not np.array_equal(orders[0], loader.epoch_order(1, 0, 50))


def test_resumed_at_any_step_the_batches_are_the_same():
    split = sources.Split(
        np.arange(13, dtype=np.uint8).reshape(13, 1, 1, 1),
        np.arange(13, dtype=np.int32),
    )
    take = lambda first, last: [  # noqa: E731
        batch["label"].tolist()
        for _, batch in zip(
            range(first, last),
            loader.train_batches(split, 3, 5, first),
            strict=False,
        )
    ]
    whole = take(0, 20)
    for first in range(20):
        assert take(first, 20) == whole[first:]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 8])
def test_evaluation_sees_every_example_once(batch_size):
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    split = sources.Split(images, np.arange(7, dtype=np.int32))
    batches = list(loader.eval_batches(split, batch_size))
    assert {len(batch["label"]) for batch in batches} == {batch_size}
    seen = np.concatenate([b["label"][b["mask"] == 1] for b in batches])
    np.testing.assert_array_equal(seen, np.arange(7))


def test_normalize_is_by_channel():
    images = np.full((1, 2, 2, 3), 255, np.uint8)
    result = augment.normalize(images, (0.5, 0.0, 1.0), (0.5, 2.0, 1.0))
    np.testing.assert_allclose(result[0, 0, 0], [1.0, 0.5, 0.0])
    np.testing.assert_allclose(augment.normalize(images, (0.5,), (0.25,)), 2.0)
    with pytest.raises(ConfigError, match=r"data.mean = .* each of the 4 channels"):
        transforms.check(transforms.Transform(mean=(0.1, 0.2)), 4)
