"""What weights are averaged of: a run and its start, or several runs that fit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from tljax import checkpoint, evaluate, network, workdirs
from tljax.config import Config
from tljax.data import sources
from tljax.errors import ConfigError, RunError
from tljax.pretrained import transplant
from tljax.pretrained.weights import Weights
from tljax.run import Run, Saved, load_given

# Settings of the data in which runs that are averaged may differ: they choose how
# images are shown, not which.
SHOWN_OTHERWISE = ("augment", "balanced", "batch_size", "eval_views", "train_resize")


# Those of the model that have no weights.
DROPPED = ("dropout", "stochastic_depth")


class Ingredients(NamedTuple):
    """What is averaged.

    Attributes:
      names: what people know each by.
      variables: of each, nested dicts of NumPy arrays.
      origins: a line on each, for results.
      notes: lines for people.
    """

    names: tuple[str, ...]
    variables: tuple[Any, ...]
    origins: tuple[str, ...]
    notes: tuple[str, ...] = ()


def load_line(run: Run, saved: Saved, workdir: Path) -> Ingredients:
    """Returns the weights that a run started from, and those that it has come to.

    The start has the head of the run where the run's was new. Raises RunError where
    there is no start, or where it is not there any more.
    """
    given = load_start(run, saved, workdir)
    end = restore(run, saved)
    keeps_head = run._replace(given=given).keeps_head()
    transplant.check(given, end, keeps_head)
    start, _ = transplant.transplant(given, end, keeps_head)
    return Ingredients(("start", "run"), (start, end), (given.origin, origin_of(saved)))


def load_start(run: Run, saved: Saved, workdir: Path) -> Weights:
    """Returns the weights that the run in a workdir started from."""
    config, origin = run.config, saved.meta["started_from"]
    if not starts_from_weights(config):
        raise ConfigError(
            f"the run in {workdir} started from {origin}: there is nothing to "
            "interpolate from; take a run with config.pretrained or config.pretrain, "
            "or average several with --runs"
        )
    pretrain_dir = None if config.pretrain is None else workdir / "pretrain"
    try:
        given = load_given(config, run.source, pretrain_dir)
    except RunError as error:
        raise type(error)(
            f"the weights that the run in {workdir} started from, {origin}, cannot be "
            f"had any more: {error}"
        ) from None
    # A workdir may have been moved, with its pretrain/ in it.
    there, here = given.origin, origin
    if pretrain_dir is not None:
        there, here = (text.rpartition("/pretrain at ")[2] for text in (there, here))
    if there != here:
        raise ConfigError(
            f"the run in {workdir} started from {origin}; what is there now is "
            f"{given.origin}"
        )
    return given


def starts_from_weights(config: Config) -> bool:
    """Returns whether a run starts from weights that it is given."""
    return bool(config.pretrained) or config.pretrain is not None


def load_runs(
    run: Run, saved: Saved, workdir: Path, options: flags.FlagValues
) -> Ingredients:
    """Returns the weights of a run and of those that --runs names.

    Raises ConfigError for a run that is named twice, or is of another model, other
    classes or other images, with what differs.
    """
    places = [workdir, *map(workdirs.as_path, options.runs.split(","))]
    resolved = [place.resolve() for place in places]
    for number, place in enumerate(resolved):
        if place in resolved[:number]:
            raise ConfigError(f"--runs: {places[number]} is named twice")
    several = [saved]
    for place in places[1:]:
        workdirs.load_classifier(place)
        other = network.find(place, options.step, options.entry)
        check_fits(run, saved, other, workdir, place)
        several.append(other)
    return Ingredients(
        tuple(map(str, places)),
        tuple(restore(run, one) for one in several),
        tuple(map(origin_of, several)),
        tuple(find_notes(several)),
    )


def find_notes(several: list[Saved]) -> Iterator[str]:
    """Yields what makes it unlikely that a mean of runs is of use."""
    starts = list(dict.fromkeys(one.meta["started_from"] for one in several))
    if len(starts) > 1:
        yield f"note: the runs started from different weights: {'; '.join(starts)}"
    seeds = list(dict.fromkeys(one.meta["config"]["seed"] for one in several))
    if len(seeds) > 1:
        yield (
            f"note: the runs have different seeds, {', '.join(map(str, seeds))}: what "
            "was new in them, as the head, began differently"
        )


def check_fits(
    run: Run, saved: Saved, other: Saved, workdir: Path, place: Path
) -> None:
    """Raises ConfigError where a run cannot be averaged with the first."""
    differences = workdirs.compare(
        *({**one.meta["config"], "pretrain": None} for one in (other, saved))
    )
    of_model = [
        text
        for text in differences
        if text.startswith(("config.model.", "config.task "))
        and text.split(" ")[0].split(".")[-1] not in DROPPED
    ]
    of_data = [
        text
        for text in differences
        if text.startswith("config.data.")
        and text.split(" ")[0].split(".")[-1] not in SHOWN_OTHERWISE
    ]
    begin = f"--runs: {place} cannot be averaged with {workdir}"
    if of_model:
        raise ConfigError(f"{begin}, another model: {', '.join(of_model)}")
    if of_data:
        raise ConfigError(f"{begin}, other data: {', '.join(of_data)}")
    evaluate.check_classes(run, other)
    there, here = (one.meta.get("fingerprint") for one in (other, saved))
    if there != here:
        entries = [workdirs.read_entries(one) for one in (place, workdir)]
        changes = sources.compare(*entries) or "its images are others"
        raise ConfigError(f"{begin}, other data: {changes}")
    if other.meta["transform"] != saved.meta["transform"]:
        raise ConfigError(
            f"{begin}, other images: transform is {other.meta['transform']} there, not "
            f"{saved.meta['transform']}"
        )


def restore(run: Run, saved: Saved) -> Any:
    """Returns the variables in a checkpoint; raises CheckpointError."""
    found = checkpoint.restore_variables(saved.folder, saved.entry)
    network.check(saved, found, run.abstract_state().variables)
    return found


def origin_of(saved: Saved) -> str:
    """Returns one line on a checkpoint."""
    average = ", moving average" if saved.entry else ""
    return f"run:{saved.folder.parent.parent} at step {saved.folder.name}{average}"
