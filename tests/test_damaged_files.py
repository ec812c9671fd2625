"""Weight files with bytes cut, changed or made up: an error, or arrays as they are."""

import random
import zipfile

import hostile_files
import hostile_pickles as pickles
import hostile_safetensors
import numpy as np
import pytest
from hostile_pickles import assert_one_line, load
from hypothesis import given, settings
from hypothesis import strategies as st

from tljax.errors import WeightsError
from tljax.pretrained import files

METADATA = {
    "model": {"name": "resnet18", "width": 1, "stem": "standard"},
    "class_names": ["a", "b", "c"],
    "transform": {"resize": 256, "crop": 224, "mean": [0.5], "std": [0.25]},
}
SOUND = {
    "zip": (".pth", hostile_files.sound_zip(METADATA)),
    "legacy": (".pth", hostile_files.sound_legacy()),
    "safetensors": (".safetensors", hostile_safetensors.sound_safetensors()),
}


def assert_same(weights, others):
    """All that is read from two files is the same, bit by bit."""
    assert weights._replace(variables=0, origin="") == others._replace(
        variables=0, origin=""
    )
    np.testing.assert_equal(weights.variables, others.variables)


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_file_is_read(kind, tmp_path):
    """Else the tests of what is made from it would show nothing."""
    suffix, data = SOUND[kind]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(data)
    kernel = load(path, "").variables["params"]["fc"]["kernel"]
    np.testing.assert_array_equal(kernel, hostile_files.resnet()["fc.weight"].T)


@pytest.mark.parametrize("name", ["../../x", "/x", "archive/../../x", "C:\\x", "x/"])
def test_names_of_records_are_no_paths(name, tmp_path):
    """What else a zip file holds is not unpacked."""
    path = tmp_path / "weights.pth"
    path.write_bytes(SOUND["zip"][1])
    sound = load(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    assert_same(load(path), sound)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", SOUND)
def test_a_file_that_is_cut_anywhere_is_refused(kind, tmp_path):
    suffix, data = SOUND[kind]
    path = tmp_path / f"weights{suffix}"
    for stop in sorted(
        {*range(0, 64, 8), *np.linspace(64, len(data) - 1, 40, dtype=int)}
    ):
        path.write_bytes(data[:stop])
        with pytest.raises(WeightsError) as caught:
            load(path)
        assert_one_line(str(caught.value).replace(str(path), ""))


def flips(data, count):
    """Returns copies of `data` with one bit flipped, the same ones every time."""
    rng = random.Random(0)
    for place in rng.sample(range(8 * len(data)), count):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        yield bytes(flipped)


def test_a_flipped_bit_in_a_zip_file_changes_nothing_silently(tmp_path):
    """Bits of dates, versions and padding mean nothing; all others are protected."""
    path = tmp_path / "weights.pth"
    data = SOUND["zip"][1]
    path.write_bytes(data)
    sound = load(path)
    changed = list(flips(data, 100))
    # No CRC protects the directory, at the end, which says where our metadata are.
    for words in (b"archive/data/7", b"archive/tljax.json"):
        start = data.rindex(words) - 46
        for part in flips(data[start : start + 46 + len(words)], 100):
            changed.append(data[:start] + part + data[start + 46 + len(words) :])
    refused = 0
    for damaged in changed:
        path.write_bytes(damaged)
        try:
            found = load(path)
        except WeightsError:
            refused += 1
        else:
            assert_same(found, sound)
    assert refused > 50


@pytest.mark.parametrize("kind", ["legacy", "safetensors"])
def test_a_flipped_bit_is_an_error_or_another_number(kind, tmp_path):
    """These formats have no checksum."""
    suffix, data = SOUND[kind]
    path = tmp_path / f"weights{suffix}"
    for damaged in flips(data, 100):
        path.write_bytes(damaged)
        try:
            load(path)
        except WeightsError as error:
            assert_one_line(str(error).replace(str(path), ""))


def assert_plain(read, *arguments):
    """The result is arrays that can be read to their last byte, or a WeightsError."""
    try:
        state = read(*arguments)
    except WeightsError as error:
        assert str(error).isprintable()
        return
    for name, array in state.tensors.items():
        assert type(name) is str and type(array) is np.ndarray
        array.tobytes()


fuzz = settings(derandomize=True, max_examples=150, deadline=None, database=None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "weights.safetensors"


STARTS = [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95"]


@fuzz
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=300))
def test_any_bytes_are_read_safely(place, start, rest):
    assert_plain(files.read_torch, start + rest, "")
    place.write_bytes(len(rest).to_bytes(8, "little") + rest)
    assert_plain(files.read, place)


SMALL = {
    "zip": pickles.pack(pickles.named(pickles.tensor())),
    "legacy": hostile_files.legacy(hostile_files.LEGACY_STATE, hostile_files.LEGACY),
    "safetensors": hostile_safetensors.safetensors({"a": hostile_safetensors.entry()}),
}


@st.composite
def damaged(draw, data):
    """Copies of `data` with some bytes changed, cut, inserted or repeated."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        start, size = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
        part = bytes(data[start : start + size])
        how = draw(st.sampled_from(["change", "cut", "insert", "repeat", "move"]))
        if how in ("change", "cut", "move"):
            del data[start : start + size]
        if how in ("change", "insert"):
            data[start:start] = draw(st.binary(max_size=max(size, 1)))
        if how in ("repeat", "move"):
            other = draw(st.integers(0, len(data)))
            data[other:other] = part
    return bytes(data)


@pytest.mark.parametrize("kind", SMALL)
@fuzz
@given(choose=st.data())
def test_a_damaged_file_is_read_safely(place, kind, choose):
    data = choose.draw(damaged(SMALL[kind]))
    if kind == "safetensors":
        place.write_bytes(data)
        assert_plain(files.read, place)
    else:
        assert_plain(files.read_torch, data, "")


OPCODES = [
    *(bytes([code]) for code in b"(.012NRQabdeloqstu)]}\x81\x85\x86\x87\x88\x93\x94"),
    *(b"q\x00", b"q\x01", b"h\x00", b"h\x01", pickles.ORDERED_DICT, pickles.REBUILD),
    *map(pickles.number, (0, 1, 4, -1, 2**40, 2**62, 2**500)),
    *map(pickles.text, ("a", "state_dict", "storage", "0", "torch FloatStorage")),
    *(
        pickles.stored(),
        pickles.stored(3),
        pickles.tensor(),
        b"}(",
        b"](",
        b"tR",
        b"u.",
    ),
    *(pickles.integers([2, 2]), pickles.integers([0]), b"ctorch\nIntStorage\n"),
    b"ctorch._utils\n_rebuild_parameter\n",
]


@settings(fuzz, max_examples=400)
@given(st.lists(st.sampled_from(OPCODES), max_size=30).map(b"".join))
def test_any_program_is_read_safely(program):
    assert_plain(files.read_torch, pickles.pack(program + b"."), "")
    assert_plain(files.read_torch, pickles.pack(b"}(" + program + b"u."), "")
    assert_plain(files.read_torch, pickles.pack(program + pickles.named(program)), "")
