"""The images of a run on their way to its steps: splits, batches, stored images."""

from collections.abc import Iterator

import jax

from tljax import parallel, several
from tljax.data import examples, loader
from tljax.data.examples import Examples
from tljax.data.order import Course, Order
from tljax.data.skipped import Skipped
from tljax.run import Run, call_lengths
from tljax.terminal import Terminal, track


def open_splits(run: Run, terminal: Terminal) -> dict[str, Examples]:
    """Returns every split ready to be loaded; decodes what is to be decoded once."""
    total = sum(len(split.labels) for split in run.source.splits.values())
    skipped = Skipped(total, run.config.data.max_bad_fraction, terminal.say)
    return {
        name: examples.open_split(
            run.source, name, run.storage, run.config.data, skipped, track
        )
        for name in run.source.splits
    }


def train_batches(
    run: Run, split: Examples, first_step: int, steps_per_call: int = 1
) -> Iterator[dict[str, jax.Array]]:
    """Yields the training batches from a step on, on the devices, one ahead.

    Where a call takes several steps, their batches come together, call by call.
    """
    data = run.config.data
    order = Order(run.config.seed, split.split.labels, data.balanced)
    course = Course(order, run.batch_size, jax.process_index(), jax.process_count())
    on_device = run.storage.cache == "device"
    readers = examples.readers_of(data, split.drawings.canvas.bytes)
    batches = loader.train_batches(split, course, first_step, readers, on_device)
    if steps_per_call > 1:
        counts = call_lengths(run, first_step)
        batches = several.stack_batches(batches, counts, steps_per_call)
    return parallel.shard_batches(batches, run.mesh)


def stored_images(run: Run, split: Examples) -> dict[str, jax.Array]:
    """Returns the training images on the devices, where they are kept there."""
    if run.storage.cache != "device":
        return {}
    return parallel.replicate(loader.on_device(split), run.mesh)
