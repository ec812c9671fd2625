"""The fine-tuning plan: which parameters train, from which step on, how fast.

Rows of regular expressions over parameter paths become groups of parameters; the steps
at which groups join divide training into phases. Within a phase only what trains is
differentiated and has an optimiser state: what is frozen costs a forward pass.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from flax import traverse_util

from tljax.errors import ConfigError
from tljax.settings import setting

BATCH_NORMS = ("auto", "train", "frozen_statistics", "frozen", "recalibrate")


@dataclasses.dataclass(slots=True, frozen=True)
class Row:
    """What happens to the parameters whose paths begin with a pattern."""

    pattern: str = setting(
        "", "regular expression that a path, as layer4_0/conv1/kernel, begins with"
    )
    train: bool = setting(True, "train them")
    learning_rate: float = setting(1.0, "factor of optim.learning_rate", above=0)
    weight_decay: float | None = setting(None, "in place of optim.weight_decay", low=0)
    unfreeze_at: int = setting(0, "steps of the run after which they train", low=0)
    batch_norm: str = setting(
        "auto",
        "train; frozen_statistics (normalise with the running statistics, train scales "
        "and offsets); frozen (train nothing of it); recalibrate (first measure the "
        "statistics of the training images, then as frozen_statistics); auto is train "
        "where the row trains and frozen where it does not",
        choices=BATCH_NORMS,
    )


class Phase(NamedTuple):
    """The steps during which the same parameters train.

    Attributes:
      start: steps done before the first of it.
      trained: row -> the paths of the parameters that train.
      frozen_statistics: BatchNorm layers that normalise with their running statistics.
    """

    start: int
    trained: dict[str, tuple[str, ...]]
    frozen_statistics: frozenset[str]


class TrainingPlan(NamedTuple):
    """Rows, and what each of them governs.

    Attributes:
      rows: name -> row, in order.
      governed: name -> the paths of its parameters.
      phases: in order; the first starts at 0.
      recalibrated: BatchNorm layers whose statistics are measured before step 1.
    """

    rows: dict[str, Row]
    governed: dict[str, tuple[str, ...]]
    phases: tuple[Phase, ...]
    recalibrated: frozenset[str]

    def phase_of(self, step: int) -> Phase:
        """Returns the phase that takes the step after `step` steps."""
        return [phase for phase in self.phases if phase.start <= step][-1]


def resolve(
    rows: Iterable[Row], paths: list[str], place: str = "config.plan.rows"
) -> TrainingPlan:
    """Returns the plan that rows make of the parameters at `paths`.

    The first row that matches a parameter holds for it. Raises ConfigError, naming the
    row, for a pattern that does not compile or matches nothing, and where a parameter
    has no row, or nothing trains at step 1.
    """
    rows = {f"row{number}": row for number, row in enumerate(rows)}
    governed, left = {}, list(paths)
    for name, row in rows.items():
        found = match(row, left, paths, f"{place}[{name[3:]}]")
        governed[name] = tuple(path for path in left if path in found)
        left = [path for path in left if path not in found]
    if left:
        raise ConfigError(
            f"{place}: no row matches {shorten(left)}; a last Row('', train=False) "
            "freezes the rest"
        )
    norms = find_norms(paths)
    starts = sorted({0, *(row.unfreeze_at for row in rows.values())})
    phases = tuple(make_phase(rows, governed, norms, start) for start in starts)
    if not phases[-1].trained:
        raise ConfigError(f"{place}: every parameter is frozen; nothing would train")
    if not phases[0].trained:
        first = next(phase.start for phase in phases if phase.trained)
        raise ConfigError(
            f"{place}: every parameter is frozen until step {first}; set unfreeze_at "
            "of the rows that train first to 0"
        )
    recalibrated = frozenset(
        layer
        for name, row in rows.items()
        for layer in layers_of(governed[name], norms)
        if row.batch_norm == "recalibrate"
    )
    return TrainingPlan(rows, governed, phases, recalibrated)


def match(row: Row, left: list[str], paths: list[str], place: str) -> set[str]:
    """Returns which of the paths that are left a row matches."""
    try:
        pattern = re.compile(row.pattern)
    except re.error as error:
        raise ConfigError(
            f"{place}.pattern = {row.pattern!r} is no regular expression: {error}"
        ) from None
    found = {path for path in left if pattern.match(path)}
    if found:
        return found
    if any(pattern.match(path) for path in paths):
        raise ConfigError(
            f"{place}.pattern = {row.pattern!r} matches nothing that the rows before "
            "it have left; put it before them, or leave it out"
        )
    raise ConfigError(
        f"{place}.pattern = {row.pattern!r} matches no parameter; their paths begin "
        f"with {', '.join(modules_of(paths))}"
    )


def make_phase(rows, governed, norms: frozenset[str], start: int) -> Phase:
    """Returns what trains once `start` steps are done."""
    trained, running = {}, set()
    for name, row in rows.items():
        begun = row.unfreeze_at <= start
        mode = batch_norm_of(row)
        if mode != "train" or not begun:
            running |= layers_of(governed[name], norms)
        kept = norms if mode == "frozen" else frozenset()
        paths = tuple(path for path in governed[name] if parent(path) not in kept)
        if row.train and begun and paths:
            trained[name] = paths
    return Phase(start, trained, frozenset(running))


def batch_norm_of(row: Row) -> str:
    """Returns what a row does with BatchNorm once it has begun."""
    if row.batch_norm != "auto":
        return row.batch_norm
    return "train" if row.train else "frozen"


def find_norms(paths: Iterable[str]) -> frozenset[str]:
    """Returns the BatchNorm layers: those whose parameters have a scale."""
    return frozenset(parent(path) for path in paths if path.endswith("/scale"))


def layers_of(paths: Iterable[str], norms: frozenset[str]) -> set[str]:
    """Returns the BatchNorm layers that parameters at `paths` belong to."""
    return {parent(path) for path in paths} & norms


def parent(path: str) -> str:
    """Returns the layer of a parameter: a/b of a/b/kernel."""
    return path.rpartition("/")[0]


def modules_of(paths: Iterable[str]) -> list[str]:
    """Returns the first parts of paths, in their order: conv1, bn1, layer1_0, ..."""
    return list(dict.fromkeys(path.partition("/")[0] for path in paths))


def shorten(names: list[str], limit: int = 5) -> str:
    """Returns names for an error, the first of them where they are many."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def paths_of(params: Any) -> list[str]:
    """Returns the paths of all parameters, joined by "/"."""
    return list(traverse_util.flatten_dict(params, sep="/"))


def split(params: Any, phase: Phase) -> dict[str, Any]:
    """Returns row -> nested dict of those of its parameters that train in a phase."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return {
        name: traverse_util.unflatten_dict(
            {path: flat[path] for path in paths}, sep="/"
        )
        for name, paths in phase.trained.items()
    }


def join(params: Any, trained: dict[str, Any]) -> Any:
    """Returns `params` with what `split` has taken of them put back, as it is now."""
    flat = traverse_util.flatten_dict(params)
    for tree in trained.values():
        flat |= traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict(flat)
