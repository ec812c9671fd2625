"""The features of every image of a data set, computed once by a frozen backbone."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tljax import evaluate, parallel
from tljax.data import augment, examples, loader, views
from tljax.data.canvas import Canvas
from tljax.data.examples import Examples
from tljax.data.operations import CutMix, Mixup, Operation
from tljax.data.skipped import Skipped
from tljax.errors import DataError, NonFiniteError
from tljax.metrics import read_late
from tljax.run import Run, abstract_images
from tljax.terminal import print_line, track

# Operations after which an image has no longer one label.
MIXING = (Mixup, CutMix)

# Returns what the network is shown of a batch: a list of images [b, h, w, c].
Look = Callable[[jax.Array, dict[str, jax.Array]], list[jax.Array]]


class Features(NamedTuple):
    """What a backbone says of the images of a split that can be used.

    Attributes:
      values: float32 [n, d]; of training images [copies * n, d], copy after copy.
      labels: int32, of each row.
    """

    values: np.ndarray
    labels: np.ndarray


def compute(
    run: Run, variables: Any, copies: int
) -> tuple[dict[str, Features], dict[str, str]]:
    """Returns the features of every split, and the images skipped with the reasons.

    The first copy of the training images is what evaluation looks at, as of all other
    images; the following ones are augmented as in training, with random numbers that
    are a function of seed, copy and batch. Raises NonFiniteError where a feature is not
    a number.
    """
    total = sum(len(split.labels) for split in run.source.splits.values())
    skipped = Skipped(total, run.config.data.max_bad_fraction, print_line)
    compiled = functools.cache(functools.partial(compile_features, run, variables))
    key = jax.random.key(run.config.seed)
    look = functools.partial(middle, run)
    found = {}
    for name in run.source.splits:
        storage = evaluate.storage_of(run, name)
        split = open_split(run, name, storage, skipped)
        look = functools.partial(middle, run)
        program = compiled(look, storage.canvases[name])
        found[name] = go_over(
            run, split, program, variables, key, f"features of {name}"
        )
    if copies == 1:
        return found, skipped.reasons
    split = open_split(run, "train", run.storage, skipped)
    program = compiled(functools.partial(augmented, run), run.storage.canvases["train"])
    rows = [found["train"]]
    for copy in range(1, copies):
        copy_key = jax.random.fold_in(key, copy)
        text = f"augmented copy {copy} of {copies - 1}"
        rows.append(go_over(run, split, program, variables, copy_key, text))
    found["train"] = join(rows)
    return found, skipped.reasons


def join(rows: list[Features]) -> Features:
    """Returns copies of a split end to end; raises DataError where they differ."""
    if any(not np.array_equal(copy.labels, rows[0].labels) for copy in rows):
        raise DataError("training images have changed while they were read")
    values, labels = zip(*rows, strict=True)
    return Features(np.concatenate(values), np.concatenate(labels))


def open_split(
    run: Run, name: str, storage: examples.Storage, skipped: Skipped
) -> Examples:
    """Returns a split ready to be loaded."""
    return examples.open_split(
        run.source, name, storage, run.config.data, skipped, track
    )


def middle(run: Run, key: jax.Array, batch: dict[str, jax.Array]) -> list[jax.Array]:
    """Returns what evaluation looks at, normalised; mostly one image, the middle."""
    del key
    transform = run.transform
    seen = views.EVAL_VIEWS[run.config.data.eval_views](batch, transform.crop)
    return [augment.normalize(image, transform.mean, transform.std) for image in seen]


def augmented(run: Run, key: jax.Array, batch: dict[str, jax.Array]) -> list[jax.Array]:
    """Returns what training looks at."""
    operations = unmixed(run.config.data.augment)
    num_classes = len(run.source.class_names)
    images, _ = run.task.see(key, batch, num_classes, run.transform, operations)
    return [images]


def unmixed(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """Returns the operations that leave an image its label."""
    return tuple(each for each in operations if not isinstance(each, MIXING))


def compile_features(
    run: Run, variables: Any, look: Look, canvas: Canvas
) -> jax.stages.Compiled:
    """Returns `program((variables, key), batch)` compiled for batches on a canvas.

    It returns features float32 [b, d], the mean over all images that it looks at, and
    the mask of the batch. BatchNorm takes its running statistics.
    """

    def features(state, batch):
        variables, key = state
        found = [
            run.model.apply(variables, images, train=False, return_features=True)
            for images in look(key, batch)
        ]
        pooled = [features["pooled"].astype(jnp.float32) for _, features in found]
        return sum(pooled) / len(pooled), batch["mask"]

    batch = abstract_images(run.batch_size, canvas)
    batch["mask"] = jax.ShapeDtypeStruct((run.batch_size,), jnp.float32)
    state = variables, jax.random.key(0)
    return parallel.compile_step(features, state, batch, mesh=run.mesh, infers=True)[0]


def go_over(
    run: Run, split: Examples, program, variables: Any, key: jax.Array, text: str
) -> Features:
    """Returns the features of all images of a split that can be used."""
    readers = examples.readers_of(run.config.data, split.drawings.canvas.bytes)
    batches = loader.eval_batches(split, run.batch_size, readers)
    outputs = send(program, variables, key, parallel.shard_batches(batches, run.mesh))
    number = -(-len(split.drawings) // run.batch_size)
    rows = track(read_late(outputs), number, text)
    values, masks = zip(*rows, strict=True)
    usable = np.concatenate(masks)[: len(split.drawings)] > 0
    if not usable.any():
        raise DataError(f"none of the images of {run.config.data.source!r} can be used")
    values = np.concatenate(values)[: len(split.drawings)][usable]
    if not np.isfinite(values).all():
        raise NonFiniteError("the features of the network are not finite numbers")
    return Features(values, split.split.labels[usable].astype(np.int32))


def send(program, variables: Any, key: jax.Array, batches: Iterator) -> Iterator[Any]:
    """Yields what a program makes of each batch, with a key of its own."""
    for number, batch in enumerate(batches):
        yield program((variables, jax.random.fold_in(key, number)), batch)
