"""Recalibration: the BatchNorm statistics of a run measured on its training images."""

from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

import jax

from tljax import batch_norm, parallel
from tljax.batch_norm import Drift
from tljax.batches import train_batches
from tljax.data.examples import Examples
from tljax.run import Run
from tljax.start import begin_with
from tljax.state import TrainState


class Meter(NamedTuple):
    """What measures statistics, for all variables of a run's model.

    Attributes:
      run: whose images are looked at, as training sees them.
      layers: the BatchNorm layers whose statistics are measured.
      split: the training images.
      stored: those of them that lie on the devices.
      number: of batches: one epoch at most.
      program: the compiled `batch_norm.add_batch`.
    """

    run: Run
    layers: frozenset[str]
    split: Examples
    stored: dict[str, jax.Array]
    number: int
    program: jax.stages.Compiled


def open_meter(
    run: Run,
    layers: frozenset[str],
    frozen: frozenset[str],
    split: Examples,
    stored: dict[str, jax.Array],
) -> Meter:
    """Returns what measures `layers`, while those `frozen` use their statistics."""
    config = run.config
    program = batch_norm.compile_add(
        run.abstract_state().variables,
        layers,
        run.abstract_batch("train"),
        run.abstract_stored(),
        mesh=run.mesh,
        mode=config.compile,
        model=run.model.clone(frozen_statistics=frozen),
        transform=run.transform,
        operations=config.data.augment,
        key=jax.random.key(config.seed),
    )
    epoch = len(split.split.labels) // run.batch_size
    number = min(config.plan.recalibration_batches, epoch)
    return Meter(run, layers, split, stored, number, program)


def measure(meter: Meter, variables: Any) -> Any:
    """Returns variables, which are on the devices, with statistics measured anew."""
    run = meter.run
    with closing(train_batches(run, meter.split, 0)) as batches:
        return batch_norm.measure(
            meter.program,
            variables,
            meter.layers,
            islice(batches, meter.number),
            meter.stored,
            run.mesh,
        )


def recalibrate(
    run: Run, state: TrainState, split: Examples, stored: dict[str, jax.Array]
) -> tuple[TrainState, list[Drift]]:
    """Returns the first state as the plan recalibrates it, and how far layers moved.

    Without a row that asks for it, the state as it is and nothing.
    """
    layers = run.plan.recalibrated
    if not layers:
        return state, []
    frozen = run.plan.phases[0].frozen_statistics - layers
    meter = open_meter(run, layers, frozen, split, stored)
    variables = measure(meter, parallel.replicate(state.variables, run.mesh))
    moved = batch_norm.drift(state.batch_stats, variables["batch_stats"])
    moved = [row for row in moved if row.layer in layers]
    return begin_with(run, state, variables), moved
