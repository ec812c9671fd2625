"""Batches from images that are kept on the device, on disk, in memory, or nowhere."""

import dataclasses
import itertools
from contextlib import closing

import jax
import numpy as np
import pictures
import pytest
from PIL import Image

from tljax.config import Data
from tljax.data import examples, loader, sources, views
from tljax.data.order import Course, Order
from tljax.data.skipped import Skipped
from tljax.errors import DataError

BAD = "digit1/006.jpg"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of 3 x 8 digits, most wide, one high, and one that is no image."""
    root = pictures.write_digits(tmp_path_factory.mktemp("f"), {"": 8}, size=(16, 12))
    high = Image.open(root / "digit0/006.jpg").rotate(90, expand=True)
    high.save(root / "digit0/006.jpg")
    (root / BAD).write_text("no image")
    return root


@pytest.fixture
def opened(folder, monkeypatch, tmp_path):
    """Returns a function: cache -> the examples of the training split."""
    monkeypatch.setenv("TLJAX_HOME", str(tmp_path))

    def make(cache, root=folder, **changes):
        data = Data(
            source=f"folder:{root}", cache=cache, max_bad_fraction=0.2, num_threads=3
        )
        data = dataclasses.replace(data, **changes)
        source = sources.load(data)
        resizes = dict.fromkeys(source.splits, 8)
        track = lambda rows, total, text: rows  # noqa: E731
        storage = examples.choose_storage(source, data, resizes, 10**9, track)
        skipped = Skipped(24, data.max_bad_fraction, print)
        split = examples.open_split(source, "train", storage, data, skipped, track)
        return split, examples.readers_of(data)

    return make


def train(split, readers, first, count, batch_size=5, on_device=False, **course):
    """Returns so many training batches from a step on."""
    course = Course(Order(3, split.split.labels), batch_size, **course)
    batches = loader.train_batches(split, course, first, readers, on_device)
    with closing(batches):
        return list(itertools.islice(batches, count))


def assert_equal(some, others):
    """Both lists hold bitwise equal batches."""
    assert len(some) == len(others)
    for batch, other in zip(some, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], name)


def test_the_batches_are_the_same_however_images_are_kept(opened):
    streamed = train(*opened("none"), 0, 9)
    assert streamed[0]["image"].shape == (5, 8, 10, 3)
    assert streamed[0]["image"].dtype == np.uint8
    assert_equal(train(*opened("disk"), 0, 9), streamed)
    split, readers = opened("device")
    stored = loader.on_device(split)
    indices = train(split, readers, 0, 9, on_device=True)
    gathered = [jax.device_get(views.gather(batch, stored)) for batch in indices]
    assert_equal(gathered, streamed)


@pytest.mark.parametrize("cache", ["none", "disk", "device"])
def test_resumed_at_any_step_the_batches_are_the_same(opened, cache):
    split, readers = opened(cache)
    on_device = cache == "device"
    whole = train(split, readers, 0, 8, on_device=on_device)
    for first in range(8):
        rest = train(split, readers, first, 8 - first, on_device=on_device)
        assert_equal(rest, whole[first:])


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_processes_load_their_parts_of_each_batch(opened, cache):
    split, readers = opened(cache)
    whole = train(split, readers, 0, 5, batch_size=6)
    parts = [
        train(split, readers, 2, 3, batch_size=6, process=process, processes=2)
        for process in range(2)
    ]
    joined = [
        {name: np.concatenate([one[name], two[name]]) for name in one}
        for one, two in zip(*parts, strict=True)
    ]
    assert_equal(joined, whole[2:])


@pytest.mark.parametrize("cache", ["none", "disk"])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_evaluation_sees_every_image_once_and_no_bad_one(opened, cache, batch_size):
    split, readers = opened(cache)
    batches = list(loader.eval_batches(split, batch_size, readers))
    assert {len(batch["label"]) for batch in batches} == {batch_size}
    kept = [batch["mask"] == 1 for batch in batches]
    labels = np.concatenate([b["label"][k] for b, k in zip(batches, kept, strict=True)])
    good = np.array([BAD not in name for name in split.split.names])
    np.testing.assert_array_equal(labels, split.split.labels[good])
    assert list(split.skipped.reasons) == [BAD]


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_the_next_image_stands_in_for_a_bad_one(opened, cache):
    split, readers = opened(cache)
    bad = list(split.split.names).index(BAD)
    steps = range(4 * len(split.split.labels))
    order = Order(3, split.split.labels)
    shown = train(split, readers, 0, len(steps), batch_size=1)
    for step in steps:
        example = int(order.examples(step, step + 1)[0])
        expected = np.asarray(split.drawings[example + (example == bad)].pixels)
        np.testing.assert_array_equal(shown[step]["image"][0], expected)
    assert split.skipped.reasons == {BAD: "not an image of a known format"}


@pytest.mark.parametrize("cache", ["none", "disk", "device"])
def test_too_many_bad_images_are_an_error(opened, cache):
    with pytest.raises(DataError, match=r"1 of 24 images cannot be used, .*006\.jpg"):
        split, readers = opened(cache, max_bad_fraction=0.04)
        train(split, readers, 0, 10)


def test_a_file_that_changes_during_the_run_is_skipped(opened, tmp_path):
    root = pictures.write_digits(tmp_path / "pictures", {"": 8})
    split, readers = opened("none", root=root)
    changed, gone = split.split.names[:2]
    Image.new("RGB", (9, 9)).save(root / changed)
    (root / gone).unlink()
    train(split, readers, 0, 8)
    assert split.skipped.reasons == {
        changed: "the file has changed since the run began",
        gone: "No such file or directory",
    }


def test_extents_are_left_out_where_images_fill_their_canvas(opened, tmp_path):
    root = pictures.write_digits(tmp_path / "square", {"": 8}, size=(9, 9))
    (batch,) = train(*opened("disk", root=root), 0, 1)
    assert set(batch) == {"image", "label"}
