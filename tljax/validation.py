"""What a state is worth on a split: its metrics, and pictures of what it makes."""

import math
from contextlib import closing
from typing import Any

import jax
import numpy as np

from tljax import judge as judging
from tljax import parallel
from tljax.data import examples, loader
from tljax.data.examples import Examples
from tljax.errors import NonFiniteError
from tljax.judge import Judge
from tljax.metrics import read_late
from tljax.programs import Programs
from tljax.run import Run
from tljax.state import TrainState


def evaluate(
    run: Run,
    programs: Programs,
    judge: Judge | None,
    state: TrainState,
    split: Examples,
) -> dict[str, Any]:
    """Returns the metrics of a split, exact for any batch size and device count.

    Under "ema" are those of the moving average, where one is kept. Raises
    NonFiniteError where a loss is not finite.
    """
    metrics = evaluate_variables(run, programs, judge, state.variables, split)
    if state.ema:
        metrics["ema"] = evaluate_variables(run, programs, judge, state.averaged, split)
    for summary in (metrics, metrics.get("ema", metrics)):
        if not math.isfinite(summary["loss"]):
            raise NonFiniteError(
                f"step {int(state.step)}: validation loss {summary['loss']} is not "
                "finite"
            )
    return metrics


def evaluate_variables(
    run: Run,
    programs: Programs,
    judge: Judge | None,
    variables: Any,
    split: Examples,
) -> dict[str, Any]:
    """Returns the metrics of a split for some variables, and those of their samples."""
    readers = examples.readers_of(run.config.data, split.drawings.canvas.bytes)
    batches = loader.eval_batches(split, run.batch_size, readers)
    outputs = (
        programs.eval_step(variables, batch)
        for batch in parallel.shard_batches(batches, run.mesh, whole=True)
    )
    sums = None
    for output in read_late(outputs):
        output = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), output)
        sums = output if sums is None else jax.tree.map(np.add, sums, output)
    measured = {} if judge is None else judging.measure(judge, run, variables)
    return run.task.summarize(sums) | measured


def flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Returns those of the metrics that are numbers; ema_NAME are of the average."""
    numbers = {f"ema_{name}": value for name, value in metrics.get("ema", {}).items()}
    numbers = metrics | numbers
    return {
        name: value for name, value in numbers.items() if isinstance(value, float | int)
    }


def draw(
    run: Run, programs: Programs, state: TrainState, split: Examples
) -> dict[str, np.ndarray]:
    """Returns pictures of what a state makes of a split's first images.

    Grids by name, uint8 [rows, columns, h, w, c]; none for a task whose outputs are no
    images. Drawn with the moving average where one is kept, and with the same random
    numbers every time.
    """
    if programs.draw is None:
        return {}
    readers = examples.readers_of(run.config.data, split.drawings.canvas.bytes)
    with closing(loader.eval_batches(split, run.batch_size, readers)) as batches:
        batch = parallel.shard_batch(parallel.own_part(next(batches)), run.mesh)
    variables = state.averaged if state.ema else state.variables
    return jax.device_get(programs.draw((variables, state.key), batch))
