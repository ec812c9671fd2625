"""The command `python -m tljax.data.show --config=FILE.py`: a look at the data."""

import itertools
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from tljax import command_line, workdirs
from tljax.batches import open_splits, stored_images, train_batches
from tljax.config import Config
from tljax.data import pictures, survey, views
from tljax.data import report as report_lib
from tljax.data.examples import Examples
from tljax.entry import run_command
from tljax.errors import ConfigError
from tljax.run import Run, prepare
from tljax.terminal import Terminal, print_line, track

USAGE = (
    "python -m tljax.data.show --config=FILE.py [--output=DIR] "
    "[--config.FIELD=VALUE ...]"
)

HELP = f"""{USAGE}

Shows what a run would be trained on; trains nothing.

  --config=FILE.py        the config of the run, as for python -m tljax.main
  --config.FIELD=VALUE    any field of it; python -m tljax.main --help lists them
  --output=DIR            where to write; data_look

It writes
  batch.png     the first training images as the network sees them, augmented
  classes.png   how many images each class has, in each split
  data.json     all numbers and names: classes, sizes, files that were skipped, and
                images that are there twice, the same or nearly so

Copies of training images among those of validation and test inflate results. Weights
that the config starts from are loaded, for images are made as they need it; with
--config.pretrained= none are. Decoded images are kept for the run to come.
"""

OUTPUT = "data_look"
# Images in batch.png, at most.
SHOWN = 32


def run(argv: list[str]) -> None:
    """Runs what the command line asks for; raises RunError."""
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print(HELP)
        return
    values = flags.FlagValues()
    flags.DEFINE_string("output", OUTPUT, "where to write", flag_values=values)
    config = command_line.parse_config(argv, values, USAGE)
    if not values.output:
        raise ConfigError(f"--output is missing; usage: {USAGE}")
    show(config, make_folder(values.output))


def make_folder(output: str) -> Path:
    """Returns the folder to write to, made; raises ConfigError where it cannot be."""
    folder = Path(output).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot write to --output={output}: {reason}") from None
    return folder


def show(config: Config, folder: Path) -> dict[str, Any]:
    """Writes the pictures and data.json into a folder, prints and returns the report.

    Raises RunError for what cannot be had.
    """
    run = prepare(config)
    source = run.source
    terminal = Terminal("data", run.config.num_steps, run.batch_size)
    for line in (run.describe(), *source.notes, run.storage.news):
        terminal.say(line)
    splits = open_splits(run, terminal)
    images, targets = first_seen(run, splits["train"])
    labels = [pictures.describe_target(row, source.class_names) for row in targets]
    grid = pictures.draw_grid(images, labels, title_of(run, len(images)))
    save(folder / "batch.png", grid.save)
    title = f"{config.data.source}: {len(source.class_names):,} classes"
    counts = survey.count_classes(source)
    bars = pictures.draw_classes(counts, source.class_names, title)
    save(folder / "classes.png", bars.save)
    report = describe(run, splits)
    save(folder / "data.json", lambda path: workdirs.write_json(path, report))
    print_report(report)
    print_line(f"written to {folder}: batch.png, classes.png, data.json")
    return report


def save(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write(path)`; raises ConfigError where that fails."""
    try:
        write(path)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot write {path}: {reason}") from None


def first_seen(run: Run, split: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 [n, h, w, c] of the first batches, and targets [n, classes].

    As the first steps of the run see them: same order, same random numbers; only the
    normalisation is undone.
    """

    @jax.jit
    def see(key, step, batch, stored):
        key = jax.random.fold_in(key, step)
        batch = views.gather(batch, stored)
        num_classes, augment = len(run.source.class_names), run.config.data.augment
        return run.task.see(key, batch, num_classes, run.transform, augment)

    # Under jit nothing but the key of the first state is computed.
    key = jax.jit(lambda: run.create_state().key)()
    stored = stored_images(run, split)
    steps = -(-SHOWN // run.batch_size)
    found = []
    with closing(train_batches(run, split, 0)) as batches:
        for step, batch in enumerate(itertools.islice(batches, steps)):
            found.append(jax.device_get(see(key, step, batch, stored)))
    images, targets = (
        np.concatenate(parts)[:SHOWN] for parts in zip(*found, strict=True)
    )
    return displayed(images, run.transform), targets


def displayed(images: np.ndarray, transform) -> np.ndarray:
    """Returns normalised images [n, h, w, c] as uint8 levels again."""
    shape = images.shape[-1:]
    mean, std = (
        np.broadcast_to(np.asarray(values, np.float32), shape)
        for values in (transform.mean, transform.std)
    )
    return np.clip(np.rint((images * std + mean) * 255), 0, 255).astype(np.uint8)


def title_of(run: Run, number: int) -> str:
    """Returns the title of the grid of images."""
    height, width, _ = run.image_shape
    done = ", ".join(type(each).__name__ for each in run.config.data.augment)
    return (
        f"{run.config.data.source}: the first {number} training images as the network "
        f"sees them, {height}x{width}; {done or 'no augmentation'}"
    )


def describe(run: Run, splits: dict[str, Examples]) -> dict[str, Any]:
    """Returns what data.json holds."""
    source, config = run.source, run.config.data
    height, width, channels = run.image_shape
    copies = survey.find_copies(source, splits, config, track)
    return {
        "source": config.source,
        "fingerprint": source.fingerprint(),
        "seen": {"height": height, "width": width, "channels": channels},
        "splits": survey.describe_splits(source, run.storage, config, track),
        "classes": survey.describe_classes(source),
        "kept": run.storage.news,
        "notes": list(source.notes),
        "skipped": dict(splits["train"].skipped.reasons),
        "copies": copies,
    }


def print_report(report: dict[str, Any]) -> None:
    """Prints the tables of splits and classes, and what was skipped or is a copy."""
    print_table(*report_lib.splits_table(report["splits"]))
    print_table(*report_lib.classes_table(report["classes"], list(report["splits"])))
    for line in report_lib.lines(report):
        print_line(line)


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table: drawn on a terminal, plain lines in a pipe."""
    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        table = Table()
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    cells = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *rest in cells:
        shown = [first.ljust(widths[0])]
        shown += [c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)]
        print_line("  ".join(shown))


if __name__ == "__main__":
    sys.exit(run_command(run, sys.argv))
