"""The compiled steps of a run: one of training for each phase, one of evaluation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tljax import parallel
from tljax.data import views
from tljax.errors import ConfigError
from tljax.plan import Phase
from tljax.run import Run


class Programs(NamedTuple):
    """Compiled steps.

    Attributes:
      train_steps: first step of a phase -> `train_step(state, batch, stored)`, which
        takes `config.steps_per_call` steps.
      eval_step: `eval_step(variables, batch)`.
      draw: `draw((variables, key), batch)`, pictures by name; None for a classifier.
      seconds: that tracing and compiling them took.
    """

    train_steps: dict[int, jax.stages.Compiled]
    eval_step: jax.stages.Compiled
    draw: jax.stages.Compiled | None
    seconds: float


def compile_steps(run: Run, first_step: int = 0) -> Programs:
    """Returns the steps that a run takes after `first_step`, and that of evaluation.

    Raises ConfigError where the model cannot be trained on such a batch.
    """
    first = run.plan.phase_of(first_step)
    train_steps, seconds = {}, 0.0
    for phase in run.plan.phases:
        if phase.start >= first.start:
            train_steps[phase.start], took = compile_train_step(
                run, phase, run.config.steps_per_call
            )
            seconds += took
    eval_step = functools.partial(
        run.task.eval_step, model=run.model, transform=run.transform, config=run.config
    )
    eval_program, took = parallel.compile_step(
        eval_step,
        run.abstract_state().variables,
        run.abstract_batch("val"),
        mesh=run.mesh,
        mode=run.config.compile,
    )
    draw, drawing = compile_draw(run)
    return Programs(train_steps, eval_program, draw, seconds + took + drawing)


def compile_draw(run: Run) -> tuple[jax.stages.Compiled | None, float]:
    """Returns what draws pictures, None for a task without, and the seconds."""
    draw = getattr(run.task, "draw", None)
    if draw is None:
        return None, 0.0
    options = {"model": run.model, "transform": run.transform, "config": run.config}
    key = jax.eval_shape(lambda: jax.random.key(0))
    return parallel.compile_step(
        lambda parts, batch: draw(parts[0], batch, parts[1], **options),
        (run.abstract_state().variables, key),
        run.abstract_batch("val"),
        mesh=run.mesh,
    )


def compile_train_step(
    run: Run, phase: Phase, steps_per_call: int = 1
) -> tuple[jax.stages.Compiled, float]:
    """Returns the step of a phase, and the seconds that compiling it took.

    The program takes over the buffers of the state. Raises as `compile_steps`.
    """
    try:
        return parallel.compile_step(
            train_step(run, phase),
            run.abstract_state(phase),
            abstract_batches(run, steps_per_call),
            run.abstract_stored(),
            mesh=run.mesh,
            mode=run.config.compile,
            steps_per_call=steps_per_call,
            donate_state=True,
        )
    except ValueError as error:
        if "BatchNorm" not in str(error):
            raise
        raise ConfigError(
            f"batch {run.batch_size} of images of {run.image_shape[0]} px: {error}"
        ) from error


def abstract_batches(run: Run, number: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of so many training batches as a step takes them."""
    batch = run.abstract_batch("train")
    if number == 1:
        return batch
    several = {
        name: jax.ShapeDtypeStruct((number, *leaf.shape), leaf.dtype)
        for name, leaf in batch.items()
    }
    return several | {"steps": jax.ShapeDtypeStruct((), jnp.int32)}


def train_step(run: Run, phase: Phase) -> Callable[..., Any]:
    """Returns `train_step(state, batch, stored)` of a run in one of its phases."""
    labels = run.source.splits["train"].labels
    num_classes = len(run.source.class_names)
    step = functools.partial(
        run.task.train_step,
        model=run.model,
        tx=run.tx,
        schedule=run.schedule,
        phase=phase,
        transform=run.transform,
        config=run.config,
        **run.task.know_labels(run.config, labels, num_classes),
    )
    return lambda state, batch, stored: step(state, views.gather(batch, stored))
