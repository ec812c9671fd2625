"""The compiled steps of a run: one of training for each phase, one of evaluation."""

import functools
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tljax import memory, parallel
from tljax.data import views
from tljax.errors import ConfigError, RunError
from tljax.plan import Phase
from tljax.run import Run

# The steps of a run from which on they are compiled at every start where that makes
# them faster. On an Intel Xeon a ResNet-50 takes 100 steps to make up for it, and 20 in
# bfloat16; a ResNet-18 at 64 px about 1,000.
LONG = 1000


class Program:
    """A program that a thread compiles; what calls it waits for it."""

    def __init__(
        self,
        worker: Executor,
        lower: Callable[[], jax.stages.Lowered],
        check: Callable[[jax.stages.Compiled], None] = lambda compiled: None,
        unkept: bool = False,
    ):
        """What `lower` returns is compiled by the worker, and then checked.

        `unkept` says that it `parallel.calls_library`, and is not to be kept on disk.
        `tracing` and `compiling` are the seconds of both, once they are done.
        """
        self.worker = worker
        self.lower = lower
        self.check = check
        self.unkept = unkept
        self.tracing = self.compiling = 0.0
        self.future: Future | None = None

    def begin(self) -> None:
        """Has it traced and compiled."""
        if self.future is None:
            self.future = self.worker.submit(lambda: self.compile(self.trace()))

    def begin_traced(self) -> None:
        """Traces it here and now, and has it compiled.

        Tracing holds the interpreter's lock, as drawing first values does: beside one
        another either takes longer than both in turn. Compiling does not hold it.
        """
        if self.future is None:
            self.future = self.worker.submit(self.compile, self.trace())

    def trace(self) -> jax.stages.Lowered:
        """Returns the program, traced, and notes what it took."""
        start = time.perf_counter()
        lowered = self.lower()
        self.tracing = time.perf_counter() - start
        return lowered

    def compile(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        """Returns the program, compiled and checked, and notes what it took."""
        start = time.perf_counter()
        compiled = parallel.compile_lowered(lowered, self.unkept)
        self.compiling = time.perf_counter() - start
        self.check(compiled)
        return compiled

    def is_made(self) -> bool:
        """Returns whether nobody has to wait for it any more."""
        return self.future is not None and self.future.done()

    def wait(self) -> jax.stages.Compiled:
        """Returns it when it is compiled; raises what went wrong."""
        self.begin()
        return self.future.result()

    def __call__(self, *args: Any) -> Any:
        """Returns what the program does of its arguments."""
        return self.wait()(*args)


class Programs(NamedTuple):
    """The steps of a run, compiled one after another when they are begun, or used.

    Attributes:
      train_steps: first step of a phase -> `train_step(state, batch, stored)`, which
        takes `config.steps_per_call` steps.
      eval_step: `eval_step(variables, batch)`.
      draw: `draw((variables, key), batch)`, pictures by name; None for a classifier.
      worker: the thread.
    """

    train_steps: dict[int, Program]
    eval_step: Program
    draw: Program | None
    worker: Executor

    @property
    def seconds(self) -> float:
        """What tracing and compiling all of them took; waits for the last."""
        programs = self.all()
        for program in programs:
            program.wait()
        return sum(program.tracing + program.compiling for program in programs)

    def all(self) -> list[Program]:
        """Returns every program."""
        programs = [*self.train_steps.values(), self.eval_step, self.draw]
        return [program for program in programs if program is not None]

    def step(self, phase: Phase) -> Program:
        """Returns the step of a phase in which training goes on; waits for it.

        Raises RunError where it cannot be had, or that of a later phase, as soon as
        this is known.
        """
        wanted = self.train_steps[phase.start]
        try:
            for program in self.train_steps.values():
                if program is wanted or program.is_made():
                    program.wait()
        except ConfigError as error:  # It is not what the run begins with.
            raise RunError(str(error)) from None
        return wanted

    def compiled(self) -> list[jax.stages.Compiled]:
        """Returns the steps of training that are compiled; waits for none."""
        made = [each for each in self.train_steps.values() if each.is_made()]
        return [each.wait() for each in made if each.future.exception() is None]

    def begin(self) -> None:
        """Has all of them compiled."""
        for program in self.all():
            program.begin()

    def close(self) -> None:
        """Has nothing more compiled."""
        self.worker.shutdown(wait=False, cancel_futures=True)


def compile_steps(run: Run, first_step: int = 0) -> Programs:
    """Returns the steps that a run takes after `first_step`, and that of evaluation.

    The first of training is traced, which raises ConfigError where the model cannot be
    trained on such a batch; that it is compiled is not waited for. When they are first
    used, the others raise the same, and all where a device has too little memory.
    """
    worker = ThreadPoolExecutor(1, "compile")
    first = run.plan.phase_of(first_step)
    size = run.config.steps_per_call
    check = functools.partial(memory.check, run)
    unkept = parallel.calls_library(run.mesh, is_long(run))
    train_steps = {
        phase.start: Program(
            worker,
            functools.partial(lower_train_step, run, phase, size),
            check,
            unkept,
        )
        for phase in run.plan.phases
        if phase.start >= first.start
    }
    train_steps[first.start].begin_traced()
    eval_step = Program(worker, functools.partial(lower_eval_step, run), unkept=unkept)
    draw = None
    if hasattr(run.task, "draw"):
        draw = Program(worker, functools.partial(lower_draw, run))
    return Programs(train_steps, eval_step, draw, worker)


def is_long(run: Run) -> bool:
    """Returns whether a run has so many steps that they are worth compiling anew.

    Of all its steps, not of those that are left: one that is resumed has the programs
    that it began with.
    """
    return run.config.num_steps >= LONG


def lower_eval_step(run: Run) -> jax.stages.Lowered:
    """Returns the step of evaluation, traced."""
    eval_step = functools.partial(
        run.task.eval_step, model=run.model, transform=run.transform, config=run.config
    )
    return parallel.lower_step(
        eval_step,
        run.abstract_state().variables,
        run.abstract_batch("val"),
        mesh=run.mesh,
        mode=run.config.compile,
        shard_params=run.config.shard_params,
        infers=True,
        often=is_long(run),
    )


def lower_draw(run: Run) -> jax.stages.Lowered:
    """Returns what draws pictures, traced."""
    options = {"model": run.model, "transform": run.transform, "config": run.config}
    key = jax.eval_shape(lambda: jax.random.key(0))
    return parallel.lower_step(
        lambda parts, batch: run.task.draw(parts[0], batch, parts[1], **options),
        (run.abstract_state().variables, key),
        run.abstract_batch("val"),
        mesh=run.mesh,
        shard_params=run.config.shard_params,
    )


def compile_train_step(run: Run, phase: Phase) -> tuple[jax.stages.Compiled, float]:
    """Returns the single step of a phase, and the seconds that compiling it took."""
    start = time.perf_counter()
    unkept = parallel.calls_library(run.mesh, is_long(run))
    compiled = parallel.compile_lowered(lower_train_step(run, phase), unkept)
    return compiled, time.perf_counter() - start


def lower_train_step(
    run: Run, phase: Phase, steps_per_call: int = 1
) -> jax.stages.Lowered:
    """Returns the step of a phase, traced.

    The program takes over the buffers of the state. Raises ConfigError where the model
    cannot be trained on such a batch.
    """
    try:
        return parallel.lower_step(
            train_step(run, phase),
            run.abstract_state(phase),
            abstract_batches(run, steps_per_call),
            run.abstract_stored(),
            mesh=run.mesh,
            mode=run.config.compile,
            steps_per_call=steps_per_call,
            donate_state=True,
            shard_params=run.config.shard_params,
            often=is_long(run),
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
