"""Weight files that are damaged or hostile, each made by one function.

Importing this adds them to `HOSTILE`.
"""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from hostile_pickles import (
    EXPANDING,
    HOSTILE,
    Hostile,
    hostile,
    named,
    number,
    numbers,
    stored,
    tensor,
    zipped,
)

from tljax import models
from tljax.pretrained import mapping, torch_writer
from tljax.pretrained.torch_writer import text


def resnet(width: int = 1, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Returns the state dict of a narrow ResNet-18 with three classes."""
    rng = np.random.default_rng(0)
    shapes = mapping.layout(models.create("resnet18", width=width, num_classes=3))
    return {name: rng.normal(size=s).astype(dtype) for name, s in shapes.items()}


def sound_zip(metadata: dict | None = None, **of) -> bytes:
    """Returns a sound file in the zip format."""
    return written(resnet(**of), metadata)


def written(state: dict[str, np.ndarray], metadata: dict | None = None) -> bytes:
    """Returns a file in the zip format that holds a state dict."""
    file = io.BytesIO()
    torch_writer.write(file, state, metadata or {})
    return file.getvalue()


def sound_records() -> dict[str, bytes]:
    """Returns the records of a sound file in the zip format."""
    with zipfile.ZipFile(io.BytesIO(sound_zip())) as archive:
        return {
            name.removeprefix("archive/"): archive.read(name)
            for name in archive.namelist()
        }


def legacy(
    content: bytes,
    storages: dict[str, bytes],
    magic: bytes = number(0x1950A86A20F9469CFC6C),
    protocol: bytes = number(1001),
    keys: bytes | None = None,
) -> bytes:
    """Returns a file in the legacy format; storages are of float32."""
    system = b"}" + text("little_endian") + b"\x88s"
    if keys is None:
        keys = b"](" + b"".join(map(text, storages)) + b"e"
    parts = [magic, protocol, system, content.removesuffix(b"."), keys]
    return b"".join(b"\x80\x02" + part + b"." for part in parts) + b"".join(
        struct.pack("<q", len(data) // 4) + data for data in storages.values()
    )


def sound_legacy() -> bytes:
    """Returns a sound file in the legacy format."""
    state = resnet()
    content = torch_writer.pickle_state_dict(state).removeprefix(b"\x80\x02")
    # torch_writer's persistent ids are those of the zip format; these have a sixth.
    content = content.replace(b"tQ", b"NtQ")
    storages = {str(key): leaf.tobytes() for key, leaf in enumerate(state.values())}
    return legacy(content, storages)


# Sound pickles, and something else is wrong in the zip file.
@hostile("2 records data.pkl")
def has_two_pickles():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("b/data.pkl", b"N.")
    return file.getvalue()


@hostile("0 records data.pkl")
def has_no_pickle():
    return zipped({"data/0": bytes(16)})


@hostile("which is missing")
def has_renamed_records():
    records = sound_records()
    return zipped({name.replace("data/", "date/"): records[name] for name in records})


@hostile("which has 0")
def has_empty_records():
    records = sound_records()
    return zipped(records | {"data/0": b""})


def edited(words: str, suffix: str = "data/0"):
    """Registers a function that edits what a sound zip file says of one record."""

    def register(edit: Callable[[zipfile.ZipInfo], None]):
        def change(info):
            if info.filename.endswith(suffix):
                edit(info)

        make = lambda: zipped(sound_records(), change)  # noqa: E731
        HOSTILE[edit.__name__] = Hostile(".pth", words, make)
        return edit

    return register


@edited("compressed or encrypted")
def says_that_it_is_compressed(info):
    info.compress_type = zipfile.ZIP_DEFLATED


@edited("compressed or encrypted")
def says_that_it_is_encrypted(info):
    info.flag_bits |= 1


@edited("the CRC of its record")
def has_a_wrong_crc(info):
    info.CRC ^= 1


@edited("not where it should be")
def has_a_record_far_behind_the_file(info):
    info.header_offset = 2**62


@edited("not where it should be")
def has_a_record_at_its_pickle(info):
    info.header_offset = 0


@edited("cut short")
def has_a_record_of_exbibytes(info):
    info.file_size = info.compress_size = 2**62


@edited("cut short")
def has_a_record_of_two_sizes(info):
    info.file_size += 1


@edited("not where it should be", "byteorder")
def has_another_name_in_the_directory(info):
    info.filename = "archive/byteorders"


@edited("not a sound zip file")
def is_of_a_later_zip_version(info):
    info.extract_version = 99


@hostile("not a sound zip file")
def has_a_directory_far_behind_the_file():
    data = bytearray(sound_zip())
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 20] = b"\xff" * 8
    return bytes(data)


@hostile("not a sound zip file")
def has_a_zip64_directory_far_behind_the_file():
    end = struct.pack(
        "<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 46, 2**64 - 1
    )
    where = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 46, 2**32 - 1, 0)
    return b"PK\x03\x04" + bytes(100) + end + where + last


@hostile("compressed or encrypted")
def is_a_zip_bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50 * 2**20))
    return file.getvalue()


@hostile("two records")
def has_a_record_twice():
    data = zipped(sound_records() | {"data/00": bytes(4), "data/01": bytes(4)})
    return data.replace(b"archive/data/01", b"archive/data/00")


@hostile("its records overlap")
def has_records_within_records():
    """Each would have to be read for its CRC."""
    body, names = bytes(10_000), [b"%08d" % n for n in range(1000)]
    entries = []
    for name in names:
        fields = (zlib.crc32(body), len(body), len(body), len(name), 0)
        body = struct.pack("<4s5H3L2H", b"PK\x03\x04", *[0] * 5, *fields) + name + body
        entries.append((fields, name, len(body)))
    directory = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 6, *fields, *[0] * 4, place)
        + name
        for fields, name, place in (
            (fields, name, len(body) - place) for fields, name, place in entries
        )
    )
    return body + directory + end_of_directory(directory, len(body))


@hostile("records, too many")
def has_a_flood_of_records():
    """Python takes 600 bytes for each."""
    one = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 9, 4, *[0] * 6)
    directory = b"".join(one + b"%04x" % n for n in range(60_000))
    return b"PK\x03\x04" + directory + end_of_directory(directory, 4)


def end_of_directory(directory: bytes, place: int) -> bytes:
    """Returns the record that ends a zip file."""
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, len(directory), place, 0)


@hostile("its byte order is")
def has_another_byte_order():
    return zipped(sound_records() | {"byteorder": b"\x1b[2J\n" + b"\xff" * 2**21})


@hostile("these hold no floats")
def holds_integers():
    return sound_zip(dtype="int32")


@hostile("numbers too large for float32")
def holds_numbers_too_large():
    state = resnet(dtype="float64")
    return written(state | {"fc.bias": state["fc.bias"] * 1e300})


@hostile("names with and without module.")
def holds_one_name_with_and_without_a_prefix():
    state = {f"module.{name}": leaf for name, leaf in resnet().items()}
    return written(state | {"fc.bias": np.zeros(3, np.float32)})


@hostile("no conv1.weight")
def is_of_a_network_without_width():
    return sound_zip(width=0)


def tagged(words: str, **metadata: bytes) -> None:
    """Registers sound files with these records tljax.json."""
    for name, data in metadata.items():
        make = lambda data=data: zipped(sound_records() | {"tljax.json": data})  # noqa: E731
        HOSTILE[name] = Hostile(".pth", words, make)


def about(**changes) -> bytes:
    """Returns metadata as tljax writes them, with changes."""
    transform = {"resize": 256, "crop": 224, "mean": [0.5], "std": [0.5]}
    sound = {"model": {"name": "resnet18"}, "class_names": ["a", "b", "c"]}
    return json.dumps(sound | {"transform": transform | changes}).encode()


tagged(
    "its metadata",
    has_metadata_that_are_no_text=b"\xff\xfe",
    has_metadata_that_are_no_json=b"{'a': 1}",
    has_metadata_that_are_a_list=b"[]",
    has_metadata_that_nest=b'{"a":' + b"[" * 100_000,
    has_metadata_with_an_endless_number=b'{"a": ' + b"9" * 5000 + b"}",
    has_metadata_of_10_mib=b'{"a": [' + b"[]," * (10 * 2**20 // 3) + b"[]]}",
    has_metadata_of_another_program=b'{"format": "pt\\u001b[2J\\n"}',
    has_metadata_of_an_unknown_model=about().replace(b"resnet18", b"r\\u001b[2J\\n"),
    has_metadata_of_a_listed_model=about().replace(b'"resnet18"', b"[]"),
    has_metadata_with_an_infinite_size=about(resize=float("inf")),
    has_metadata_with_a_size_that_fills_memory=about(crop=10**9),
    has_metadata_with_a_mean_that_is_no_number=about(mean=[float("nan")]),
    has_metadata_with_a_deviation_of_zero=about(std=[0.5, 0]),
    has_metadata_with_a_mean_in_words=about(mean="half"),
)


# The legacy format.
LEGACY = {"0": bytes(16)}
LEGACY_STATE = named(tensor(storage=stored(view=b"N")))


def legacies(words: str, **made: bytes) -> None:
    """Registers files in the legacy format."""
    for name, data in made.items():
        HOSTILE[name] = Hostile(".pth", words, lambda data=data: data)


legacies(
    "not a PyTorch file",
    is_a_pickle_of_something_else=pickle.dumps({"a": 1}, protocol=2),
    has_another_magic_number=legacy(LEGACY_STATE, LEGACY, magic=number(1)),
)
legacies(
    "legacy protocol",
    has_another_protocol=legacy(LEGACY_STATE, LEGACY, protocol=number(1000)),
    has_a_protocol_that_expands=legacy(LEGACY_STATE, LEGACY, protocol=EXPANDING),
    has_a_protocol_that_nests=legacy(
        LEGACY_STATE, LEGACY, protocol=b")" + b"\x85" * 100_000
    ),
)
legacies(
    "not those that its tensors need",
    lacks_a_storage=legacy(LEGACY_STATE, {"1": bytes(16)}),
    has_keys_that_are_no_list=legacy(LEGACY_STATE, LEGACY, keys=text("0")),
    has_keys_that_are_lists=legacy(
        LEGACY_STATE, LEGACY, keys=b"](" + text("0") + b"]e"
    ),
    has_keys_that_nest=legacy(
        LEGACY_STATE, LEGACY, keys=b"](" + text("0") + b")" + b"\x85" * 100_000 + b"e"
    ),
    has_keys_that_expand=legacy(
        LEGACY_STATE, LEGACY, keys=EXPANDING + b"](" + text("0") + b"h\x00e"
    ),
)
legacies("no tensor uses", has_a_storage_too_many=(
    legacy(LEGACY_STATE, LEGACY | {"\n\x1b[2J": bytes(16)})
))  # fmt: skip
legacies(
    "elements",
    has_a_storage_of_minus_one=legacy(LEGACY_STATE, LEGACY)[:-24] + b"\xff" * 8,
    has_a_storage_of_too_many=legacy(LEGACY_STATE, LEGACY)[:-24] + b"\x05" + bytes(23),
)
legacies(
    "it ends before its storage",
    has_no_room_for_a_storage=legacy(LEGACY_STATE, LEGACY)[:-17],
)
legacies(
    "needs",
    has_a_view_behind_its_storage=legacy(
        named(tensor(storage=stored(view=b"(" + text("v") + numbers(1, 4)[1:]))), LEGACY
    ),
)


@hostile("not a sound pickle")
def is_a_legacy_file_with_a_text_of_10_mib():
    long = b"X" + struct.pack("<I", 10 * 2**20) + "💣".encode() + b"a" * (10 * 2**20)
    return legacy(b"}" + long + b"Ns.", LEGACY)


# No weight file at all.
@hostile("before 0.4")
def is_a_tar_file():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return file.getvalue()


legacies("it is empty", is_empty=b"")
legacies("HTML", is_a_page=b"\n <!DOCTYPE html><title>404</title>")
legacies("gzip", is_a_gzip_file=gzip.compress(bytes(100)))
legacies("HDF5", is_an_hdf5_file=b"\x89HDF\r\n\x1a\n" + bytes(100))
legacies("LFS", is_a_pointer=b"version https://git-lfs.github.com/spec/v1\noid sha256:")
legacies("no PyTorch file", is_a_text=b"hello", is_zeros=bytes(1000))
legacies("not a sound zip file", is_the_end_of_a_zip=b"PK\x03\x04")
