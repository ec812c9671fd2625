"""Batches of constant shape in an order that is a function of (seed, epoch, index)."""

import functools
from collections.abc import Iterator

import numpy as np

from tljax.data.sources import Split


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Returns the permutation of an epoch; the same on every machine."""
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def batch_indices(
    seed: int, step: int, batch_size: int, num_examples: int
) -> np.ndarray:
    """Returns the example indices [batch_size] of training step `step`.

    The epochs' permutations stand end to end in one endless row, of which step s takes
    places [s * batch_size, (s + 1) * batch_size): nothing is dropped or padded, and
    nothing need be carried to resume at any step.
    """
    start = step * batch_size
    stop = start + batch_size
    first_epoch, last_epoch = start // num_examples, (stop - 1) // num_examples
    row = np.concatenate(
        [
            epoch_order(seed, epoch, num_examples)
            for epoch in range(first_epoch, last_epoch + 1)
        ]
    )
    offset = first_epoch * num_examples
    return row[start - offset : stop - offset]


def train_batches(
    split: Split, seed: int, batch_size: int, first_step: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields {"image": uint8 [b, h, w, c], "label": int32 [b]}, from a step on.

    It never ends, and is a function of its arguments alone: started at any step it
    goes on as if it had never stopped.
    """
    step = first_step
    while True:
        indices = batch_indices(seed, step, batch_size, len(split.labels))
        yield {"image": split.images[indices], "label": split.labels[indices]}
        step += 1


def eval_batches(split: Split, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example once, in order, with "mask" float32 [b]: 0 where padded.

    The last batch repeats its first example up to `batch_size`, so that one compiled
    program serves all batches and sums weighted by the mask are exact.
    """
    num_examples = len(split.labels)
    for start in range(0, num_examples, batch_size):
        indices = np.arange(start, start + batch_size)
        mask = indices < num_examples
        indices[~mask] = start
        yield {
            "image": split.images[indices],
            "label": split.labels[indices],
            "mask": mask.astype(np.float32),
        }
