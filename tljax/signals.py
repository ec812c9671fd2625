"""Signals that ask a run to stop."""

import contextlib
import os
import signal
from collections.abc import Iterator

from tljax.errors import Stopped


class StopRequest:
    """Whether a signal has asked the run to stop: its number, 0 until then.

    Where the process is not `alone`, what it has `received` counts once all processes
    of the run know of it.
    """

    def __init__(self, alone: bool = True):
        self.alone = alone
        self.received = 0
        self.signal_number = 0

    def __bool__(self) -> bool:
        return self.signal_number != 0

    def receive(self, signal_number: int, frame) -> None:
        """Notes the first signal; the second ends the process at once."""
        if self.received:
            if os.isatty(1):
                os.write(1, b"\x1b[?25h")  # The progress bar has hidden the cursor.
            os._exit(128 + signal_number)
        self.received = signal_number
        if self.alone:
            self.signal_number = signal_number
        name = signal.Signals(signal_number).name
        lead = "\n" if os.isatty(2) else ""  # The line of the progress bar is taken.
        notice = f"{lead}tljax: {name}: saving, then stopping; again to stop at once\n"
        os.write(2, notice.encode())

    def check(self, step: int) -> None:
        """Raises Stopped where a signal has come; `step` is the one saved."""
        if self:
            name = signal.Signals(self.signal_number).name
            raise Stopped(
                f"stopped by {name} at step {step}, which is saved; the same command "
                "goes on from there",
                self.signal_number,
            )


@contextlib.contextmanager
def stop_request(alone: bool = True) -> Iterator[StopRequest]:
    """Gives a StopRequest that SIGTERM and SIGINT set while the context lasts.

    JAX and Orbax save on SIGTERM only under `jax.distributed`; this needs no cluster.
    Only the main thread may handle signals: elsewhere nothing is installed.
    """
    request = StopRequest(alone)
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
