"""Checkpoints: Orbax, asynchronous, with the hash of every file in the same commit.

Orbax writes a step into a temporary folder and renames it, so that a step is there
whole or not at all. It does not notice a flipped bit in the arrays, and tells of a full
disk one save late. Therefore a manifest of SHA-256 hashes is written into the temporary
folder just before the rename, and a save has landed only when the manifest is seen.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from tljax import plan
from tljax.errors import CheckpointError, ConfigError, unknown

MANIFEST = "MANIFEST.json"
# Orbax adds the time of the commit to this one after the manifest has been made.
UNHASHED = "_CHECKPOINT_METADATA"
# The variables in a state: as trained, and their moving average where one is kept.
ENTRIES = ("", "ema")


class Checkpoints:
    """The checkpoints of one run, each in DIRECTORY/STEP.

    Kept are the latest `config.keep_checkpoints` and, beside them, the one that was
    best in validation. At most one save is under way.
    """

    def __init__(self, directory: Path, config):
        self.directory = directory.absolute()
        self.directory.mkdir(exist_ok=True)
        if jax.process_index() == 0:
            self.remove_unfinished()
        self.saving: int | None = None
        latest_steps = preservation_policy.LatestN(config.keep_checkpoints)
        best_step = preservation_policy.BestN(
            get_metric_fn=lambda metrics: metrics["score"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(
                [latest_steps, best_step]
            ),
            best_fn=lambda metrics: metrics["score"],
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self.write_manifest
            ),
        )
        try:
            self.manager = ocp.CheckpointManager(self.directory, options=options)
            best = self.best_step()
            saved = {} if best is None else dict(self.manager.metrics(best))
            self.best_score = saved.get("score", -math.inf)
        except Exception as error:
            for folder in steps_in(self.directory):
                verify(folder)
            raise CheckpointError(
                f"checkpoints in {self.directory} cannot be read: {one_line(error)}"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        """Lets the save under way land; its failure must not hide another error."""
        try:
            self.wait()
        except CheckpointError:
            if error is None:
                raise
        finally:
            with contextlib.suppress(Exception):
                self.manager.close()

    def save(
        self, step: int, state: Any, meta: dict[str, Any], metrics: dict[str, float]
    ) -> None:
        """Begins to save; `state` may be donated once this returns.

        `meta` is saved as JSON beside the state. `metrics` are those of a validation
        of this very state, with the "score" that the best has
        most of, or empty. Raises CheckpointError if the save before failed.
        """
        self.wait()
        self.saving = step
        self.best_score = max(self.best_score, metrics.get("score", -math.inf))
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
        )
        try:
            self.manager.save(step, args=items, metrics=metrics or None)
        except Exception as error:
            raise self.failed(error) from error

    def poll(self) -> None:
        """Raises CheckpointError if the save under way has failed; does not wait.

        Several processes would: they are told when they save again.
        """
        if jax.process_count() > 1:
            return
        if self.saving is not None and not self.manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns once the save under way has landed, or raises CheckpointError."""
        if self.saving is None:
            return
        try:
            self.manager.wait_until_finished()
            (self.directory / str(self.saving) / MANIFEST).stat()
        except Exception as error:
            raise self.failed(error) from error
        self.saving = None

    def failed(self, error: Exception) -> CheckpointError:
        """Returns the error to raise for a failed save, whose remains are removed."""
        step, self.saving = self.saving, None
        self.remove_unfinished()
        free = shutil.disk_usage(self.directory).free / 1e6
        full = "No space left on device"
        reason = full if full in str(error) else one_line(error)
        return CheckpointError(
            f"checkpoint of step {step} could not be written to {self.directory} "
            f"({free:,.0f} MB free): {reason}"
        )

    def remove_unfinished(self) -> None:
        """Removes what saves that were cut short have left: it would fill the disk."""
        for remains in self.directory.glob("*.orbax-checkpoint-tmp"):
            shutil.rmtree(remains, ignore_errors=True)

    def write_manifest(self) -> None:
        """Writes the hashes of all files of the step that Orbax is about to rename."""
        if jax.process_index() > 0:
            return
        (folder,) = self.directory.glob(f"{self.saving}.orbax-checkpoint-tmp")
        hashes = {
            str(path.relative_to(folder)): sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != UNHASHED
        }
        with (folder / MANIFEST).open("w") as file:
            json.dump(hashes, file, indent=1)
            file.flush()
            os.fsync(file.fileno())

    def best_step(self) -> int | None:
        """Returns the step that was best in validation, None where none was."""
        return self.manager.best_step()

    def go_back(self, step: int) -> None:
        """Deletes what was saved after a step: the run ends there."""
        for folder in steps_in(self.directory):
            if int(folder.name) > step:
                self.manager.delete(int(folder.name))

    def is_best(self, metrics: dict[str, float]) -> bool:
        """Returns whether a validation is better than that of every step saved."""
        return metrics.get("score", -math.inf) > self.best_score


def latest(directory: Path) -> Path | None:
    """Returns the folder of the latest step saved in `directory`, None if none is."""
    return max(steps_in(directory), key=lambda path: int(path.name), default=None)


def steps_in(directory: Path) -> list[Path]:
    """Returns the folders of all steps saved in `directory`."""
    return [path for path in directory.glob("*") if path.name.isdigit()]


def best(directory: Path) -> Path | None:
    """Returns the folder of the step that was best in validation, None if none was.

    Of equally good ones it is the latest. Raises CheckpointError for a damaged step.
    """
    found = {}
    for folder in steps_in(directory):
        metrics = folder / "metrics" / "metrics"
        if metrics.exists():
            verify(folder)
            score = json.loads(metrics.read_text())["score"]
            found[folder] = score, int(folder.name)
    return max(found, key=found.get, default=None)


def restore(folder: Path, state: Any, shardings: Any) -> Any:
    """Returns the state saved in `folder`, with the tree and shapes of `state`.

    It lies as `shardings` say, one or a tree of them, however it lay when it was saved.

    Every file is compared with its hash first. Raises CheckpointError, naming step and
    file, where one is missing or differs, and where names or shapes are others.
    """
    verify(folder)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = checkpointer.metadata(folder / "state").item_metadata.tree
    differences = compare_shapes(shapes(saved), shapes(state))
    if differences:
        raise CheckpointError(
            f"checkpoint step {folder.name} in {folder.parent} does not fit this run "
            f"(- unused, + missing, or other shapes): {'; '.join(differences)}"
        )
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda leaf: shardings, state)
    target = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=where
        ),
        state,
        shardings,
    )
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        return read(folder, checkpointer, "state", ocp.args.StandardRestore(target))


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns {"params/conv1/kernel": shape, ...} without the key, saved as numbers."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in leaves
    }
    return {name: tuple(shape) for name, shape in named.items() if name != "key"}


def compare_shapes(
    have: dict[str, tuple[int, ...]], want: dict[str, tuple[int, ...]]
) -> list[str]:
    """Returns "- NAME" for what is not wanted, "+ NAME" for what is missing, and both
    shapes where they differ.
    """
    return (
        [f"- {name} {shape}" for name, shape in have.items() if name not in want]
        + [f"+ {name} {shape}" for name, shape in want.items() if name not in have]
        + [
            f"{name} {have[name]}, not {shape}"
            for name, shape in want.items()
            if have.get(name, shape) != shape
        ]
    )


def restore_variables(folder: Path, entry: str = "") -> dict[str, Any]:
    """Returns params and batch_stats of the state in `folder`, as NumPy arrays.

    The entry "ema" is their moving average. The rest of the state is not read. Raises
    CheckpointError as `restore` does, ConfigError for an entry that is not there.
    """
    verify(folder)
    if entry not in ENTRIES:
        raise ConfigError(unknown("entry", entry, ENTRIES))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(folder / "state").item_metadata.tree
        if entry and not tree.get(entry):
            raise ConfigError(
                f"checkpoint {folder} holds no moving average of the weights: its run "
                "had optim.ema_decay = 0"
            )
        names = ("params", "batch_stats", *([entry] if entry else []))
        wanted = {name: tree[name] for name in names}
        as_numpy = jax.tree.map(
            lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted
        )
        how = ocp.args.PyTreeRestore(
            wanted, restore_args=as_numpy, partial_restore=True
        )
        found = read(folder, checkpointer, "state", how)
    average = found.pop(entry, None)
    if average is None:
        return found
    params = plan.join(found["params"], average["params"])
    return {"params": params, "batch_stats": average["batch_stats"]}


def read_meta(folder: Path) -> dict[str, Any]:
    """Returns the `meta` saved with a state; raises as `restore` does."""
    verify(folder)
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        return read(folder, checkpointer, "meta", ocp.args.JsonRestore())


def read(folder: Path, checkpointer: ocp.Checkpointer, item: str, how: Any) -> Any:
    """Returns an item of a step; whatever Orbax raises becomes a CheckpointError."""
    try:
        return checkpointer.restore(folder / item, args=how)
    except Exception as error:
        raise CheckpointError(
            f"checkpoint step {folder.name}: {folder / item} cannot be restored into "
            f"this run: {one_line(error)}"
        ) from error


def one_line(error: Exception) -> str:
    """Returns the kind and the beginning of an error."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def verify(folder: Path) -> None:
    """Raises CheckpointError, naming step and file, where a file is not as saved."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise damaged(folder, MANIFEST, f"cannot be read: {error}") from None
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise damaged(folder, name, "is missing")
        if sha256(path) != expected:
            raise damaged(folder, name, "differs from what was saved")


def damaged(folder: Path, name: str, what: str) -> CheckpointError:
    """Returns the error for a file of a step that is not as it was saved."""
    return CheckpointError(
        f"checkpoint step {folder.name} is damaged: {folder / name} {what}; nothing "
        f"was deleted; move {folder} away to resume from an earlier step"
    )


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
