"""Where training begins: at what is saved, at given weights, or at random ones."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from tljax import checkpoint, initial, parallel, processes, workdirs
from tljax.data import sources, transforms
from tljax.errors import CheckpointError, DataError
from tljax.plan import Phase
from tljax.pretrained import transplant
from tljax.run import Run, Saved
from tljax.state import TrainState


class Start(NamedTuple):
    """Where training begins or goes on.

    Attributes:
      state: the state at `step`, on the devices.
      step: steps already done.
      meta: what is saved beside every state: config, class names, transform, origin,
        the rows of the plan, and the validations so far, [step, score] each.
      news: one line on how the state came to be.
    """

    state: TrainState
    step: int
    meta: dict[str, Any]
    news: str


def begin_or_resume(run: Run, workdir: Path) -> Start:
    """Returns the start of a run: saved beats given beats random.

    What the images are is kept in the workdir. Raises CheckpointError for a checkpoint
    that is damaged.
    """
    if run.saved is not None:
        return resume(run, run.saved)
    meta = {
        "config": workdirs.as_json(run.config),
        "class_names": list(run.source.class_names),
        "transform": transforms.as_json(run.transform),
        "fingerprint": run.source.fingerprint(),
        "plan": [dataclasses.asdict(row) for row in run.plan.rows.values()],
        "validations": [],
    }
    if processes.is_first():
        workdirs.write_entries(workdir, run.source.entries)
    state, news = begin(run)
    meta["started_from"] = "scratch" if run.given is None else run.given.origin
    return Start(state, 0, meta, news)


def begin(run: Run) -> tuple[TrainState, str]:
    """Returns the state before the first step, on the devices, and how it came to be.

    The weights are those given, or random ones: random values that given weights take
    the place of are not even drawn.
    """
    news = f"images: {run.transform.describe()}"
    device = run.mesh.local_devices[0]
    if run.given is None:
        state = initial.evaluate(run.create_state, device=device)
        return parallel.place(state, run.placements(state)), f"from scratch; {news}"
    keeps_head = run.keeps_head()
    drawn = ("step", "key") if keeps_head else ("step", "key", transplant.HEAD)
    wanted = lambda path: path.startswith(drawn)  # noqa: E731
    state = initial.evaluate(run.create_state, wanted, device)
    variables, line = transplant.transplant(run.given, state.variables, keeps_head)
    state = state.replace(**variables, opt_state={}, ema={})
    state = parallel.place(state, run.placements(state))
    state = enter_phase(run, state, run.plan.phases[0])
    if run.transform[2:] != run.given.transform[2:]:
        news += f"; the weights were trained with {run.given.transform.describe()}"
    return state, f"{line}; {news}"


def begin_with(run: Run, state: TrainState, variables: dict[str, Any]) -> TrainState:
    """Returns the state before the first step of training that starts from variables.

    The optimiser is initialised with them: its decay may be towards them.
    """
    state = state.replace(**variables, opt_state={}, ema={})
    return enter_phase(run, state, run.plan.phases[0])


def enter_phase(run: Run, state: TrainState, phase: Phase) -> TrainState:
    """Returns the state with which a phase begins, on the devices."""
    enter = jax.jit(
        lambda state: run.enter_phase(state, phase),
        out_shardings=run.placements(run.abstract_state(phase)),
    )
    return enter(state)


def check_saved(run: Run, workdir: Path) -> None:
    """Raises RunError where what a run goes on from is no start of it.

    CheckpointError where it is of another config, DataError where images have changed.
    """
    if run.saved is not None:
        check_images(run, run.saved, workdir)
        check_config(workdirs.as_json(run.config), run.saved)


def check_images(run: Run, saved: Saved, workdir: Path) -> None:
    """Raises DataError where images are not those that a run began with."""
    now = run.source.fingerprint()
    if saved.meta.get("fingerprint", now) == now:
        return
    changes = sources.compare(workdirs.read_entries(workdir), run.source.entries)
    raise DataError(
        f"{run.config.data.source!r} has changed since step {saved.folder.name} was "
        f"saved: {changes}; take another --workdir, or put it back"
    )


def check_config(config: dict[str, Any], saved: Saved) -> None:
    """Raises CheckpointError where `config` (as JSON) is not that of what is saved."""
    differences = workdirs.compare(saved.meta["config"], config)
    if differences:
        raise CheckpointError(
            f"checkpoint {saved.folder} is of another run: {', '.join(differences)}"
        )


def resume(run: Run, saved: Saved) -> Start:
    """Returns the start at what is saved, in the phase of the step that made it."""
    folder = saved.folder
    phase = run.plan.phase_of(max(int(folder.name) - 1, 0))
    wanted = run.abstract_state(phase)
    state = checkpoint.restore(folder, wanted, run.placements(wanted))
    news = f"resumed at step {folder.name}, started from {saved.meta['started_from']}"
    return Start(state, int(folder.name), saved.meta, news)
