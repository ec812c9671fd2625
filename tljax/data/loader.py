"""Batches of constant shape, read ahead of the device."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tljax.data import cache, reader
from tljax.data.canvas import Canvas, Drawings, Drawn
from tljax.data.examples import Examples
from tljax.data.order import Course
from tljax.data.reader import Readers
from tljax.data.splits import Split

Batch = dict[str, np.ndarray]
# Rows without end, as Grain asks for a number.
ENDLESS = 2**40


def train_batches(
    examples: Examples,
    course: Course,
    first_step: int,
    readers: Readers,
    on_device: bool = False,
) -> Iterator[Batch]:
    """Yields the batches of a training split from a step on, without end.

    {"image": uint8 [b, short, long, c], "label": int32 [b]} and, where images differ in
    shape, "extent": int32 [b, 2]; or {"index": int32 [b]} where the images lie on the
    device. All are functions of the arguments: started at any step it goes on as if it
    had never stopped. An image that cannot be used gives its place to the next one.
    """
    if on_device:
        return index_batches(examples, course, first_step)
    if examples.decoded is not None:
        # Each row is a whole batch; two are gathered while the device works.
        readers = readers._replace(threads=2, processes=0, buffer=2)
        return reader.read(GatheredBatches(examples, course), readers, first_step)
    rows = StreamedRows(examples.split, examples.drawings, course)
    share = course.share
    collate = functools.partial(stack, examples.drawings.canvas)
    batches = reader.read(rows, readers, first_step * share, share, collate)
    return noted(batches, examples)


def eval_batches(
    examples: Examples, batch_size: int, readers: Readers
) -> Iterator[Batch]:
    """Yields every example once, in order, with "mask" float32 [b]: 0 where padded.

    The last batch repeats its first example up to `batch_size`, so that one compiled
    program serves all batches and sums weighted by the mask are exact. An image that
    cannot be used has the mask 0 too.
    """
    if examples.decoded is not None:
        return gathered_eval_batches(examples, batch_size)
    rows = EvalRows(examples.split, examples.drawings)
    collate = functools.partial(stack_masked, examples.drawings.canvas)
    batches = noted(reader.read(rows, readers, 0, batch_size, collate), examples)
    return (pad(batch, batch_size) for batch in batches)


def on_device(examples: Examples) -> Batch:
    """Returns the arrays of a split that batches of indices are gathered from."""
    places = np.arange(len(examples.split.labels))
    return gather(examples, places)


def index_batches(examples: Examples, course: Course, step: int) -> Iterator[Batch]:
    """Yields the places of examples in the arrays on the device."""
    while True:
        places = examples.stand_ins[course.examples(step)]
        yield {"index": places.astype(np.int32)}
        step += 1


class GatheredBatches(Sequence):
    """Training batches by step, from decoded images."""

    def __init__(self, examples: Examples, course: Course):
        self.examples = examples
        self.course = course

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> Batch:
        places = self.course.examples(step)
        return gather(self.examples, self.examples.stand_ins[places])


def gathered_eval_batches(examples: Examples, batch_size: int) -> Iterator[Batch]:
    """Yields the evaluation batches of decoded images."""
    usable = examples.decoded.errors == ""
    for start in range(0, len(usable), batch_size):
        places = np.arange(start, min(start + batch_size, len(usable)))
        batch = gather(examples, places)
        batch["mask"] = usable[places].astype(np.float32)
        yield pad(batch, batch_size)


def gather(examples: Examples, places: np.ndarray) -> Batch:
    """Returns the decoded examples at `places` as a batch."""
    decoded, labels = examples.decoded, examples.split.labels
    pixels = cache.read_rows(decoded, places, examples.drawings)
    extents = decoded.extents[places]
    return as_batch(examples.drawings.canvas, pixels, extents, labels[places])


def as_batch(canvas: Canvas, pixels, extents, labels) -> Batch:
    """Returns a batch; extents are left out where every image fills its canvas."""
    batch = {"image": pixels, "extent": extents, "label": labels}
    if canvas.short == canvas.long:
        del batch["extent"]
    return batch


class Row(NamedTuple):
    """An example that was read, and those (name, reason) skipped on the way to it."""

    drawn: Drawn
    label: int
    skipped: tuple[tuple[str, str], ...]


class StreamedRows(Sequence):
    """Training examples one by one in the order of training, each read when needed."""

    def __init__(self, split: Split, drawings: Drawings, course: Course):
        self.split = split
        self.drawings = drawings
        self.course = course

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> Row:
        first = self.course.example(number)
        skipped = []
        for example in (*range(first, len(self.drawings)), *range(first)):
            drawn = self.drawings[example]
            if not drawn.error:
                break
            skipped.append((str(self.split.names[example]), drawn.error))
        return Row(drawn, self.split.labels[example], tuple(skipped))


class EvalRows(Sequence):
    """Examples one by one in their own order, each read when needed."""

    def __init__(self, split: Split, drawings: Drawings):
        self.split = split
        self.drawings = drawings

    def __len__(self) -> int:
        return len(self.drawings)

    def __getitem__(self, place: int) -> Row:
        drawn = self.drawings[place]
        name = str(self.split.names[place])
        skipped = ((name, drawn.error),) if drawn.error else ()
        return Row(drawn, self.split.labels[place], skipped)


def stack(canvas: Canvas, rows: Sequence[Row]) -> tuple[Batch, list[tuple[str, str]]]:
    """Returns rows as a batch, and all that was skipped on the way to them."""
    batch = as_batch(
        canvas,
        np.stack([row.drawn.pixels for row in rows]),
        np.array([row.drawn.extent for row in rows], np.int32),
        np.array([row.label for row in rows], np.int32),
    )
    return batch, [pair for row in rows for pair in row.skipped]


def stack_masked(canvas: Canvas, rows: Sequence[Row]) -> tuple[Batch, list]:
    """Returns what `stack` does, with the mask 0 where there is no image."""
    batch, skipped = stack(canvas, rows)
    batch["mask"] = np.array([not row.drawn.error for row in rows], np.float32)
    return batch, skipped


def noted(batches: Iterator, examples: Examples) -> Iterator[Batch]:
    """Yields the batches of `stack`, what was skipped being noted."""
    try:
        for batch, skipped in batches:
            for name, reason in skipped:
                examples.skipped.add(name, reason)
            yield batch
    finally:
        batches.close()


def pad(batch: Batch, batch_size: int) -> Batch:
    """Returns a batch of `batch_size`: its first example again, with mask 0."""
    missing = batch_size - len(batch["mask"])
    if not missing:
        return batch
    padded = {
        name: np.concatenate([values, np.repeat(values[:1], missing, axis=0)])
        for name, values in batch.items()
    }
    padded["mask"][-missing:] = 0
    return padded
