"""The command `python -m tljax.predict`: what a trained network sees in new images."""

import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from jax.sharding import Mesh

from tljax import network, parallel, workdirs
from tljax.config import Config
from tljax.data import examples, folder, loader
from tljax.data.canvas import Canvas, Drawings
from tljax.data.decode import ENDINGS
from tljax.data.examples import Examples
from tljax.data.folder import File, Files
from tljax.data.skipped import Skipped
from tljax.data.splits import Split
from tljax.entry import read_flags, run_command
from tljax.errors import ConfigError, DataError
from tljax.evaluation.probabilities import normalize
from tljax.terminal import print_line, track

USAGE = "python -m tljax.predict --workdir=DIR --images=PATH_OR_GLOB --output=FILE.csv"

HELP = f"""{USAGE}

  --workdir=DIR    the run whose network is asked; its training data are not needed
  --images=PATH    an image, a folder with images at any depth, or a quoted glob as
                   'photos/**/*.jpg'; of a folder, files that end in
                   {" ".join(ENDINGS)}
  --output=FILE    CSV with a row an image: file, error, class_1, prob_1, class_2, ...
  --top_k=5        classes named for each image, the most probable first
  --step=N         a checkpoint that was kept, or best in validation; the latest
  --entry=ema      the moving average of the weights, where the run has kept one
  --batch_size=64  images at once
  --device=NAME    cpu, gpu or tpu; that of the run's config
  --num_devices=N  devices to use; as many as the run's config says

An image that cannot be read has the reason in the column error, and no classes.
"""

# Images at once, where nothing is said.
BATCH = 64


def run(argv: list[str]) -> None:
    """Runs what the command line asks for; raises RunError."""
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print_line(HELP)
        return
    options = parse(argv)
    workdir, output = map(workdirs.as_path, (options.workdir, options.output))
    config = workdirs.load_classifier(workdir)
    saved = network.find(workdir, options.step, options.entry)
    files = find_images(options.images)
    workdirs.check_writable(output)
    mesh = parallel.create_mesh(
        options.device or config.device, options.num_devices or config.num_devices
    )
    restored = network.restore(config, saved, mesh)
    opened = open_images(config, files, restored.canvas)
    rows = predict(config, restored, opened, options.batch_size, mesh)
    workdirs.write_csv(output, as_rows(rows, restored.class_names, options.top_k))
    bad = len(opened.skipped.reasons)
    if bad == len(files):
        raise DataError(f"none of the {bad} images can be used; {output} says why")
    print_line(f"{len(files):,} images, {bad:,} of them cannot be used; see {output}")


def parse(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of a command line; raises ConfigError for what is wrong."""
    values = flags.FlagValues()
    for name in ("workdir", "images", "output", "step", "entry", "device"):
        flags.DEFINE_string(name, "", name, flag_values=values)
    flags.DEFINE_integer("top_k", 5, "classes named", 1, flag_values=values)
    flags.DEFINE_integer("batch_size", BATCH, "at once", 1, flag_values=values)
    flags.DEFINE_integer("num_devices", 0, "to use", 0, flag_values=values)
    read_flags(values, argv, USAGE)
    for name in ("workdir", "images", "output"):
        if not values[name].value:
            raise ConfigError(f"--{name} is missing; usage: {USAGE}")
    return values


def find_images(place: str) -> list[File]:
    """Returns the images that --images names, sorted by path.

    What is there by that very name comes before a glob. Raises ConfigError where there
    is none.
    """
    # Brackets and stars may stand in the name of a file.
    path = workdirs.as_path(place)
    place = str(path) if place.startswith("~") else place
    if path.is_dir():
        found = folder.find_files(path, str(path), [])
        files = [
            file._replace(path=os.path.normpath(f"{place}/{file.path}"))
            for file in found
        ]
        words = f"no image in the folder {place!r} ({', '.join(ENDINGS)})"
    else:
        # A glob of pathlib is none of absolute paths.
        names = [place] if path.exists() else glob.glob(place, recursive=True)  # noqa: PTH207
        files = [as_file(Path(name)) for name in names if not Path(name).is_dir()]
        words = f"{place!r} is no file and no folder, and matches none"
    if not files:
        raise ConfigError(f"--images: {words}")
    return sorted(set(files))


def as_file(path: Path) -> File:
    """Returns a file with its size and time; reading tells what is wrong with it."""
    try:
        found = path.stat()
    except OSError:
        return File(str(path), 0, 0)
    return File(str(path), found.st_size, found.st_mtime_ns)


def open_images(config: Config, files: list[File], shape: Canvas) -> Examples:
    """Returns images without labels, ready to be read; any number may be unusable."""
    names = np.array([file.path for file in files], dtype=object)
    split = Split(Files("", files), np.zeros(len(files), np.int32), names)
    drawings = Drawings(split.images, shape, examples.max_pixels(config.data))
    return Examples(split, drawings, None, None, Skipped(len(files), 1.0, print_line))


def predict(
    config: Config,
    restored: network.Network,
    opened: Examples,
    batch_size: int,
    mesh: Mesh,
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields name, error and probabilities [classes] of each image, in order.

    All batches have one shape, and the network is compiled once.
    """
    shape, number = opened.drawings.canvas, len(opened.drawings)
    batch_size = -(-min(batch_size, number) // mesh.size) * mesh.size
    program = network.compile_predict(
        config,
        restored.model,
        restored.transform,
        restored.variables,
        batch_size,
        shape,
        mesh,
        number,
    )
    readers = examples.readers_of(config.data, shape.bytes)
    batches = loader.eval_batches(opened, batch_size, readers)
    found = network.log_probabilities(program, restored.variables, batches, mesh)
    batches = track(found, -(-number // batch_size), "predicting")
    for start, (values, _) in zip(range(0, number, batch_size), batches, strict=True):
        # The last batch is padded: its last rows have no name.
        names = opened.split.names[start : start + batch_size]
        for name, row in zip(names, np.exp(normalize(values)), strict=False):
            yield name, opened.skipped.reasons.get(name, ""), row


def as_rows(
    found: Iterator[tuple[str, str, np.ndarray]],
    class_names: tuple[str, ...],
    top_k: int,
) -> Iterator[list[Any]]:
    """Yields the header and a row an image, with its most probable classes."""
    top_k = min(top_k, len(class_names))
    ranks = range(1, top_k + 1)
    yield ["file", "error", *(f"{c}_{n}" for n in ranks for c in ("class", "prob"))]
    for name, error, probabilities in found:
        row = [name, error]
        for label in np.argsort(-probabilities, kind="stable")[:top_k]:
            row += [class_names[label], float(probabilities[label])]
        yield [name, error, *[""] * 2 * top_k] if error else row


if __name__ == "__main__":
    sys.exit(run_command(run, sys.argv))
