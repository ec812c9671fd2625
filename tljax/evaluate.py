"""The command `python -m tljax.evaluate --workdir=DIR`: what a trained run is worth."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from tljax import checkpoint, network, parallel, start, workdirs
from tljax.data import canvas, examples, loader
from tljax.data.examples import Examples
from tljax.data.skipped import Skipped
from tljax.entry import read_flags, run_command
from tljax.errors import ConfigError, DataError, quote, unknown
from tljax.evaluation import bootstrap, calibration, gallery, numbers, plots, tables
from tljax.evaluation.probabilities import at_temperature, normalize
from tljax.run import Run, Saved, prepare
from tljax.terminal import print_line, track
from tljax.versions import versions

USAGE = "python -m tljax.evaluate --workdir=DIR [--split=test] [--step=N|best]"

HELP = f"""{USAGE}

  --workdir=DIR    the run to evaluate
  --split=NAME     test, val or train; test, or val where there is no test
  --step=N         a checkpoint that was kept, or best in validation; the latest
  --entry=ema      the moving average of the weights, where the run has kept one
  --device=NAME    cpu, gpu or tpu; that of the run's config
  --num_devices=N  devices to use; as many as the run's config says

Writes to DIR/evaluation, for another split than the default to DIR/evaluation_SPLIT:
metrics.json (every number with its bootstrap 95 % interval), predictions.csv (with all
probabilities), per_class.csv, and the plots confusion.png, reliability.png, roc.png,
learning_curves.png and mistakes.png. The temperature is fitted on the validation split.
"""


class Outcome(NamedTuple):
    """What the network says of a split; images that cannot be used are left out.

    Attributes:
      examples: the split.
      places: int [n], of each of its images that were evaluated.
      labels: int [n].
      log_probabilities: float64 [n, classes], normalised.
    """

    examples: Examples
    places: np.ndarray
    labels: np.ndarray
    log_probabilities: np.ndarray


def run(argv: list[str]) -> None:
    """Runs what the command line asks for; raises RunError."""
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print_line(HELP)
        return
    options = parse(argv)
    workdir = workdirs.as_path(options.workdir)
    parts, saved = open_run(workdir, options)
    split = choose_split(parts, options.split)
    folder = make_folder(workdir, parts, split, saved.entry)
    evaluate(parts, saved, split, workdir, folder)
    print_line(f"all of it in {folder}")


def parse(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of a command line; raises ConfigError for what is wrong."""
    values = flags.FlagValues()
    for name in ("workdir", "split", "step", "entry", "device"):
        flags.DEFINE_string(name, "", name, flag_values=values)
    flags.DEFINE_integer("num_devices", 0, "to use", 0, flag_values=values)
    read_flags(values, argv, USAGE)
    if not values.workdir:
        raise ConfigError(f"--workdir is missing; usage: {USAGE}")
    return values


def open_run(workdir: Path, options: flags.FlagValues) -> tuple[Run, Saved]:
    """Returns the run in a workdir and the checkpoint that the options name.

    Raises RunError where it is not there, damaged, or of other classes or images.
    """
    config = workdirs.load_classifier(workdir)
    config = dataclasses.replace(
        config,
        device=options.device or config.device,
        num_devices=options.num_devices or config.num_devices,
    )
    saved = network.find(workdir, options.step, options.entry)
    parts = prepare(config, saved=saved)
    check_classes(parts, saved)
    start.check_saved(parts, workdir)
    return parts, saved


def choose_split(run: Run, asked: str) -> str:
    """Returns the split to evaluate; raises ConfigError for one that is not there."""
    if asked and asked not in run.source.splits:
        raise ConfigError(unknown("--split", asked, run.source.splits))
    return asked or run.source.result_split()


def check_classes(run: Run, saved: Saved) -> None:
    """Raises ConfigError where the data have not the classes of the checkpoint."""
    trained, found = tuple(saved.meta["class_names"]), run.source.class_names
    if trained == found:
        return
    missing = [quote(name) for name in trained if name not in found]
    new = [quote(name) for name in found if name not in trained]
    differences = [
        f"{words} {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
        for words, names in (("without", missing), ("with the new", new))
        if names
    ]
    raise ConfigError(
        f"{run.config.data.source!r} has other classes than checkpoint {saved.folder}: "
        + ("; ".join(differences) or "the same names in another order")
    )


def make_folder(workdir: Path, run: Run, split: str, entry: str) -> Path:
    """Returns the folder for the results, made; raises ConfigError if it cannot be."""
    name = "evaluation" + ("" if split == run.source.result_split() else f"_{split}")
    name += f"_{entry}" if entry else ""
    try:
        (workdir / name).mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {workdir / name}: {error}") from None
    workdirs.check_writable(workdir / name / "metrics.json")
    return workdir / name


def evaluate(run: Run, saved: Saved, split: str, workdir: Path, folder: Path) -> None:
    """Writes and prints the evaluation of a split."""
    outcomes = predict_splits(run, saved, {split, "val"})
    outcome, val = outcomes[split], outcomes["val"]
    temperature = calibration.fit_temperature(val.labels, val.log_probabilities)
    drawn = bootstrap.temperatures(val.labels, val.log_probabilities)
    labels, values = outcome.labels, outcome.log_probabilities
    class_names = run.source.class_names
    found = {
        "split": split,
        "step": int(saved.folder.name),
        "num_examples": len(labels),
        "num_classes": len(class_names),
        **numbers.scalars(labels, values, temperature),
        "temperature": temperature,
        **bootstrap.intervals(labels, values, temperature),
        **bootstrap.as_intervals({"temperature": drawn}),
        "class_names": list(class_names),
        "per_class": numbers.per_class(labels, values, class_names),
        "confusion_matrix": numbers.confusion(labels, values).tolist(),
        **describe(run, saved, outcome),
    }
    found = numbers.without_nan(found)
    for line in tables.lines(found):
        print_line(line)
    try:
        write(outcome, found, workdir, folder)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error}") from None


def predict_splits(run: Run, saved: Saved, names: set[str]) -> dict[str, Outcome]:
    """Returns what the network says of some splits."""
    mesh = run.mesh
    variables = network.place(
        saved,
        checkpoint.restore_variables(saved.folder, saved.entry),
        run.abstract_state().variables,
        mesh,
    )
    storages = {name: storage_of(run, name) for name in sorted(names)}
    number = sum(len(run.source.splits[name].labels) for name in storages)
    programs = {
        shape: network.compile_predict(
            run.config,
            run.model,
            run.transform,
            variables,
            run.batch_size,
            shape,
            mesh,
            number,
        )
        for shape in {storage.canvases[name] for name, storage in storages.items()}
    }
    outcomes = {}
    for name, storage in storages.items():
        total = sum(len(split.labels) for split in run.source.splits.values())
        limit = run.config.data.max_bad_fraction
        opened = examples.open_split(
            run.source,
            name,
            storage,
            run.config.data,
            Skipped(total, limit, print_line),
            track,
        )
        program = programs[storage.canvases[name]]
        outcomes[name] = predict(run, opened, program, variables)
    return outcomes


def storage_of(run: Run, name: str) -> examples.Storage:
    """Returns how the images of a split are kept.

    Those of training are evaluated as all others are: on a canvas of their own, and
    decoded for this once.
    """
    if name != "train":
        return run.storage
    shape = run.storage.canvases["val"]
    if not run.source.size:
        sizes = examples.find_sizes(run.source, name, run.config.data, track)
        shape = canvas.fit(sizes, run.transform.resize, run.source.channels)
    return examples.Storage({name: shape}, "none", "")


def predict(run: Run, opened: Examples, program: Any, variables: Any) -> Outcome:
    """Returns what the network says of every image of a split that can be used."""
    readers = examples.readers_of(run.config.data, opened.drawings.canvas.bytes)
    batches = loader.eval_batches(opened, run.batch_size, readers)
    rows = network.log_probabilities(program, variables, batches, run.mesh)
    total = -(-len(opened.drawings) // run.batch_size)
    values, masks = zip(*track(rows, total, "evaluating"), strict=True)
    places = np.flatnonzero(np.concatenate(masks)[: len(opened.drawings)])
    if not len(places):
        raise DataError(f"none of the images of {run.config.data.source!r} can be used")
    found = normalize(np.concatenate(values)[places])
    return Outcome(opened, places, opened.split.labels[places], found)


def describe(run: Run, saved: Saved, outcome: Outcome) -> dict[str, Any]:
    """Returns what the numbers are the numbers of."""
    return {
        "temperature_split": "val",
        "skipped": outcome.examples.skipped.reasons,
        "started_from": saved.meta["started_from"],
        "transform": saved.meta["transform"],
        "data": {"fingerprint": run.source.fingerprint()},
        "device": parallel.describe(run.mesh),
        "versions": versions(),
        "config": workdirs.as_json(run.config),
    }


def write(outcome: Outcome, found: dict[str, Any], workdir: Path, folder: Path) -> None:
    """Writes all files of an evaluation, metrics.json as the last."""
    labels, values = outcome.labels, outcome.log_probabilities
    class_names = tuple(found["class_names"])
    names = [str(name) for name in outcome.examples.split.names[outcome.places]]
    rows = tables.prediction_rows(names, labels, values, class_names)
    workdirs.write_csv(folder / "predictions.csv", rows)
    rows = tables.class_rows(found["per_class"])
    workdirs.write_csv(folder / "per_class.csv", rows)
    counts = np.array(found["confusion_matrix"])
    plots.save(folder / "confusion.png", plots.confusion, counts, class_names)
    temperature = found["temperature"]
    diagrams = [
        calibration.reliability(labels, logs)
        for logs in (values, at_temperature(values, temperature))
    ]
    plots.save(folder / "reliability.png", plots.reliability, *diagrams, temperature)
    areas = numbers.ranked(labels, values)["roc_auc"]
    plots.save(
        folder / "roc.png", plots.roc, labels, np.exp(values), areas, class_names
    )
    plots.save(
        folder / "mistakes.png",
        gallery.draw,
        find_mistakes(outcome, names, class_names),
        len(labels),
    )
    lines = read_lines(workdir / "metrics.jsonl")
    plots.save(folder / "learning_curves.png", plots.learning_curves, lines)
    workdirs.write_json(folder / "metrics.json", found)


def find_mistakes(
    outcome: Outcome, names: list[str], class_names: tuple[str, ...]
) -> list[gallery.Mistake]:
    """Returns the mistakes to show, with their pictures."""
    values, drawings = outcome.log_probabilities, outcome.examples.drawings
    return [
        gallery.Mistake(
            canvas.taken_off(drawings[int(outcome.places[row])]),
            class_names[outcome.labels[row]],
            class_names[values[row].argmax()],
            float(np.exp(values[row].max())),
            names[row],
        )
        for row in gallery.most_confident(outcome.labels, values)
    ]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl that can be read."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:  # The run may be writing it.
            continue
    return lines


if __name__ == "__main__":
    sys.exit(run_command(run, sys.argv))
