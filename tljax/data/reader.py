"""Reading ahead with Grain: in threads or processes, in order, never without end."""

import faulthandler
import multiprocessing
import pickle
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grain
from absl import flags

from tljax.errors import DataError, Hung

END = object()
# Time for processes to end by themselves; Python would end them with less grace.
END_SECONDS = 10.0


class Readers(NamedTuple):
    """Who reads, and how long one may wait for it.

    Attributes:
      threads: in each process; Pillow decodes and resizes outside of Python's lock.
      processes: beside this one, spawned; 0 reads in this one.
      timeout: seconds for the next element.
      buffer: elements read ahead.
    """

    threads: int
    processes: int
    timeout: float
    buffer: int = 64


def read(
    rows: Sequence,
    readers: Readers,
    first: int = 0,
    batch_size: int = 0,
    collate: Callable[[Sequence], Any] | None = None,
) -> Iterator[Any]:
    """Yields rows[first], rows[first + 1], ... in order, read ahead.

    With a `batch_size` it yields what `collate` makes of so many at a time; the last
    time there may be fewer.

    Raises DataError, after its traceback, for whatever a reader raises and where a
    process dies; Hung where nothing comes in time, its processes being killed. The
    readers end when the iterator is closed.
    """
    ready: queue.Queue = queue.Queue(maxsize=2)
    stopped = threading.Event()
    elements = open_grain(rows, readers, first)
    if batch_size:
        elements = elements.batch(batch_size, batch_fn=collate)
    worker = threading.Thread(
        target=pass_on, args=(elements, ready, stopped), daemon=True
    )
    worker.start()
    try:
        while (element := wait(ready, readers.timeout)) is not END:
            if isinstance(element, BaseException):
                traceback.print_exception(element)
                raise DataError(f"reading images failed: {describe(element)}")
            yield element
    finally:
        stopped.set()
        while worker.is_alive() and not ready.empty():  # It may wait for room.
            ready.get_nowait()
        worker.join(timeout=END_SECONDS)


def wait(ready: queue.Queue, timeout: float) -> Any:
    """Returns the next element; raises Hung where none comes in time."""
    try:
        return ready.get(timeout=timeout)
    except queue.Empty:
        faulthandler.dump_traceback(file=sys.__stderr__)
        for process in multiprocessing.active_children():
            process.kill()
        raise Hung(
            f"no image could be read for {timeout:g} s (config.data.timeout); above is "
            "what every thread was doing"
        ) from None


def open_grain(rows: Sequence, readers: Readers, first: int) -> grain.IterDataset:
    """Returns the rows from `first` on as Grain reads them."""
    dataset = grain.MapDataset.source(rows).slice(slice(first, None))
    options = grain.ReadOptions(
        num_threads=readers.threads, prefetch_buffer_size=readers.buffer
    )
    if not readers.processes:
        return dataset.to_iter_dataset(options)
    if not flags.FLAGS.is_parsed():  # Grain's processes read flags of its own.
        flags.FLAGS.mark_as_parsed()
    options_of_processes = grain.MultiprocessingOptions(
        num_workers=readers.processes,
        per_worker_buffer_size=max(readers.buffer // readers.processes, 1),
    )
    # As bytes, through a pipe: Grain sends arrays through shared memory, of which some
    # is left behind when a run ends early.
    elements = dataset.map(pickle.dumps).to_iter_dataset(options)
    return elements.mp_prefetch(options_of_processes).map(pickle.loads)


def pass_on(
    elements: grain.IterDataset, ready: queue.Queue, stopped: threading.Event
) -> None:
    """Puts elements into `ready`, until the end, a failure or a stop."""
    iterator = iter(elements)
    try:
        for element in iterator:
            if not put(ready, element, stopped):
                return
        put(ready, END, stopped)
    except BaseException as error:
        put(ready, error, stopped)
    finally:
        iterator.close()


def put(ready: queue.Queue, element: Any, stopped: threading.Event) -> bool:
    """Returns whether there was room for the element before the stop."""
    while not stopped.is_set():
        try:
            ready.put(element, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def describe(error: BaseException) -> str:
    """Returns an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
