"""Sources in memory; splits, classes and subsets by seed."""

import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tljax.config import Data
from tljax.data import augment, sources, splits, transforms
from tljax.data.splits import Split
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


@pytest.mark.parametrize("seed", range(5))
def test_a_division_is_that_of_scikit_learn(seed):
    """One class is twice as large, and one is empty; remainders are equal."""
    rng = np.random.default_rng(seed)
    for number in (25, 60, 211):
        labels = rng.permutation(np.arange(number) % 7).astype(np.int32)
        labels[labels == 3] = 5
        places = rng.permutation(number)
        for count in (6, number // 4, number - 6):
            found = splits.divide(
                Split(None, labels, None), places, count, "abcdefg", Data(seed=seed)
            )
            expected = train_test_split(
                places, test_size=count, stratify=labels[places], random_state=seed
            )
            for part, wanted in zip(found, expected, strict=True):
                np.testing.assert_array_equal(part, wanted)


def test_nothing_cannot_be_divided():
    nothing = Split(None, np.zeros(0, np.int32), None)
    with pytest.raises(DataError, match="it has no training images"):
        splits.divide(nothing, np.arange(0), 0, "ab", Data())


@pytest.mark.parametrize("count", [5, 55])
def test_a_division_has_every_class_on_both_sides(count):
    labels = (np.arange(60) % 6).astype(np.int32)
    with pytest.raises(DataError, match=f"into {60 - count} and {count} images: each"):
        splits.divide(Split(None, labels, None), np.arange(60), count, "abcdef", Data())


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


def test_synthetic_has_any_shape_and_repeats():
    data = Data(
        source="synthetic", image_size=20, channels=5, num_classes=3, num_examples=90
    )
    source, again = sources.load(data), sources.load(data)
    assert (source.size, source.channels) == (20, 5)
    assert source.class_names == ("class0", "class1", "class2")
    assert sum(len(split.labels) for split in source.splits.values()) == 90
    np.testing.assert_array_equal(
        source.splits["train"].images, again.splits["train"].images
    )
    assert source.fingerprint() == again.fingerprint()
    other = sources.load(dataclasses.replace(data, seed=1))
    assert other.fingerprint() != source.fingerprint()


def test_a_fraction_keeps_the_share_of_every_class():
    whole = sources.load(Data()).splits["train"]
    half = sources.load(Data(train_fraction=0.5)).splits["train"]
    np.testing.assert_allclose(
        np.bincount(half.labels), np.bincount(whole.labels) / 2, atol=1
    )
    assert set(half.names) < set(whole.names)
    assert list(half.names) == list(
        sources.load(Data(train_fraction=0.5)).splits["train"].names
    )


def test_a_fraction_may_leave_few_out_and_keeps_every_class():
    most = sources.load(Data(train_fraction=0.999)).splits["train"]
    least = sources.load(Data(train_fraction=0.001)).splits["train"]
    assert len(most.labels) > 1100
    assert np.bincount(least.labels).tolist() == [1] * 10


def some(counts, seed=0):
    """Returns a split of so many examples of each class, in mixed order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    return Split(np.zeros((len(labels), 2, 2, 1), np.uint8), labels, np.arange(1) * 0)


@pytest.mark.parametrize(
    "given, expected",
    [
        (("train",), ("train", "val", "test")),
        (("train", "test"), ("train", "val", "test")),
        (("train", "val"), ("train", "val")),
        (("train", "val", "test"), ("train", "val", "test")),
    ],
)
def test_what_a_source_lacks_is_taken_from_its_training_images(given, expected):
    splits_given = {name: some((20, 40)) for name in given}
    splits_given = {
        name: split._replace(names=np.array([f"{name}{i}" for i in range(60)], object))
        for name, split in splits_given.items()
    }
    found = splits.complete(splits_given, ("a", "b"), Data())
    assert tuple(found) == expected
    for name in given[1:]:
        assert found[name] is splits_given[name]
    names = [name for split in found.values() for name in split.names]
    assert sorted(names) == sorted(n for s in splits_given.values() for n in s.names)
    for split in found.values():
        counts = np.bincount(split.labels)
        assert abs(2 * counts[0] - counts[1]) <= 2  # A third and two thirds of each.


def test_a_class_with_one_image_is_named_where_it_cannot_be_split():
    train = some((20, 1, 20))._replace(names=np.arange(41).astype(str))
    with pytest.raises(DataError, match="only one image is left of 'lone'"):
        splits.complete({"train": train}, ("a", "lone", "b"), Data(source="folder:x"))


def test_normalize_is_by_channel():
    images = np.full((1, 2, 2, 3), 255, np.uint8)
    result = augment.normalize(images, (0.5, 0.0, 1.0), (0.5, 2.0, 1.0))
    np.testing.assert_allclose(result[0, 0, 0], [1.0, 0.5, 0.0])
    np.testing.assert_allclose(augment.normalize(images, (0.5,), (0.25,)), 2.0)
    with pytest.raises(ConfigError, match=r"data.mean = .* each of the 4 channels"):
        transforms.check(transforms.Transform(mean=(0.1, 0.2)), 4)
