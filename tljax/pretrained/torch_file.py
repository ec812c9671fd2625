"""PyTorch's two file formats, read and written with NumPy alone.

The zip format (PyTorch 1.6 and newer) holds a pickle and a record for each storage;
the legacy format is four pickles and a list of keys with the storages behind them.
"""

import io
import json
import math
import mmap
import reprlib
import struct
import warnings
import zipfile
import zlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tljax.errors import WeightsError, quote
from tljax.pretrained import torch_pickle
from tljax.pretrained.torch_pickle import Storage, Tensor

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
# Far more than any network needs: what is read of these takes many times their size.
MAX_PICKLE = 8 * 1024**2
MAX_METADATA = 2 * 1024**2
MAX_RECORDS = 20_000
MAX_DIRECTORY = 16 * 1024**2
# Where something that is no PyTorch file begins like this, the name says more.
OTHER_KINDS = {
    b"<": "an HTML or XML page, as a server sends for an error",
    b"\x1f\x8b": "a gzip file",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}


class TorchFile(NamedTuple):
    """What `torch.save` wrote.

    Attributes:
      content: dicts, lists, strings, numbers and `Tensor`s.
      storages: the bytes of each storage by its key.
      byteorder: "<" or ">".
      metadata: what `tljax` wrote beside it, {} otherwise.
      size: bytes of the file.
    """

    content: Any
    storages: dict[str, memoryview]
    byteorder: str
    metadata: dict[str, Any]
    size: int


def parse(data: bytes | mmap.mmap) -> TorchFile:
    """Returns the content of a file in either format; no tensor is read yet.

    Raises WeightsError where it is neither, damaged, or asks for anything but tensors.
    """
    head = data[:512]
    if head.startswith(b"PK\x03\x04"):
        return parse_zip(data)
    for start, kind in OTHER_KINDS.items():
        if head.lstrip().startswith(start):
            raise WeightsError(f"it is {kind}")
    if head[257:262] == b"ustar":
        raise WeightsError("it is of PyTorch before 0.4; save it anew")
    if not head.startswith(b"\x80"):
        raise WeightsError("it is no PyTorch file" if head else "it is empty")
    return parse_legacy(data)


def arrays(file: TorchFile, tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Returns views of the file's bytes, one for each tensor.

    Every view lies inside its storage, and together they hold no more than the file:
    a stride of 0 or many views of one storage could otherwise claim any memory.
    """
    # A size of 0 counts as 1: NumPy refuses [0, 2^40, 2^40].
    claimed = sum(
        math.prod(size or 1 for size in tensor.shape) * dtype_of(tensor).itemsize
        for tensor in tensors.values()
    )
    if claimed > file.size:
        raise WeightsError(
            f"its tensors claim {quote(f'{claimed:,}')} bytes, it has {file.size:,}"
        )
    return {name: view(file, name, tensor) for name, tensor in tensors.items()}


def view(file: TorchFile, name: str, tensor: Tensor) -> np.ndarray:
    """Returns a tensor as a view; raises WeightsError where it leaves its storage."""
    storage = tensor.storage
    dtype = dtype_of(tensor).newbyteorder(file.byteorder)
    held = file.storages.get(storage.key)
    stop = (storage.offset + storage.numel) * dtype.itemsize
    if held is None or stop > len(held):
        there = "is missing" if held is None else f"has {len(held):,}"
        raise WeightsError(
            f"{quote(name)} needs {stop:,} bytes of storage {quote(storage.key)}, "
            f"which {there}"
        )
    last = tensor.offset + sum(
        (size - 1) * stride
        for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if math.prod(tensor.shape) and last >= storage.numel:
        raise WeightsError(
            f"{quote(name)} reaches to element {last:,} of a storage of "
            f"{storage.numel:,}"
        )
    flat = np.frombuffer(held, dtype, storage.numel, storage.offset * dtype.itemsize)
    return np.lib.stride_tricks.as_strided(
        flat[tensor.offset :],
        tensor.shape,
        [stride * dtype.itemsize for stride in tensor.strides],
        writeable=False,
    )


def dtype_of(tensor: Tensor) -> np.dtype:
    """Returns the NumPy dtype of a tensor's elements."""
    if tensor.dtype == "bfloat16":
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(tensor.dtype)


def parse_zip(data: bytes | mmap.mmap) -> TorchFile:
    """Returns the content of a file in the zip format."""
    try:
        with warnings.catch_warnings(action="error"):
            records = zip_records(data)
    except WeightsError:
        raise
    except Exception as error:  # `zipfile` raises six kinds, or more.
        raise WeightsError(f"it is not a sound zip file: {quote(error)}") from None
    roots = [name.removesuffix("data.pkl") for name in records if is_main(name)]
    if len(roots) != 1:
        raise WeightsError(f"it has {len(roots)} records data.pkl, not one")
    prefix = roots[0]
    main = records[f"{prefix}data.pkl"]
    if len(main) > MAX_PICKLE:
        raise WeightsError(f"its pickle has {len(main):,} bytes")
    content = torch_pickle.load(io.BytesIO(main))
    storages = {
        name.removeprefix(f"{prefix}data/"): record
        for name, record in records.items()
        if name.startswith(f"{prefix}data/")
    }
    order = records.get(f"{prefix}byteorder", b"little")
    if order not in (b"little", b"big"):
        raise WeightsError(f"its byte order is {quote(bytes(order[:80]))}")
    metadata = read_metadata(records.get(f"{prefix}tljax.json", b"{}"))
    byteorder = "<" if order == b"little" else ">"
    return TorchFile(content, storages, byteorder, metadata, len(data))


def is_main(name: str) -> bool:
    """Returns whether a record is the pickle, ROOT/data.pkl with any root."""
    return name.count("/") == 1 and name.endswith("/data.pkl")


def zip_records(data: bytes | mmap.mmap) -> dict[str, memoryview]:
    """Returns every record of a zip file as a view of its bytes, CRC checked.

    Nothing is unpacked: PyTorch stores records as they are. Raises WeightsError for
    a record that is compressed, encrypted, named twice, or outside of the file.
    """
    # Each entry of the directory, which ends the file, begins like this, and `zipfile`
    # makes an object of it.
    if data[-MAX_DIRECTORY:].count(b"PK\x01\x02") > MAX_RECORDS:
        raise WeightsError(f"it has more than {MAX_RECORDS:,} records, too many")
    archive = zipfile.ZipFile(io.BytesIO(data) if isinstance(data, bytes) else data)
    records, claimed = {}, 0
    for info in archive.infolist():
        name = quote(info.filename)
        if info.filename in records:
            raise WeightsError(f"it has two records {name}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise WeightsError(f"its record {name} is compressed or encrypted")
        # The local header may pad its extra field, to align the bytes behind it. Its
        # name is compared as no CRC protects the directory.
        place = info.header_offset
        signature, lengths = data[place : place + 4], data[place + 26 : place + 30]
        encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
        there = info.orig_filename.encode(encoding)
        if (
            place < 0
            or signature != b"PK\x03\x04"
            or data[place + 30 : place + 30 + len(there)] != there
        ):
            raise WeightsError(f"its record {name} is not where it should be")
        start = place + 30 + sum(struct.unpack("<HH", lengths))
        record = memoryview(data)[start : start + info.file_size]
        if len(record) != info.file_size or info.compress_size != info.file_size:
            raise WeightsError(f"its record {name} is cut short")
        claimed += len(record)
        if claimed > len(data):
            raise WeightsError("its records overlap")
        if zlib.crc32(record) != info.CRC:
            raise WeightsError(f"the CRC of its record {name} is wrong")
        records[info.filename] = record
    return records


def read_metadata(text: bytes | memoryview) -> dict[str, Any]:
    """Returns the JSON object that `text` is."""
    if len(text) > MAX_METADATA:
        raise WeightsError(f"its metadata has {len(text):,} bytes")
    try:
        metadata = json.loads(bytes(text))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"its metadata is not JSON: {quote(error)}") from None
    if not isinstance(metadata, dict):
        raise WeightsError("its metadata is no JSON object")
    return metadata


def parse_legacy(data: bytes | mmap.mmap) -> TorchFile:
    """Returns the content of a file in the legacy format."""
    stream = io.BytesIO(data[:MAX_PICKLE])
    if torch_pickle.load(stream) != LEGACY_MAGIC:
        raise WeightsError("it is a pickle, but not a PyTorch file")
    protocol = torch_pickle.load(stream)
    if protocol != LEGACY_PROTOCOL:
        raise WeightsError(f"its legacy protocol is {quote(reprlib.repr(protocol))}")
    system = torch_pickle.load(stream)
    if not isinstance(system, dict):
        raise WeightsError("it does not say of which machine it is")
    byteorder = "<" if system.get("little_endian", True) else ">"
    content = torch_pickle.load(stream)
    keys = torch_pickle.load(stream)
    sizes = {s.key: s for s in find_storages(content)}
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or not set(sizes) <= set(keys)
    ):
        raise WeightsError("its storages are not those that its tensors need")
    storages, place = {}, stream.tell()
    for key in keys:
        if key not in sizes:
            raise WeightsError(f"no tensor uses its storage {quote(key)}")
        head = data[place : place + 8]
        if len(head) < 8:
            raise WeightsError(f"it ends before its storage {quote(key)}")
        # The number of elements is written in the order of the machine's bytes.
        (numel,) = struct.unpack(byteorder + "q", head)
        itemsize = dtype_of(Tensor(sizes[key], 0, (), ())).itemsize
        start = place + 8
        place = start + numel * itemsize
        if numel < 0 or place > len(data):
            raise WeightsError(
                f"its storage {quote(key)} claims {numel:,} elements; it ends before"
            )
        storages[key] = memoryview(data)[start:place]
    return TorchFile(content, storages, byteorder, {}, len(data))


def find_storages(content: Any) -> list[Storage]:
    """Returns the storages of all tensors in dicts, lists and tuples of any depth."""
    found, seen, waiting = [], set(), [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            found.append(value.storage)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return found
