"""The very training steps of a run, for the benchmarks that time them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from tljax.batches import open_splits, stored_images, train_batches
from tljax.config import Config, validate
from tljax.programs import compile_steps
from tljax.run import Run, prepare
from tljax.start import begin_or_resume
from tljax.terminal import Terminal


class Steps(NamedTuple):
    """The first phase of a run.

    Attributes:
      run: its parts.
      program: the compiled step.
      take: takes so many steps and waits for them.
    """

    run: Run
    program: jax.stages.Compiled
    take: Callable[[int], None]


def prepare_steps(config: Config, workdir: Path) -> Steps:
    """Returns the steps of a run, the first of them done; raises ConfigError."""
    run = prepare(validate(config))
    workdir.mkdir()
    start = begin_or_resume(run, workdir)
    program = compile_steps(run).train_steps[0].wait()
    split = open_splits(run, Terminal("", 1, 1))["train"]
    stored = stored_images(run, split)
    batches = train_batches(run, split, 0)
    state = start.state

    def take(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = program(state, next(batches), stored)
        jax.block_until_ready(metrics)

    take(1)
    return Steps(run, program, take)
