"""Training, from a Config to its result. Reads top to bottom."""

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax

from tljax import (
    batch_norm,
    checkpoint,
    host_memory,
    memory,
    parallel,
    plan_table,
    processes,
    sharding,
    workdirs,
)
from tljax import judge as judging
from tljax.batch_norm import Drift
from tljax.batches import open_splits, stored_images, train_batches
from tljax.checkpoint import Checkpoints
from tljax.config import Config, Plan, validate
from tljax.data.examples import Examples
from tljax.judge import Judge, show_classes
from tljax.metrics import Recorder, Speed, is_due, load_tensorboard, open_writer
from tljax.programs import Programs, compile_steps, lower_train_step
from tljax.recalibrate import recalibrate
from tljax.run import Run, call_lengths, load_given, prepare
from tljax.signals import stop_request
from tljax.start import Start, begin_or_resume, check_saved, enter_phase
from tljax.state import TrainState
from tljax.stopwatch import Stopwatch
from tljax.terminal import Terminal
from tljax.validation import draw, evaluate, flat
from tljax.versions import versions


def train_and_evaluate(
    config: Config, workdir: str | Path, stopwatch: Stopwatch | None = None
) -> dict[str, Any]:
    """Trains what `config` describes, evaluates it, and returns the result.

    All of it lies in `workdir`, and what lies there is not done again: a run goes on
    from its last checkpoint, and a finished one returns its result. Raises RunError
    for what the user can act on; its `exit_code` tells the kind. `stopwatch` measures
    the time to the first step, from the call of this if it is not given.
    """
    stopwatch = stopwatch or Stopwatch()
    config = validate(config)
    workdir = Path(workdir).absolute()
    with hold(workdir, config):
        result = workdirs.read_json(workdir / "result.json")
        if result is None:
            run = prepare(config, workdir)
            stopwatch.lap("data")
            run = with_pretraining(run, workdir)
            if config.pretrain is not None:
                stopwatch.lap("pretraining")
            check_saved(run, workdir)
            # The first step is traced; a thread compiles it while weights and images
            # are made ready, and the other steps while it trains.
            with (
                closing(compile_steps(run, run.first_step)) as programs,
                enough(run, programs),
            ):
                stopwatch.lap("trace")
                result = train(run, programs, workdir, stopwatch)
            write_result(workdir, result)
        if config.baseline and "baseline" not in result:
            scratch = dataclasses.replace(
                config,
                pretrained="",
                pretrain=None,
                baseline=False,
                plan=Plan(),
                optim=dataclasses.replace(config.optim, decay_towards="zero"),
            )
            result["baseline"] = train_and_evaluate(scratch, workdir / "scratch")
            write_result(workdir, result)
        return result


@contextmanager
def hold(workdir: Path, config: Config) -> Iterator[None]:
    """Keeps a workdir for this run; of several processes the first does it for all."""
    first = processes.is_first()
    with workdirs.hold(workdir, config) if first else nullcontext():
        processes.wait_for_all(f"{workdir} is held")
        yield


@contextmanager
def enough(run: Run, programs: Programs) -> Iterator[None]:
    """Raises RunError in place of JAX's error where a device has no memory left."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).split("\n")[0]
        raise memory.none_left(run, programs.compiled(), reason) from None


def write_result(workdir: Path, result: dict[str, Any]) -> None:
    """Writes WORKDIR/result.json; of several processes the first does."""
    if processes.is_first():
        workdirs.write_json(workdir / "result.json", result)


def with_pretraining(run: Run, workdir: Path) -> Run:
    """Returns the run with the weights of the run that is to be made before it.

    That one is made, or found finished, in WORKDIR/pretrain.
    """
    if run.config.pretrain is None or run.saved is not None:
        return run
    lower_train_step(run, run.plan.phases[0])  # What is wrong with it ends the run now.
    train_and_evaluate(run.config.pretrain, workdir / "pretrain")
    given = load_given(run.config, run.source, workdir / "pretrain")
    return run._replace(given=given)


def train(
    run: Run, programs: Programs, workdir: Path, stopwatch: Stopwatch
) -> dict[str, Any]:
    """Trains from where the run stands, and returns the result on the test split.

    The speed in the result is None where this call took no step. Raises Stopped after
    a signal, the step being saved; NonFiniteError at the first number that is not
    finite, nothing of which is saved; CheckpointError where a state cannot be restored
    or saved.
    """
    config = run.config
    shown = processes.is_first()
    terminal = Terminal(workdir.name, config.num_steps, run.batch_size, shown)
    terminal.say(run.describe())
    for note in run.source.notes:
        terminal.say(note)
    terminal.say(run.storage.news)
    start = begin_or_resume(run, workdir)
    terminal.say(start.news)
    if config.shard_params:
        terminal.say(describe_shares(run, start.state))
    for line in plan_table.lines(run):
        terminal.say(line)
    stopwatch.lap("weights")
    splits = open_splits(run, terminal)
    skipped = splits["train"].skipped
    stopwatch.lap("data")
    first_program = programs.train_steps[run.plan.phase_of(start.step).start]
    if shown:
        load_tensorboard()  # While it is compiled.
    first_program.wait()  # Before a judge is trained for it.
    stopwatch.lap("waiting")
    judge = make_judge(run, splits["train"], workdir)
    if judge is not None:
        stopwatch.lap("judge")
    speed = Speed(run.batch_size)
    with (
        closing(open_writer(workdir, terminal, start.step)) as writer,
        Checkpoints(workdir / "checkpoints", config) as checkpoints,
        closing(
            train_batches(run, splits["train"], start.step, config.steps_per_call)
        ) as batches,
        stop_request(alone=jax.process_count() == 1) as stop,
    ):
        stored = stored_images(run, splits["train"])
        phase = run.plan.phase_of(max(start.step - 1, 0))
        state, validations = start.state, list(start.meta.get("validations", ()))
        start = start._replace(state=None)  # Its buffers are not to outlive a step.
        if start.step == 0:
            state, moved = recalibrate(run, state, splits["train"], stored)
            show_drift(moved, workdir, terminal)
        warn = functools.partial(run.task.warn, config=config)
        recorder = Recorder(writer, speed, config.log_every, warn)
        terminal.start(start.step)
        speed.start(start.step)
        step = start.step
        for count in call_lengths(run, start.step):
            if is_exhausted(validations, run):
                break
            if run.plan.phase_of(step) != phase:
                recorder.flush()
                phase = run.plan.phase_of(step)
                state = enter_phase(run, state, phase)
                speed.start(step)
                now = plan_table.names(run, phase)
                terminal.say(f"from step {step + 1} on, what trains: {now}")
            train_steps = programs.step(phase)
            state, metrics = train_steps(state, next(batches), stored)
            if step == start.step:
                jax.block_until_ready(metrics)
                stopwatch.lap("first step")
                terminal.say(stopwatch.line(first_program.compiling))
                programs.begin()
            step += count
            recorder.push(step, metrics, count)
            processes.agree(stop, step, count)
            checkpoints.poll()

            last = step == config.num_steps
            eval_due = last or is_due(step, config.eval_every)
            save_due = last or is_due(step, config.checkpoint_every)
            if not (eval_due or save_due or stop):
                continue
            recorder.flush()  # Up to this step, everything is finite now.
            val = {}
            if eval_due:
                val = validate_at(step, run, programs, judge, state, splits, writer)
                validations.append([step, val["score"]])
            wanted = save_due or checkpoints.is_best(val)
            if wanted or stop:
                # A copy: it is written while the run goes on.
                meta = start.meta | {"validations": list(validations)}
                checkpoints.save(step, state, meta, val if wanted else {})
            if checkpoints.saving == step and stop:
                checkpoints.wait()
                stop.check(step)
            speed.start(step)

        checkpoints.wait()
        if is_exhausted(validations, run):
            terminal.say(f"{config.patience} validations without a better one: ended")
        best_step = checkpoints.best_step()
        if config.patience and best_step != step:
            step, state = best_step, go_back(run, checkpoints, best_step)
            terminal.say(f"back to step {step}, the best in validation")
        stop.check(step)
        result = final_result(step, run, programs, judge, state, splits, writer)
        if judge is not None and processes.is_first():
            show_classes(judge, run, result, workdir / "pictures" / "classes.png")
        stop.check(step)

    return describe_result(run, start) | {
        "step": step,
        **result,
        "skipped": skipped.reasons,
        "host_memory_mb": host_memory.peak() / 1e6,
        "images_per_second": speed.mean(),
        "compile_seconds": programs.seconds,
        "best_step": best_step,
    }


def validate_at(
    step: int,
    run: Run,
    programs: Programs,
    judge: Judge | None,
    state: TrainState,
    splits: dict[str, Examples],
    writer: Any,
) -> dict[str, float]:
    """Returns what a state is worth in validation; writes it, and draws pictures.

    "score" among it tells the best step, which has the most: that of the average of the
    weights, where one is kept.
    """
    found = flat(evaluate(run, programs, judge, state, splits["val"]))
    writer.write(step, "val", found)
    writer.show(step, draw(run, programs, state, splits["val"]))
    name, sign = run.task.SCORE
    return found | {"score": sign * found.get(f"ema_{name}", found[name])}


def final_result(
    step: int,
    run: Run,
    programs: Programs,
    judge: Judge | None,
    state: TrainState,
    splits: dict[str, Examples],
    writer: Any,
) -> dict[str, Any]:
    """Returns what a state is worth on the test split, or the one in its place.

    The test is seen once, when nothing can be chosen by it any more.
    """
    split = run.source.result_split()
    result = evaluate(run, programs, judge, state, splits[split])
    if split == "test":
        writer.write(step, split, flat(result))
    return result


def describe_shares(run: Run, state: TrainState) -> str:
    """Returns one line on what of the state each device holds."""
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    share = sharding.bytes_on_a_device(state, run.placements(state))
    return (
        f"of the state, {whole / 1e6:,.1f} MB, each of {run.mesh.size} devices holds "
        f"{share / 1e6:,.1f} MB, {share / whole:.0%}"
    )


def make_judge(run: Run, split: Examples, workdir: Path) -> Judge | None:
    """Returns what measures samples of a GAN, None for another task.

    The judge of `config.judge` is trained, or found finished, in WORKDIR/judge.
    """
    if run.config.task != "gan":
        return None
    if run.config.judge is not None:
        train_and_evaluate(run.config.judge, workdir / "judge")
    return judging.open_judge(run, split, workdir)


def show_drift(moved: list[Drift], workdir: Path, terminal: Terminal) -> None:
    """Says how far statistics have moved, and writes WORKDIR/batch_norm.csv."""
    if not moved:
        return
    terminal.say("BatchNorm recalibrated on training images")
    for line in batch_norm.lines(moved):
        terminal.say(line)
    if processes.is_first():
        workdirs.write_csv(workdir / "batch_norm.csv", batch_norm.drift_rows(moved))


def is_exhausted(validations: list[list[float]], run: Run) -> bool:
    """Returns whether the last `patience` validations are no better than one before.

    Those of the last phase alone are counted: what joins later is to have its turn.
    """
    patience, start = run.config.patience, run.plan.phases[-1].start
    scores = [score for step, score in validations if step > start]
    before, last = scores[:-patience], scores[-patience:]
    return bool(patience and before) and max(last) <= max(before)


def go_back(run: Run, checkpoints: Checkpoints, step: int) -> TrainState:
    """Returns the state saved at a step, after which nothing is saved any more."""
    wanted = run.abstract_state(run.plan.phase_of(step - 1))
    folder = checkpoints.directory / str(step)
    state = checkpoint.restore(folder, wanted, run.placements(wanted))
    checkpoints.go_back(step)
    return state


def describe_result(run: Run, start: Start) -> dict[str, Any]:
    """Returns what a result is the result of."""
    return {
        "split": run.source.result_split(),
        "num_classes": len(run.source.class_names),
        "class_names": list(run.source.class_names),
        "started_from": start.meta["started_from"],
        "transform": start.meta["transform"],
        "data": {"fingerprint": start.meta["fingerprint"], "cache": run.storage.cache},
        "device": parallel.describe(run.mesh),
        "versions": versions(),
        "config": start.meta["config"],
    }
