"""Several processes that are one run: how they find each other, and who writes.

Each process has devices of its own and loads its part of every batch. What they compute
is the same in all of them; files and lines for people are the first one's.
"""

import os
import socket
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from tljax.errors import ConfigError
from tljax.signals import StopRequest

# Seconds to wait for the first process, and steps between two questions whether one of
# them has been asked to stop: a question waits for the devices.
TIMEOUT, EVERY = 60, 20
AUTO = "auto"


def connect(coordinator: str, number: int, place: int) -> None:
    """Joins the other processes of a run; does nothing for a process that is alone.

    `coordinator` is HOST:PORT of the first of `number` processes, of which this is the
    one at `place`; "auto" has JAX find all three, in Slurm, Kubernetes and others, as
    it does where `srun` has started several. Raises ConfigError where the first cannot
    be reached.
    """
    if not coordinator and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        coordinator = AUTO
    if not coordinator:
        return
    found = {}
    if coordinator != AUTO:
        check(coordinator, number, place)
        found = {
            "coordinator_address": coordinator,
            "num_processes": number,
            "process_id": place,
        }
    try:
        jax.distributed.initialize(**found, initialization_timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--coordinator={coordinator}: {reason}") from None


def check(coordinator: str, number: int, place: int) -> None:
    """Raises ConfigError for processes that there cannot be.

    JAX ends a process that cannot reach the first one with pages of text: the first is
    called here before.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--coordinator={coordinator!r} must be HOST:PORT, or auto")
    if not 0 <= place < number:
        raise ConfigError(
            f"--process_id={place} must be at least 0 and below --num_processes="
            f"{number}"
        )
    end = time.monotonic() + TIMEOUT
    while place > 0:
        try:
            socket.create_connection((host, int(port)), timeout=TIMEOUT).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConfigError(
                    f"--coordinator={coordinator}: the first process cannot be "
                    f"reached in {TIMEOUT} s: {error}"
                ) from None
            time.sleep(0.2)


def is_first() -> bool:
    """Returns whether this process is the one that writes."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns once every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agree(stop: StopRequest, step: int, count: int) -> None:
    """Has all processes stop at one step where any of them has been asked to.

    Called in each after the same calls, of which the last took `count` steps.
    """
    if not stop.alone and step // EVERY > (step - count) // EVERY:
        received = multihost_utils.process_allgather(np.array(stop.received))
        stop.signal_number = int(received.max())
