"""The command `python -m tljax.probe`: what a frozen backbone is worth."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from tljax import parallel, train, workdirs
from tljax.config import Config
from tljax.data import transforms
from tljax.entry import run_command
from tljax.errors import ConfigError
from tljax.evaluation import plots
from tljax.pretrained import transplant
from tljax.probing import features, few_shot, figure, methods, report, stored
from tljax.probing import options as options_lib
from tljax.probing.features import Features
from tljax.probing.options import Options
from tljax.run import Run, load_given, prepare
from tljax.terminal import print_line
from tljax.versions import versions

# Images a class that are drawn where nothing else is asked, if every class has them.
SHOTS = (1, 5, 10)


def run(argv: list[str]) -> None:
    """Runs what the command line asks for; raises RunError."""
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print_line(options_lib.HELP)
        return
    config, options = options_lib.parse(argv)
    options_lib.check(config, options)
    make_folder(options.workdir)
    found = probe(config, options)
    for line in report.lines(found):
        print_line(line)
    print_line(f"all of it in {options.workdir}: probe.json, probe.png")


def make_folder(workdir: Path) -> None:
    """Makes the folders to write to; raises ConfigError where they cannot be."""
    folder = workdir / "features"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot write to workdir {workdir}: {reason}") from None
    for path in (workdir / "probe.json", workdir / "probe.png"):
        workdirs.check_writable(path)
    for name in (stored.FEATURES, stored.INDEX):
        workdirs.check_writable(folder / name)


def probe(config: Config, options: Options) -> dict[str, Any]:
    """Writes all files of a probe, and returns what probe.json holds."""
    seconds: dict[str, float] = {}
    with measured(seconds, "prepare"):
        parts = prepare(config)
        check_classes(parts)
        shots = choose_shots(parts, options.shots)
    print_line(parts.describe())
    for note in parts.source.notes:
        print_line(note)
    if config.pretrain is not None:
        with measured(seconds, "pretrain"):
            train.train_and_evaluate(config.pretrain, options.workdir / "pretrain")
            given = load_given(config, parts.source, options.workdir / "pretrain")
        parts = parts._replace(given=given)
    with measured(seconds, "features"):
        variables, origin = begin(parts)
        print_line(origin)
        splits, about = get_features(parts, variables, options)
    # The methods run on one device, the first of the mesh.
    with jax.default_device(parts.mesh.devices.flat[0]):
        initial = jax.device_get(variables["params"]["fc"])
        found = judge(parts, splits, initial, shots, options, seconds)
    found = describe(parts, splits, options) | {"features": about} | found
    found["seconds"] = seconds
    write(options.workdir, found)
    return found


def write(workdir: Path, found: dict[str, Any]) -> None:
    """Writes probe.png and probe.json; raises ConfigError where they cannot be."""
    try:
        plots.save(workdir / "probe.png", figure.draw, found)
        workdirs.write_json(workdir / "probe.json", found)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot write to workdir {workdir}: {reason}") from None


@contextlib.contextmanager
def measured(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes the seconds that its block takes."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def check_classes(run: Run) -> None:
    """Raises ConfigError where training images have but one class."""
    present = set(run.source.splits["train"].labels.tolist())
    if len(present) < 2:
        name = run.source.class_names[present.pop()]
        raise ConfigError(
            f"the training images of {run.config.data.source!r} all are of the class "
            f"{name!r}; a probe needs two classes"
        )


def choose_shots(run: Run, asked: tuple[int, ...] | None) -> tuple[int, ...]:
    """Returns the numbers of images a class to draw; raises ConfigError for too many.

    Where nothing is asked, those of the usual numbers that every class has.
    """
    labels, class_names = run.source.splits["train"].labels, run.source.class_names
    if asked is None:
        most = few_shot.most(labels, class_names)
        return tuple(shot for shot in SHOTS if shot <= most)
    few_shot.check(asked, labels, class_names)
    return asked


def begin(run: Run) -> tuple[Any, str]:
    """Returns the variables of a backbone with a new head, and where they come from."""
    if run.given is None:
        variables = jax.jit(run.create_state)().variables
        return variables, f"random weights of seed {run.config.seed}: a baseline"
    # Compiled alone, the head is all that is computed.
    head = jax.jit(lambda: run.create_state().params["fc"])()
    variables, _ = transplant.transplant(
        run.given, run.abstract_state().variables, keep_head=False
    )
    variables["params"]["fc"] = head
    variables = jax.device_put(variables, parallel.replicated(run.mesh))
    return variables, f"weights of {run.given.origin}"


def get_features(
    run: Run, variables: Any, options: Options
) -> tuple[dict[str, Features], dict[str, Any]]:
    """Returns the features of all splits, stored or computed, and what they are."""
    folder = options.workdir / "features"
    key = stored.key_of(run, variables, options.copies)
    splits, skipped, reason = stored.load(folder, key)
    is_stored = splits is not None
    if splits is None:
        if reason:
            print_line(f"{reason}: they are computed again")
        splits, skipped = features.compute(run, variables, options.copies)
        stored.save(folder, key, splits, skipped)
    return splits, {
        "stored": is_stored,
        "copies": options.copies,
        "dimension": splits["val"].values.shape[1],
        "images": {
            name: len(split.labels) // (options.copies if name == "train" else 1)
            for name, split in splits.items()
        },
        "key": key,
        "skipped": skipped,
    }


def judge(
    run: Run,
    splits: dict[str, Features],
    initial: Any,
    shots: tuple[int, ...],
    options: Options,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Returns what each method says of the features."""
    num_classes, tested = len(run.source.class_names), run.source.result_split()
    platform = run.mesh.devices.flat[0].platform
    limit = options.max_iterations
    labels = run.source.splits["train"].labels
    found: dict[str, Any] = {}
    with measured(seconds, "nearest_neighbours"):
        found["nearest_neighbours"] = methods.nearest_neighbours(
            splits, tested, num_classes
        )
    scaled = methods.standardize(splits)
    with measured(seconds, "logistic_regression"):
        found["logistic_regression"] = methods.logistic_regression(
            scaled, tested, num_classes, limit, platform
        )
    with measured(seconds, "head"):
        found["head"] = methods.trained_head(
            splits,
            tested,
            options.copies,
            initial,
            run.batch_size,
            run.task.find_class_weights(run.config, labels, num_classes),
            run.config,
        )
    with measured(seconds, "few_shot"):
        found["few_shot"] = methods.few_labels(
            scaled,
            tested,
            options.copies,
            shots,
            options.seeds,
            run.source.class_names,
            run.config.data.seed,
            limit,
            platform,
        )
    return found


def describe(run: Run, splits: dict[str, Features], options: Options) -> dict[str, Any]:
    """Returns what the numbers of a probe are the numbers of."""
    return {
        "split": run.source.result_split(),
        "num_classes": len(run.source.class_names),
        "class_names": list(run.source.class_names),
        "started_from": "scratch" if run.given is None else run.given.origin,
        "transform": transforms.as_json(run.transform),
        "data": {"fingerprint": run.source.fingerprint()},
        "options": {
            "copies": options.copies,
            "seeds": options.seeds,
            "max_iterations": options.max_iterations,
        },
        "device": parallel.describe(run.mesh),
        "versions": versions(),
        "config": workdirs.as_json(run.config),
    }


if __name__ == "__main__":
    sys.exit(run_command(run, sys.argv))
