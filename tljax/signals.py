"""Signals that ask a run to stop."""

import contextlib
import os
import signal
from collections.abc import Iterator


class StopRequest:
    """Whether a signal has asked the run to stop: `signal_number`, 0 until then."""

    signal_number = 0

    @property
    def name(self) -> str:
        """The signal's name, e.g. "SIGTERM"."""
        return signal.Signals(self.signal_number).name

    def __bool__(self) -> bool:
        return self.signal_number != 0

    def receive(self, signal_number: int, frame) -> None:
        """Notes the first signal; the second ends the process at once."""
        if self.signal_number:
            os._exit(128 + signal_number)
        self.signal_number = signal_number


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Gives a StopRequest that SIGTERM and SIGINT set while the context lasts.

    JAX and Orbax save on SIGTERM only under `jax.distributed`; this needs no cluster.
    Only the main thread may handle signals: elsewhere nothing is installed.
    """
    request = StopRequest()
    try:
        before = {
            number: signal.signal(number, request.receive)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
    except ValueError:
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
