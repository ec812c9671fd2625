"""Folders of pictures: which classes they have, and what is wrong with them."""

import os
from pathlib import Path

import numpy as np
import pictures
import pytest
from PIL import Image

from tljax.config import Data
from tljax.data import sources
from tljax.data.decode import BadImage
from tljax.errors import DataError

BOTH = {"train": 4, "val": 2}


def load(root, **changes):
    return sources.load(Data(source=f"folder:{root}", **changes))


def rename(root, before, after):
    (root / before).rename(root / after)


def test_train_and_val_folders_are_taken_as_they_are(tmp_path):
    source = load(pictures.write_digits(tmp_path, BOTH))
    assert source.class_names == ("digit0", "digit1", "digit2")
    assert set(source.splits) == {"train", "val"} and source.result_split() == "val"
    np.testing.assert_array_equal(source.splits["train"].labels, np.repeat(range(3), 4))
    assert source.splits["val"].names[0] == "val/digit0/000.jpg"
    assert source.splits["val"].images[0] == (
        (tmp_path / "val/digit0/000.jpg").read_bytes()
    )


@pytest.mark.parametrize("counts", [{"": 9}, {"train": 9}, {"train": 9, "test": 3}])
def test_what_is_missing_is_split_off_by_class_and_seed(tmp_path, counts):
    root = pictures.write_digits(tmp_path, counts)
    source = load(root)
    assert set(source.splits) == {"train", "val", "test"}
    assert source.result_split() == "test"
    names = [set(split.names) for split in source.splits.values()]
    assert sum(map(len, names)) == len(set.union(*names)) == 3 * sum(counts.values())
    for split in source.splits.values():
        assert len(set(np.bincount(split.labels, minlength=3))) <= 2
    again, other = load(root), load(root, seed=1)
    assert set(again.splits["val"].names) == names[1]
    assert set(other.splits["val"].names) != names[1]
    assert again.fingerprint() == other.fingerprint() == source.fingerprint()


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_validation_has_other_names_too(tmp_path, name):
    root = pictures.write_digits(tmp_path, {"train": 4, name: 2})
    assert set(load(root).splits) == {"train", "val"}


def test_a_class_missing_in_validation_does_not_shift_the_labels(tmp_path):
    root = pictures.write_digits(tmp_path, BOTH)
    for path in (root / "val/digit1").iterdir():
        path.unlink()
    (root / "val/digit1").rmdir()
    split = load(root).splits["val"]
    assert [name.split("/")[1] for name in split.names] == ["digit0"] * 2 + [
        "digit2"
    ] * 2
    assert split.labels.tolist() == [0, 0, 2, 2]


def test_other_files_are_left_out_and_counted(tmp_path):
    root = pictures.write_digits(tmp_path, BOTH)
    (root / "train/digit0/notes.txt").write_text("x")
    (root / "train/digit0/.hidden.jpg").write_text("x")
    (root / "train/.cache").mkdir()
    os.mkfifo(root / "train/digit1/pipe.jpg")
    source = load(root)
    assert len(source.splits["train"].labels) == 12
    assert source.notes == (
        "2 files are no images by name: train/digit0/notes.txt, train/digit1/pipe.jpg",
    )


def test_names_may_hold_anything(tmp_path):
    root = pictures.write_digits(tmp_path, {"": 9})
    odd = ["with space", "line\nbreak", "ünï", "a" * 200, 'comma,quote"']
    odd.append(os.fsdecode(b"\xff\xfe"))  # Not UTF-8.
    for name, path in zip(odd, sorted(root.glob("digit0/*")), strict=False):
        path.rename(path.with_name(f"{name}.jpg"))
    rename(root, "digit2", "zwei drei")
    source = load(root)
    assert source.class_names == ("digit0", "digit1", "zwei drei")
    for split in source.splits.values():
        assert all(split.images[place] for place in range(len(split.labels)))
    assert len(source.fingerprint()) == 64


def test_links_are_followed_and_a_circle_ends(tmp_path):
    root = pictures.write_digits(tmp_path / "a", BOTH)
    elsewhere = pictures.write_digits(tmp_path / "b", {"": 3}, classes=(7,))
    (root / "train/digit7").symlink_to(elsewhere / "digit7")
    (root / "train/digit0/up").symlink_to(root / "train/digit0")
    (root / "train/digit0/link.jpg").symlink_to(root / "train/digit0/000.jpg")
    (root / "train/digit0/nowhere.jpg").symlink_to(root / "nowhere")
    source = load(root)
    counts = np.bincount(source.splits["train"].labels)
    assert counts.tolist() == [4 + 2, 4, 4, 3]
    # The dangling one is found when it is read.
    assert "train/digit0/nowhere.jpg" in source.splits["train"].names


def test_the_fingerprint_is_of_names_and_ends_of_files_not_of_times(tmp_path):
    first = pictures.write_digits(tmp_path / "a", BOTH)
    second = pictures.write_digits(tmp_path / "b", BOTH)
    source, again = load(first), load(second)
    assert source.fingerprint() == again.fingerprint()
    (second / "val/digit0/000.jpg").unlink()
    rename(second, "val/digit1/000.jpg", "val/digit1/009.jpg")
    data = bytearray((second / "train/digit2/003.png").read_bytes())
    data[-1] ^= 1
    (second / "train/digit2/003.png").write_bytes(data)
    changed = load(second)
    assert changed.fingerprint() != source.fingerprint()
    assert sources.compare(source.entries, changed.entries) == (
        "2 gone (val/digit0/000.jpg, val/digit1/000.jpg); "
        "1 new (val/digit1/009.jpg); 1 changed (train/digit2/003.png)"
    )


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")


def test_a_folder_without_classes_says_what_is_expected(tmp_path):
    with pytest.raises(DataError, match=r"no images in .*: expected train/CLASS/\*"):
        load(tmp_path)


def test_empty_classes_are_named_unless_they_are_allowed(tmp_path):
    root = pictures.write_digits(tmp_path, BOTH)
    (root / "train/bare").mkdir()
    (root / "train/void").mkdir()
    with pytest.raises(DataError, match=r"without a training image in .*: bare, void"):
        load(root)
    source = load(root, allow_empty_classes=True)
    assert source.class_names == ("bare", "digit0", "digit1", "digit2", "void")
    assert set(source.splits["val"].labels) == {1, 2, 3}


def test_classes_that_only_validation_has_are_named(tmp_path):
    root = pictures.write_digits(tmp_path, BOTH)
    rename(root, "val/digit1", "val/digit9")
    with pytest.raises(DataError, match=r"classes of val without training .*: digit9;"):
        load(root)


def test_one_class_is_nothing_to_learn(tmp_path):
    with pytest.raises(DataError, match="has one class only: digit0"):
        load(pictures.write_digits(tmp_path, {"train": 3, "val": 1}, classes=(0,)))


def test_two_folders_for_validation(tmp_path):
    root = pictures.write_digits(tmp_path, {"train": 3, "val": 1, "valid": 1})
    with pytest.raises(DataError, match="has val and valid; keep one of them"):
        load(root)


def test_a_file_without_permission_has_a_reason(tmp_path, monkeypatch):
    """Root may read all files, so the error is raised by hand."""
    source = load(pictures.write_digits(tmp_path, BOTH))

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadImage, match="Permission denied"):
        source.splits["train"].images[0]


def test_splits_without_training_images_are_no_classes(tmp_path):
    root = pictures.write_digits(tmp_path, {"val": 3, "test": 3})
    with pytest.raises(DataError, match="has test and val, but no train"):
        load(root)


def test_a_plain_format_is_known_by_all_of_its_bytes(tmp_path):
    root = pictures.write_digits(tmp_path, BOTH)
    path = root / "train/digit0/plain.bmp"
    image = Image.new("RGB", (100, 100))
    image.save(path)
    before = load(root).fingerprint()
    image.paste("red", (20, 40, 60, 60))
    image.save(path)
    assert load(root).fingerprint() != before
