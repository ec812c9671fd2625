"""Damaged and hostile .safetensors files; importing this adds them to `HOSTILE`."""

import json
import struct

from hostile_files import resnet
from hostile_pickles import HOSTILE, Hostile, hostile, named, pack, tensor


def safetensors(header, data: bytes = bytes(16), length: int | None = None) -> bytes:
    """Returns a .safetensors file; `header` is JSON, its bytes, or tensors in it."""
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(dtype="F32", shape=(4,), offsets=(0, 16)) -> dict:
    """Returns what a header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def sound_safetensors() -> bytes:
    """Returns a sound .safetensors file."""
    header, data = {}, b""
    for name, leaf in resnet().items():
        header[name] = entry("F32", leaf.shape, (len(data), len(data) + leaf.nbytes))
        data += leaf.tobytes()
    return safetensors(header, data)


def tensors(words: str, **made: bytes) -> None:
    """Registers .safetensors files."""
    for name, data in made.items():
        HOSTILE[name] = Hostile(".safetensors", words, lambda data=data: data)


tensors("it is empty", is_empty_safetensors=b"", is_cut_in_its_length=bytes(7))
tensors(
    "its header",
    has_a_header_behind_the_file=safetensors({"a": entry()}, length=10_000),
    has_a_header_of_9_eib=safetensors({"a": entry()}, length=2**63),
    has_a_header_of_18_eib=safetensors({"a": entry()}, length=2**64 - 1),
    has_a_header_of_10_mib=safetensors(b"{}" + b" " * 10 * 2**20, b""),
)
tensors(
    "it is not sound",
    has_no_header=safetensors(b"", b""),
    has_a_header_that_is_no_json=safetensors(b"{'a': 1}"),
    has_a_header_that_is_no_text=safetensors(b'{"\xff\xfe": 1}'),
    has_a_header_that_is_a_list=safetensors([]),
    has_a_header_that_nests=safetensors(b'{"a":' * 100_000),
    has_offsets_that_overlap=safetensors({"a": entry(), "b": entry()}),
    has_offsets_with_a_gap=safetensors(
        {"a": entry(), "b": entry(offsets=(20, 36))}, bytes(36)
    ),
    has_offsets_behind_the_file=safetensors({"a": entry()}, b""),
    has_offsets_turned_round=safetensors({"a": entry(offsets=(16, 0))}),
    has_offsets_that_are_negative=safetensors({"a": entry(offsets=(-16, 0))}),
    has_offsets_of_other_sizes=safetensors({"a": entry(shape=(3,))}),
    has_an_unknown_dtype=safetensors({"a": entry("F99\n\x1b[2J")}),
    has_floats_of_8_bits=safetensors({"a": entry("F8_E4M3", (16,))}),
    has_floats_of_4_bits=safetensors({"a": entry("F4", (32,))}),
    has_a_shape_below_zero=safetensors({"a": entry(shape=(-4,))}),
    has_a_shape_that_overflows=safetensors({"a": entry(shape=(2**62, 2**62))}),
    has_a_shape_of_a_thousand_axes=safetensors({"a": entry(shape=(1,) * 1000 + (4,))}),
    has_metadata_that_are_no_texts=safetensors({"__metadata__": {"a": 1}}, b""),
    has_metadata_that_are_no_dict=safetensors({"__metadata__": []}, b""),
    has_bytes_behind_its_tensors=safetensors({"a": entry()}, bytes(17)),
)
tensors(
    "no conv1.weight",
    has_no_tensors=safetensors({}, b""),
    has_a_name_with_terminal_escapes=safetensors({"a\n\x1b[2J": entry()}),
)
tensors("metadata is not JSON", has_ours_that_are_no_json=(
    safetensors({"__metadata__": {"tljax": "{"}}, b"")
))  # fmt: skip
tensors("its header", is_torch_in_safetensors=pack(named(tensor())))


@hostile("tensors, too many", ".safetensors")
def has_a_flood_of_empty_tensors():
    empty = entry(shape=(0,), offsets=(0, 0))
    return safetensors({f"{n:x}": empty for n in range(60_000)}, b"")
