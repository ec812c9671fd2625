"""Weight files: bytes on disk to a state dict of NumPy arrays, and back."""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from tljax.errors import ConfigError, DataError, WeightsError, quote
from tljax.pretrained import torch_file, torch_writer
from tljax.pretrained.torch_pickle import Tensor

TORCH_SUFFIXES = (".pth", ".pt")
# A ResNet-152 has 932. What a longer list takes to compare and to print adds up.
MAX_TENSORS = 10_000
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")
# Where training scripts put a state dict; moving averages are what they publish.
ENTRIES = (
    "model_ema", "state_dict_ema", "ema_state_dict", "ema", "state_dict",
    "model_state_dict", "model_state", "model", "module", "net", "network", "weights",
)  # fmt: skip


class StateDict(NamedTuple):
    """What a weight file holds.

    Attributes:
      tensors: torch's names -> arrays in torch's order of axes.
      metadata: what tljax wrote beside them, {} where another program wrote the file.
      notes: what was found around the tensors and left out, for the log.
    """

    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]
    notes: tuple[str, ...]


def read(path: Path, entry: str = "", hash_prefix: str = "") -> StateDict:
    """Returns the state dict in a .pth, .pt or .safetensors file.

    `entry` names the one to take where the file holds several; the SHA-256 of a .pth
    file must begin with `hash_prefix`. Raises ConfigError where there is no such file,
    WeightsError where it is damaged or holds no weights.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} must end in {', '.join(SUFFIXES)}")
    try:
        if not path.is_file():
            raise ConfigError(f"weight file {path} does not exist")
        if path.suffix == ".safetensors":
            return read_safetensors(path)
        data = map_into_memory(path)
        check_hash(data, hash_prefix)
        return read_torch(data, entry)
    except WeightsError as error:
        raise WeightsError(f"{path} cannot be used: {error}") from None
    except (OSError, MemoryError) as error:
        raise DataError(f"{path} cannot be read: {quote(error)}") from None


def map_into_memory(path: Path) -> bytes | mmap.mmap:
    """Returns a file's bytes, which are read when they are touched.

    Reading them into memory of our own would take as long as all the rest.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return file.read(1)  # Nothing cannot be mapped.
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def check_hash(data: bytes | mmap.mmap, prefix: str) -> None:
    """Raises WeightsError where the SHA-256 of `data` does not begin with `prefix`."""
    if not prefix:
        return
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(prefix):
        raise WeightsError(f"its SHA-256 is {digest}, not {prefix}...")


def read_torch(data: bytes | mmap.mmap, entry: str) -> StateDict:
    """Returns the state dict in the bytes of a PyTorch file."""
    file = torch_file.parse(data)
    tensors, notes = find_state_dict(file.content, entry)
    check_number(tensors)
    tensors, note = without_prefix(tensors)
    return StateDict(torch_file.arrays(file, tensors), file.metadata, notes + note)


def find_state_dict(
    content: Any, entry: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Returns the state dict in what a file holds, and notes on what is around it."""
    if not isinstance(content, dict):
        raise WeightsError(f"it holds a {type(content).__name__}, not a state dict")
    if entry and not is_state_dict(content.get(entry)):
        # Not all of them: the same long one may stand under any number of names.
        there = [key for key in list(content)[:100] if is_state_dict(content[key])]
        listed = ", ".join(map(quote, there)) or "none"
        raise WeightsError(f"it has no state dict {entry!r}; there are: {listed}")
    if not entry and is_state_dict(content):
        return content, ()
    named = (name for name in ENTRIES if is_state_dict(content.get(name)))
    chosen = entry or next(named, None)
    if chosen is None:
        keys = ", ".join(quote(key) for key in list(content)[:20]) or "nothing"
        raise WeightsError(f"it holds no state dict; its entries are: {keys}")
    others = [quote(key) for key in content if key != chosen]
    left = f", left {', '.join(others[:20])}" if others else ""
    return content[chosen], (f"took {quote(chosen)}{left}",)


def is_state_dict(value: Any) -> bool:
    """Returns whether a value is a dict of names and tensors, and has one."""
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(key, str) for key in value)
        and all(isinstance(tensor, Tensor) for tensor in value.values())
    )


def without_prefix(tensors: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the tensors named as in a bare ResNet, and a note where that is new.

    A wrapper puts its name before all of them: `module.` (DistributedDataParallel),
    `model.` (Lightning), `backbone.`, and so on; AveragedModel counts in `n_averaged`.
    """
    named = {name: value for name, value in tensors.items() if name != "n_averaged"}
    prefixes = {
        name.removesuffix("layer1.0.conv1.weight")
        for name in named
        if name.endswith(".layer1.0.conv1.weight")
    }
    if "layer1.0.conv1.weight" in named or not prefixes:
        return named, ()
    if len(prefixes) > 1:
        listed = ", ".join(sorted(map(quote, prefixes))[:20])
        raise WeightsError(f"it holds several networks: {listed}")
    (prefix,) = prefixes
    inside = {name.removeprefix(prefix): value for name, value in named.items()}
    if len(inside) < len(named):
        raise WeightsError(f"it holds names with and without {quote(prefix)}")
    return inside, (f"dropped the prefix {quote(prefix)!r}",)


def read_safetensors(path: Path) -> StateDict:
    """Returns the state dict in a .safetensors file, read by its own library."""
    check_header(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            check_number(file.keys())
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (WeightsError, OSError, MemoryError):
        raise
    except Exception as error:  # Also AttributeError: NumPy has no floats of 8 bits.
        raise WeightsError(f"it is not sound: {quote(error, 200)}") from None
    tensors, notes = without_prefix(tensors)
    ours = torch_file.read_metadata(metadata.get("tljax", "{}").encode())
    return StateDict(tensors, ours, notes)


def check_header(path: Path) -> None:
    """Raises WeightsError where a .safetensors file is too short or has a long header.

    It begins with the header's length, and the header takes many times that to read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    left = path.stat().st_size - 8
    if left < 0:
        raise WeightsError("it is empty or cut short")
    if length > min(left, torch_file.MAX_PICKLE):
        raise WeightsError(f"its header has {length:,} bytes, and {left:,} follow")


def check_number(tensors: Collection[str]) -> None:
    """Raises WeightsError where there are more tensors than a network has."""
    if len(tensors) > MAX_TENSORS:
        raise WeightsError(f"it has {len(tensors):,} tensors, too many")


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Writes a state dict in the format that the suffix of `path` names.

    The file is there whole or not at all. Raises ConfigError for another suffix,
    DataError where it cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} must end in {', '.join(SUFFIXES)}")
    if path.suffix == ".safetensors":
        header = {"format": "pt", "tljax": json.dumps(metadata, sort_keys=True)}
        data = safetensors.numpy.save(tensors, header)
        replace(path, lambda file: file.write(data))
    else:
        replace(path, lambda file: torch_writer.write(file, tensors, metadata))


def replace(path: Path, write_into: Callable[[BinaryIO], Any]) -> None:
    """Writes a file beside `path` and renames it: a reader sees the old or the new."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            write_into(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written: {error}") from None


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
