"""Training, from a Config to its result. Reads top to bottom."""

import dataclasses
import math
import platform
from contextlib import closing
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np

import tljax
from tljax import parallel, workdirs
from tljax.checkpoint import Checkpoints
from tljax.config import Config, validate
from tljax.data import loader
from tljax.errors import NonFiniteError
from tljax.metrics import Recorder, Speed, Writer, is_due, read_late
from tljax.run import (
    Programs,
    Run,
    Start,
    begin_or_resume,
    compile_steps,
    load_given,
    prepare,
)
from tljax.signals import stop_request
from tljax.state import TrainState
from tljax.terminal import Terminal


def train_and_evaluate(config: Config, workdir: str | Path) -> dict[str, Any]:
    """Trains what `config` describes, evaluates it, and returns the result.

    All of it lies in `workdir`, and what lies there is not done again: a run goes on
    from its last checkpoint, and a finished one returns its result. Raises RunError
    for what the user can act on; its `exit_code` tells the kind.
    """
    config = validate(config)
    workdir = Path(workdir).absolute()
    with workdirs.hold(workdir, config):
        result = workdirs.read_json(workdir / "result.json")
        if result is None:
            run = prepare(config, workdir)
            if config.pretrain is not None and run.saved is None:
                train_and_evaluate(config.pretrain, workdir / "pretrain")
                given = load_given(config, run.source, workdir / "pretrain")
                run = run._replace(given=given)
            result = train(run, workdir)
            workdirs.write_json(workdir / "result.json", result)
        if config.baseline and "baseline" not in result:
            scratch = dataclasses.replace(
                config, pretrained="", pretrain=None, baseline=False
            )
            result["baseline"] = train_and_evaluate(scratch, workdir / "scratch")
            workdirs.write_json(workdir / "result.json", result)
        return result


def train(run: Run, workdir: Path) -> dict[str, Any]:
    """Trains from where the run stands, and returns the result on the test split.

    The speed in the result is None where this call took no step. Raises Stopped after
    a signal, the step being saved; NonFiniteError at the first number that is not
    finite, nothing of which is saved; CheckpointError where a state cannot be restored
    or saved.
    """
    config = run.config
    terminal = Terminal(workdir.name, config.num_steps, run.batch_size)
    terminal.say(run.describe())
    start = begin_or_resume(run)
    terminal.say(start.news)
    programs = compile_steps(run, start.state)
    terminal.say(f"both steps compiled in {programs.seconds:.1f} s")
    speed = Speed(run.batch_size)
    with (
        closing(Writer(workdir, terminal, start.step)) as writer,
        Checkpoints(workdir / "checkpoints", config) as checkpoints,
        stop_request() as stop,
    ):
        state = start.state
        recorder = Recorder(writer, speed, config.log_every)
        batches = loader.train_batches(
            run.source.splits["train"], config.seed, run.batch_size, start.step
        )
        terminal.start(start.step)
        speed.start(start.step)
        for step in range(start.step + 1, config.num_steps + 1):
            batch = parallel.shard_batch(next(batches), run.mesh)
            state, metrics = programs.train_step(state, batch)
            recorder.push(step, metrics)
            checkpoints.poll()

            last = step == config.num_steps
            eval_due = last or is_due(step, config.eval_every)
            save_due = last or is_due(step, config.checkpoint_every)
            if not (eval_due or save_due or stop):
                continue
            recorder.flush()  # Up to this step, everything is finite now.
            val = {}
            if eval_due:
                val = scalars(evaluate(run, programs, state, "val"))
                writer.write(step, "val", val)
            if save_due or stop or checkpoints.is_best(val):
                checkpoints.save(step, state, start.meta, val)
            if checkpoints.saving == step and stop:
                checkpoints.wait()
                stop.check(step)
            speed.start(step)

        checkpoints.wait()
        stop.check(config.num_steps)
        # The test split is seen once, when nothing can be chosen by it any more.
        test = evaluate(run, programs, state, "test")
        writer.write(config.num_steps, "test", scalars(test))
        stop.check(config.num_steps)
        best_step = checkpoints.best_step()

    return describe_result(run, start) | {
        **test,
        "images_per_second": speed.mean(),
        "compile_seconds": programs.seconds,
        "best_step": best_step,
    }


def evaluate(
    run: Run, programs: Programs, state: TrainState, split: str
) -> dict[str, Any]:
    """Returns the metrics of a split, exact for any batch size and device count.

    Raises NonFiniteError where the loss is not finite.
    """
    batches = loader.eval_batches(run.source.splits[split], run.batch_size)
    outputs = (
        programs.eval_step(state, parallel.shard_batch(batch, run.mesh))
        for batch in batches
    )
    sums = None
    for output in read_late(outputs):
        output = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), output)
        sums = output if sums is None else jax.tree.map(np.add, sums, output)
    summary = run.task.summarize(sums)
    if not math.isfinite(summary["loss"]):
        raise NonFiniteError(
            f"step {int(state.step)}: loss {summary['loss']} on {split} is not finite"
        )
    return summary


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """Returns those of the metrics that are single numbers."""
    return {name: value for name, value in metrics.items() if np.ndim(value) == 0}


def describe_result(run: Run, start: Start) -> dict[str, Any]:
    """Returns what a result is the result of."""
    device = run.mesh.devices.flat[0]
    return {
        "step": run.config.num_steps,
        "split": "test",
        "num_classes": len(run.source.class_names),
        "class_names": list(run.source.class_names),
        "started_from": start.meta["started_from"],
        "transform": start.meta["transform"],
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": run.mesh.size,
        },
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
            "tljax": tljax.__version__,
        },
        "config": start.meta["config"],
    }
