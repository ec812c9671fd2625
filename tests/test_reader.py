"""Reading ahead: order, failures of every kind, nothing left behind."""

import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tljax.data import reader
from tljax.data.reader import Readers
from tljax.errors import DataError, Hung


class Rows(Sequence):
    """Its own indices; at 7 something happens."""

    def __init__(self, event="", length=10**6):
        self.event = event
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, place):
        if place == 7 and self.event == "raise":
            raise ValueError("the seventh")
        if place == 7 and self.event == "hang":
            time.sleep(4 if multiprocessing.parent_process() is None else 600)
        if place == 7 and self.event == "die":
            os._exit(3)
        return int(place)


def readers(processes=0, timeout=30.0):
    return Readers(threads=3, processes=processes, timeout=timeout, buffer=8)


def test_rows_come_in_order_from_any_place():
    found = reader.read(Rows(length=40), readers(), first=33)
    assert list(found) == list(range(33, 40))


def test_batches_are_collated_and_the_last_may_be_short():
    found = reader.read(Rows(length=10), readers(), 0, batch_size=4, collate=list)
    assert list(found) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_reader_that_raises_ends_in_one_line_after_its_traceback(capsys):
    found = reader.read(Rows("raise"), readers())
    assert [next(found) for _ in range(7)] == list(range(7))
    with pytest.raises(DataError, match="reading images failed: ValueError: the sev"):
        next(found)
    assert "in __getitem__" in capsys.readouterr().err


def test_a_reader_that_hangs_ends_in_time():
    found = reader.read(Rows("hang"), readers(timeout=0.5))
    start = time.monotonic()
    with pytest.raises(Hung, match=r"no image could be read for 0.5 s"):
        list(found)
    assert time.monotonic() - start < 10


def test_a_closed_reader_leaves_no_thread():
    before = threading.active_count()
    found = reader.read(Rows(), readers())
    next(found)
    found.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def shared_memory():
    """Returns the names of what lies in shared memory, but for semaphores in use."""
    names = {path.name for path in Path("/dev").glob("shm/*")}
    return {name for name in names if not name.startswith("sem.")}


@pytest.mark.slow
@pytest.mark.parametrize("event", ["", "raise", "hang", "die"])
def test_processes(event):
    """In order; a failure of any kind ends in time and leaves nothing behind."""
    before = shared_memory()
    found = reader.read(Rows(event), readers(2, timeout=15 if event == "hang" else 60))
    if event:
        with pytest.raises(DataError):
            list(found)
    else:
        assert [next(found) for _ in range(20)] == list(range(20))
    found.close()
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not multiprocessing.active_children()
    assert shared_memory() <= before


class ArrayRows(Rows):
    """Rows of a size for which shared memory would be used."""

    def __getitem__(self, place):
        return np.full(10_000, place)


@pytest.mark.slow
def test_arrays_from_processes_leave_no_shared_memory():
    before = shared_memory()
    with closing(reader.read(ArrayRows(), readers(2))) as found:
        assert [next(found)[-1] for _ in range(20)] == list(range(20))
    assert shared_memory() <= before
