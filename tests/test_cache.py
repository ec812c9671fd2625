"""Images decoded once: found again, made again when stale or damaged, never half."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pictures
import pytest

from tljax.config import Data
from tljax.data import cache, examples, folder, remember, sources
from tljax.data.canvas import Canvas, Drawings
from tljax.data.decode import BadImage
from tljax.data.skipped import Skipped
from tljax.errors import DataError

PASS = lambda rows, total, text: rows  # noqa: E731


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TLJAX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def decoded_count(monkeypatch):
    """Counts the images that are decoded."""
    count = []
    draw = Drawings.__getitem__

    def counted(self, place):
        count.append(place)
        return draw(self, place)

    monkeypatch.setattr(Drawings, "__getitem__", counted)
    return count


def open_train(root, allowed=0.0, **changes):
    """Returns the training split of a folder, kept on disk."""
    data = Data(source=f"folder:{root}", cache="disk", num_threads=2, **changes)
    source = sources.load(data)
    storage = examples.choose_storage(
        source, data, dict.fromkeys(source.splits, 8), 10**9, PASS
    )
    skipped = Skipped(99, allowed, print)
    return examples.open_split(source, "train", storage, data, skipped, PASS)


def pixels(split):
    return cache.read_rows(split.decoded, np.arange(12), split.drawings)


@pytest.fixture
def root(tmp_path):
    return pictures.write_digits(tmp_path / "pictures", {"train": 4, "val": 2})


def test_images_are_decoded_once(root, decoded_count):
    first = open_train(root)
    assert sorted(decoded_count) == list(range(12))
    again = open_train(root)
    assert len(decoded_count) == 12
    np.testing.assert_array_equal(pixels(first), pixels(again))
    expected = [first.drawings[place].pixels for place in range(12)]
    np.testing.assert_array_equal(pixels(again), expected)


def test_another_file_another_size_or_another_choice_is_another_cache(
    root, decoded_count
):
    open_train(root)
    (root / "train/digit0/000.jpg").write_bytes(
        (root / "train/digit1/000.jpg").read_bytes()
    )
    open_train(root)
    assert len(decoded_count) == 24
    open_train(root, labels_per_class=2)
    assert len(decoded_count) == 30
    open_train(root, max_megapixels=1.0)
    assert len(decoded_count) == 42


@pytest.mark.parametrize(
    "damage", ["pixels cut", "index cut", "index flip", "no index"]
)
def test_a_damaged_cache_is_made_again(root, home, decoded_count, damage):
    expected = pixels(open_train(root))
    (place,) = (path for path in (home / "decoded").iterdir() if path.is_dir())
    index = place / "index.npz"
    if damage == "pixels cut":
        os.truncate(place / "pixels", 100)
    elif damage == "index cut":
        os.truncate(index, 100)
    elif damage == "index flip":
        data = bytearray(index.read_bytes())
        data[len(data) // 3] ^= 1
        index.write_bytes(data)
    elif damage == "no index":
        index.unlink()
    else:
        pytest.fail(f"unknown damage {damage}")
    np.testing.assert_array_equal(pixels(open_train(root)), expected)
    assert len(decoded_count) == 24
    open_train(root)
    assert len(decoded_count) == 24


def test_a_flipped_bit_in_an_image_costs_one_decoding(root, home, decoded_count):
    expected = pixels(open_train(root))
    (path,) = (home / "decoded").glob("*/pixels")
    data = bytearray(path.read_bytes())
    data[5 * 8 * 8 * 3 + 7] ^= 4
    path.write_bytes(data)
    np.testing.assert_array_equal(pixels(open_train(root)), expected)
    assert decoded_count[12:] == [5]


def test_a_full_disk_is_one_line_and_leaves_nothing(root, home, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"No space left .* GB; set TLJAX_HOME"):
        open_train(root)
    assert not [path for path in (home / "decoded").iterdir() if path.is_dir()]


KILLED = """
import sys, time
sys.path.insert(0, "tests")
import test_cache
from tljax.data.canvas import Drawings
draw = Drawings.__getitem__
def slow(self, place):
    if place == 7:
        print("half", flush=True)
        time.sleep(60)
    return draw(self, place)
Drawings.__getitem__ = slow
test_cache.open_train(sys.argv[1])
"""


def test_a_process_killed_while_it_decodes_leaves_no_half_cache(root, home):
    root_of_project = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root)],
        cwd=root_of_project,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"half\n"
        process.kill()
    (part,) = (path for path in (home / "decoded").iterdir() if path.is_dir())
    assert part.suffix == ".part"
    split = open_train(root)
    np.testing.assert_array_equal(pixels(split)[7], split.drawings[7].pixels)
    (place,) = (path for path in (home / "decoded").iterdir() if path.is_dir())
    assert place.suffix == ""


def test_a_second_process_waits_for_the_first(home):
    (home / "decoded").mkdir(parents=True)
    lock, order = home / "decoded" / "key.lock", []

    def second():
        with cache.locked(lock):
            order.append("second")

    with cache.locked(lock):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_what_takes_long_is_remembered_and_found_again_when_damaged(home):
    calls = []

    def find():
        calls.append(1)
        return np.arange(5)

    for _ in range(2):
        np.testing.assert_array_equal(remember.array("key", find), np.arange(5))
    assert len(calls) == 1
    (path,) = (home / "arrays").iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    np.testing.assert_array_equal(remember.array("key", find), np.arange(5))
    assert len(calls) == 2
    remember.array("other", find)
    assert len(calls) == 3


def test_a_failure_to_read_that_passes_is_not_kept(root, monkeypatch):
    read = folder.Files.__getitem__

    def fail(self, place):
        if place == 3:
            raise BadImage("Input/output error")
        return read(self, place)

    with monkeypatch.context() as patch:
        patch.setattr(folder.Files, "__getitem__", fail)
        assert open_train(root, allowed=0.5).decoded.errors[3] == "Input/output error"
    assert open_train(root).decoded.errors[3] == ""


def test_damage_that_cannot_be_mended_is_named(root, home):
    open_train(root)
    (path,) = (home / "decoded").glob("*/pixels")
    data = bytearray(path.read_bytes())
    data[3] ^= 4
    path.write_bytes(data)
    split = open_train(root)
    (root / "train/digit0/000.jpg").unlink()
    with pytest.raises(DataError, match="decoded image 0 is damaged, and so is its f"):
        pixels(split)


def test_an_image_too_thin_to_be_resized_is_skipped():
    thin = np.zeros((1, 20_000, 3), np.uint8)
    drawn = Drawings([thin], Canvas(224, 224, 3), 10**7)[0]
    assert drawn.error == "20000x1 is too thin to be resized to 224 pixels"
    assert not Drawings([thin[:, :20]], Canvas(224, 224, 3), 10**7)[0].error
