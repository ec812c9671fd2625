"""Features on disk: kept for the next probe of the same weights and images."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

import tljax
from tljax import checkpoint, workdirs
from tljax.data import transforms
from tljax.errors import ConfigError
from tljax.probing import features
from tljax.probing.features import Features
from tljax.run import Run

FEATURES, INDEX = "features.npz", "features.json"
HEAD = "params/fc/"


def key_of(run: Run, variables: Any, copies: int) -> dict[str, Any]:
    """Returns all that features are a function of, as JSON reads it back."""
    data, model = run.config.data, run.config.model
    key = {
        "data": run.source.fingerprint(),
        "splits": {
            name: hash_of(split.names.tolist(), split.labels.tolist())
            for name, split in run.source.splits.items()
        },
        "weights": hash_of_weights(variables),
        "model": {"name": model.name, "width": model.width, "stem": model.stem},
        "precision": run.config.precision,
        "transform": transforms.as_json(run.transform),
        "eval_views": data.eval_views,
        "max_megapixels": data.max_megapixels,
        "copies": copies,
        "augmentation": augmentation_of(run) if copies > 1 else None,
        "jax": jax.__version__,
        "tljax": tljax.__version__,
    }
    # Read back, for lists are what a stored tuple comes back as.
    return json.loads(json.dumps(key, default=workdirs.as_dict))


def augmentation_of(run: Run) -> dict[str, Any]:
    """Returns what augmented copies are a function of, beside the key of the first."""
    data = run.config.data
    return {
        "operations": features.unmixed(data.augment),
        "seed": run.config.seed,
        "batch_size": run.batch_size,
        "train_resize": data.train_resize,
    }


def hash_of(*values: Any) -> str:
    """Returns a hash of values by the way they are written."""
    return hashlib.sha256(repr(values).encode(errors="surrogateescape")).hexdigest()


def hash_of_weights(variables: Any) -> str:
    """Returns a hash of the names and bytes of all arrays but those of the head."""
    found = hashlib.sha256()
    flat = traverse_util.flatten_dict(variables, sep="/")
    for name in sorted(flat):
        if not name.startswith(HEAD):
            array = np.ascontiguousarray(jax.device_get(flat[name]))
            found.update(f"{name} {array.dtype} {array.shape} ".encode())
            found.update(array)
    return found.hexdigest()


def load(
    folder: Path, key: dict[str, Any]
) -> tuple[dict[str, Features] | None, dict[str, str], str]:
    """Returns features of that key with what was skipped, or None and why not.

    Nothing of a file is trusted before its SHA-256 is that in the index beside it.
    """
    try:
        index = workdirs.read_json(folder / INDEX)
    except ConfigError:
        return None, {}, "the index of the features there is damaged"
    if index is None:
        return None, {}, ""
    try:
        changed = [name for name in key if index["key"].get(name) != key[name]]
        if changed:
            return None, {}, f"the features there are of other {', '.join(changed)}"
        if checkpoint.sha256(folder / FEATURES) != index["sha256"]:
            return None, {}, "the features there are damaged"
        with np.load(folder / FEATURES, allow_pickle=False) as saved:
            found = {
                name: Features(saved[f"{name}_values"], saved[f"{name}_labels"])
                for name in key["splits"]
            }
        return found, dict(index["skipped"]), ""
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return None, {}, "the features there are damaged"


def save(
    folder: Path,
    key: dict[str, Any],
    found: dict[str, Features],
    skipped: dict[str, str],
) -> None:
    """Writes features, the index as the last; raises ConfigError where it cannot be."""
    part = folder / f"{FEATURES}.{os.getpid()}.part"
    arrays = {
        f"{name}_{part_name}": array
        for name, split in found.items()
        for part_name, array in split._asdict().items()
    }
    try:
        with part.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        index = {"key": key, "sha256": checkpoint.sha256(part), "skipped": skipped}
        part.replace(folder / FEATURES)
        workdirs.write_json(folder / INDEX, index)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        reason = error.strerror or error
        raise ConfigError(f"cannot write the features to {folder}: {reason}") from None
