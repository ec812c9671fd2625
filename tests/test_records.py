"""Sets of TFDS: one of our own, prepared without a network, and what goes wrong."""

import functools
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_shapes

from tljax.config import Config, Data, Model
from tljax.data import decode, prepare, records, sources
from tljax.errors import ConfigError, DataError
from tljax.train import train_and_evaluate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Where the set of our own is prepared, by the command."""
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        builder = tiny_shapes.TinyShapes(data_dir=folder, file_format="array_record")
        patch.setattr(prepare.records, "find_builder", lambda name, **_: builder)
        prepare.run(["prepare", "tiny_shapes"])
    return folder


@pytest.fixture(autouse=True)
def places(data_dir, tmp_path, monkeypatch):
    """The set is found as people's own sets are found, and the cache is new."""
    monkeypatch.setenv("TLJAX_HOME", str(tmp_path))
    find = functools.partial(tfds.builder, data_dir=data_dir)
    monkeypatch.setattr(tfds, "builder", find)


def load(name="tiny_shapes", **changes):
    return sources.load(Data(source=f"tfds:{name}", **changes))


def test_a_prepared_set_has_its_own_splits_and_class_names():
    source = load()
    assert source.class_names == ("even", "odd")
    assert (source.size, source.channels) == (0, 3)
    for name, count in (("train", 16), ("val", 6), ("test", 4)):
        split = source.splits[name]
        assert len(split.labels) == len(split.images) == count
        for place in range(count):
            image = np.asarray(decode.decode(split.images[place], 3, 10**6))
            number = image[0, 0, 2]
            np.testing.assert_array_equal(image, tiny_shapes.picture(number))
            assert split.labels[place] == number % 2
    assert load().fingerprint() == source.fingerprint()


def test_slices_are_written_as_tfds_writes_them():
    source = load(train_split="train[:50%]", val_split="train[50%:]")
    sizes = {name: len(split.labels) for name, split in source.splits.items()}
    assert sizes == {"train": 8, "val": 8, "test": 4}
    names = [source.splits[name].names[0] for name in ("train", "val")]
    assert names == ["train[:50%]/0", "train[50%:]/0"]
    assert source.fingerprint() != load().fingerprint()


def test_images_without_a_label_are_no_test(monkeypatch, tmp_path):
    """As the test of ImageNet: -1 stands for what nobody tells."""
    monkeypatch.setenv("TLJAX_HOME", str(tmp_path / "unlabelled"))
    read = records.read_labels

    def unlabelled(source, key):
        labels = read(source, key)
        return labels if len(labels) > 4 else -np.ones_like(labels)

    monkeypatch.setattr(records, "read_labels", unlabelled)
    source = load()
    assert set(source.splits) == {"train", "val"}
    assert source.notes == ("test has images without a label, and is left out",)
    with pytest.raises(DataError, match="has images without a label in test"):
        load(test_split="test")


def test_a_set_prepared_anew_in_place_is_another_set(data_dir):
    builder = tfds.builder("tiny_shapes")
    before = list(records.find_files(builder))
    (path,) = data_dir.glob("tiny_shapes/1.0.0/*train*")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    changed = list(records.find_files(builder))
    path.write_bytes(data)
    assert changed != before == list(records.find_files(builder))


def test_a_version_may_be_named():
    assert load("tiny_shapes:1.0.0").class_names == ("even", "odd")


@pytest.mark.parametrize(
    "name, changes, error, message",
    [
        ("mnisst", {}, ConfigError, r"no set mnisst \(did you mean 'mnist'\?\)"),
        ("tiny_shapes:9.9.9", {}, ConfigError, "tfds:tiny_shapes:9.9.9 cannot be open"),
        ("mnist", {}, DataError, "run: python -m tljax.data.prepare mnist"),
        (
            "tiny_shapes",
            {"train_split": "trian[:5]"},
            ConfigError,
            r"no split trian\[:5\]: .*; it has .*train, validation",
        ),
    ],
)
def test_what_is_not_there(name, changes, error, message):
    with pytest.raises(error, match=message) as raised:
        load(name, **changes)
    assert "\n" not in str(raised.value)


def test_a_set_without_images_is_refused():
    with pytest.raises((DataError, ConfigError), match="tfds:imdb_reviews"):
        load("imdb_reviews")


def test_the_command_says_what_it_needs(monkeypatch):
    with pytest.raises(ConfigError, match="one name is needed; usage: python -m"):
        prepare.run(["prepare"])

    class Builder:
        def download_and_prepare(self):
            import tensorflow_that_is_not_there  # noqa: F401

    monkeypatch.setattr(prepare.records, "find_builder", lambda name, **_: Builder())
    with pytest.raises(DataError, match=r"needs tensorflow_that.*'tljax\[tfds\]'"):
        prepare.run(["prepare", "mnist"])


def test_a_run_on_a_set_of_tfds(tmp_path):
    config = Config(
        num_steps=2,
        num_devices=1,
        model=Model(width=2, stem="small"),
        data=Data(source="tfds:tiny_shapes", image_size=16, batch_size=4),
    )
    result = train_and_evaluate(config, tmp_path / "run")
    assert result["class_names"] == ["even", "odd"] and result["num_examples"] == 4


def test_reading_imports_no_tensorflow(data_dir):
    code = (
        "import sys; sys.path.insert(0, 'tests'); import tiny_shapes; "
        "from tljax.config import Data; from tljax.data import sources; "
        "source = sources.load(Data(source='tfds:tiny_shapes')); "
        "print(len(source.splits['train'].images[0]), 'tensorflow' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"TFDS_DATA_DIR": str(data_dir), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split()[1] == "False"


def test_mocked_sets_can_be_trained_on(tmp_path):
    """As people test their own code: images are random, and decoded already."""
    pytest.importorskip("tensorflow", reason="the extra `tfds` is not installed")
    with tfds.testing.mock_data(num_examples=20):
        source = load("mnist", train_split="train", val_split="test")
        assert source.class_names == tuple("0123456789") and source.size == 28
        image = decode.decode(source.splits["train"].images[3], 1, 10**6)
        assert image.size == (28, 28)
