"""Writes a state dict in PyTorch's zip format, with NumPy alone.

What comes out is what `torch.save` of a dict of tensors would be: `torch.load` takes
it with `weights_only=True`, and with `mmap=True` as records are aligned. The same
arrays give the same bytes.
"""

import json
import struct
import zipfile
from typing import Any, BinaryIO

import numpy as np

from tljax.pretrained.torch_pickle import STORAGES

ROOT = "archive"
ALIGNMENT = 64
STORAGE_OF = {dtype: name for name, dtype in STORAGES.items()}


def write(
    file: BinaryIO, tensors: dict[str, np.ndarray], metadata: dict[str, Any]
) -> None:
    """Writes tensors, and metadata as a record that PyTorch does not look at."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        add(archive, "data.pkl", pickle_state_dict(tensors))
        add(archive, "byteorder", b"little")
        add(archive, "tljax.json", json.dumps(metadata, sort_keys=True).encode())
        for key, tensor in enumerate(tensors.values()):
            little = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
            add(archive, f"data/{key}", little.reshape(-1).view(np.uint8).data)
        add(archive, "version", b"3\n")


def add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """Adds a record, uncompressed, its bytes aligned as PyTorch aligns them."""
    info = zipfile.ZipInfo(f"{ROOT}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
    # An extra field of 4 bytes and the padding stands between header and data.
    start = archive.fp.tell() + 30 + len(info.filename) + 4
    padding = -start % ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(info, data)


def pickle_state_dict(tensors: dict[str, np.ndarray]) -> bytes:
    """Returns the pickle of an OrderedDict of contiguous tensors, protocol 2."""
    items = b"".join(
        text(name) + tensor_program(str(key), tensor)
        for key, (name, tensor) in enumerate(tensors.items())
    )
    # PROTO 2, OrderedDict(), then MARK items SETITEMS, STOP.
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."


def tensor_program(key: str, tensor: np.ndarray) -> bytes:
    """Returns opcodes for `_rebuild_tensor_v2(storage, 0, shape, strides, ...)`."""
    module, storage = STORAGE_OF[tensor.dtype.name].split(" ")
    strides = np.cumprod([1, *tensor.shape[:0:-1]])[::-1] if tensor.ndim else []
    persistent = (
        b"("
        + text("storage")
        + f"c{module}\n{storage}\n".encode()
        + text(key)
        + text("cpu")
        + integer(tensor.size)
        + b"tQ"
    )
    # False is requires_grad, the empty OrderedDict the backward hooks.
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + persistent
        + integer(0)
        + integers(tensor.shape)
        + integers(strides)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def text(value: str) -> bytes:
    """Returns the opcode for a string."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
    """Returns the opcode for a whole number of up to eight bytes."""
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def integers(values) -> bytes:
    """Returns opcodes for a tuple of whole numbers."""
    return b"(" + b"".join(integer(int(value)) for value in values) + b"t"
