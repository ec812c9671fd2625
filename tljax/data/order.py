"""The order of training examples: a function of (seed, epoch, index) alone."""

from typing import NamedTuple

import numpy as np


class Order:
    """Epochs end to end in one endless row of example numbers.

    An epoch holds every example once. Where classes are balanced, it gives every class
    the same number of places, or one more, and the examples of a class take turns: none
    is seen twice more often than another of its class.
    """

    def __init__(self, seed: int, labels: np.ndarray, balanced: bool = False):
        self.seed = seed
        self.labels = labels
        self.balanced = balanced
        self.recent: dict[int, np.ndarray] = {}

    def epoch(self, epoch: int) -> np.ndarray:
        """Returns the examples of an epoch in order; the same on every machine."""
        found = self.recent.get(epoch)
        if found is None:
            found = self.permutation(len(self.labels), epoch)
            if self.balanced:
                found = self.balance(epoch)[found]
            # Two, as a batch may lie across the end of one.
            latest = list(self.recent.items())[-1:]
            self.recent = {**dict(latest), epoch: found}
        return found

    def permutation(self, size: int, *numbers: int) -> np.ndarray:
        """Returns the permutation of range(size) that belongs to these numbers."""
        return np.random.default_rng((self.seed, *numbers)).permutation(size)

    def balance(self, epoch: int) -> np.ndarray:
        """Returns the examples of an epoch by class.

        The classes take turns along the places of all epochs, and the examples of a
        class along the turns of the class, in a new permutation each time round.
        """
        size = len(self.labels)
        classes = np.unique(self.labels)
        places = np.arange(epoch * size, (epoch + 1) * size)
        chosen = np.empty(size, np.int64)
        for rank, label in enumerate(classes):
            members = np.flatnonzero(self.labels == label)
            mine = np.flatnonzero(places % len(classes) == rank)
            turns = places[mine] // len(classes)
            for time_round in np.unique(turns // len(members)):
                now = turns // len(members) == time_round
                order = self.permutation(len(members), int(label), int(time_round))
                chosen[mine[now]] = members[order[turns[now] % len(members)]]
        return chosen

    def examples(self, start: int, stop: int) -> np.ndarray:
        """Returns the examples at the places [start, stop) of the row."""
        size = len(self.labels)
        pieces = [
            self.epoch(epoch)[max(start - epoch * size, 0) : stop - epoch * size]
            for epoch in range(start // size, (stop - 1) // size + 1)
        ]
        return np.concatenate(pieces)


class Course(NamedTuple):
    """Which places of an order a step takes, and which of them this process loads.

    Step s has places [s * batch_size, (s + 1) * batch_size) of the row: nothing is
    dropped or padded, and nothing need be carried to resume at any step. Process i of n
    takes the i-th of n equal parts of them.
    """

    order: Order
    batch_size: int
    process: int = 0
    processes: int = 1

    @property
    def share(self) -> int:
        """Examples of a batch that this process loads."""
        return self.batch_size // self.processes

    def example(self, number: int) -> int:
        """Returns the example that this process loads as its `number`-th, from 0."""
        step, place = divmod(number, self.share)
        place += step * self.batch_size + self.process * self.share
        return int(self.order.examples(place, place + 1)[0])

    def examples(self, step: int) -> np.ndarray:
        """Returns the examples [share] of step `step`, from 0."""
        start = step * self.batch_size + self.process * self.share
        return self.order.examples(start, start + self.share)
