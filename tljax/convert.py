"""The command `python -m tljax.convert --input=X --output=Y`: weights from X to Y."""

import sys
from pathlib import Path

import jax
from absl import flags

from tljax import checkpoint, pretrained, workdirs
from tljax.config import Config, Model
from tljax.data import transforms
from tljax.entry import read_flags, run_command
from tljax.errors import ConfigError
from tljax.pretrained import catalog, download, files, weights
from tljax.pretrained.weights import LOADERS, Weights
from tljax.terminal import print_line

USAGE = "python -m tljax.convert --input=X --output=Y [--arch=NAME] [--head=...]"

HELP = f"""{USAGE}
       python -m tljax.convert --list

  --input=X           FILE.pth, FILE.safetensors, a workdir, or torchvision:NAME
  --output=Y          FILE.pth, FILE.safetensors, or a new workdir
  --arch=NAME         the architecture X must be of; left out, it is recognised
  --head=CHOICE       keep, replace (by a new one of --num_classes) or drop the last
                      layer; keep
  --num_classes=N     of the new head
  --channels=N        image channels of Y, with
  --input_channels=   sum (for grey images) or repeat, where X has others
  --entry=NAME        the state dict to take where X holds several
  --list              the weights that torchvision has published
"""


def run(argv: list[str]) -> None:
    """Runs what the command line asks for; raises RunError."""
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print_line(HELP)
        return
    options = parse(argv)
    if options.list:
        print_catalog()
        return
    start = as_start(options.input)
    given = pretrained.load_weights(
        start,
        options.arch,
        head=options.head,
        num_classes=options.num_classes,
        channels=options.channels,
        input_channels=options.input_channels,
        entry=options.entry,
    )
    write(given, start, Path(options.output).expanduser())
    print_line(describe(given))
    print_line(f"images: {given.transform.describe()}")
    print_line(f"written to {options.output}")


def describe(given: Weights) -> str:
    """Returns one line on weights."""
    params = given.variables["params"]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    head = f"{params['fc']['bias'].size} classes" if "fc" in params else "no head"
    return f"{given.model['name']}, {parameters:,} parameters, {head}: {given.origin}"


def parse(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of a command line; raises ConfigError for what is wrong."""
    values = flags.FlagValues()
    for name in ("input", "output", "arch", "entry"):
        flags.DEFINE_string(name, "", name, flag_values=values)
    flags.DEFINE_string("head", "keep", "keep, replace or drop", flag_values=values)
    flags.DEFINE_string("input_channels", "error", "sum, repeat", flag_values=values)
    flags.DEFINE_integer("num_classes", None, "of a new head", flag_values=values)
    flags.DEFINE_integer("channels", None, "of the images", flag_values=values)
    flags.DEFINE_bool("list", False, "the published weights", flag_values=values)
    read_flags(values, argv, USAGE)
    if not values.list and not (values.input and values.output):
        raise ConfigError(f"--input and --output are needed; usage: {USAGE}")
    return values


def as_start(place: str) -> str:
    """Returns an --input as `pretrained.load` takes it, KIND:PLACE."""
    if place.partition(":")[0] in LOADERS:
        return place
    return f"file:{place}" if place.endswith(files.SUFFIXES) else f"run:{place}"


def write(given: Weights, start: str, output: Path) -> None:
    """Writes weights to a file or a workdir, with where they come from."""
    if output.suffix in files.SUFFIXES:
        source = {"name": start, "sha256": source_hash(start)}
        metadata = weights.metadata(given, source)
        pretrained.export(given.variables, output, given.model["name"], metadata)
    elif output.suffix and not output.is_dir():
        raise ConfigError(
            f"--output={output} must be a workdir or end in {', '.join(files.SUFFIXES)}"
        )
    else:
        write_workdir(given, output.absolute())


def write_workdir(given: Weights, workdir: Path) -> None:
    """Writes weights as the checkpoint of a run that has done no step.

    Raises ConfigError where a run stands there already.
    """
    if checkpoint.latest(workdir / "checkpoints") is not None:
        raise ConfigError(f"--output: {workdir} holds a run already")
    config = Config(model=Model(**given.model))
    meta = {
        "config": workdirs.as_json(config),
        "class_names": list(given.class_names),
        "transform": transforms.as_json(given.transform),
        "started_from": given.origin,
    }
    with (
        workdirs.hold(workdir, config),
        checkpoint.Checkpoints(workdir / "checkpoints", config) as checkpoints,
    ):
        checkpoints.save(0, given.variables, meta, {})


def source_hash(start: str) -> str:
    """Returns the SHA-256 of the file of weights, of its manifest for a run."""
    kind, _, place = start.partition(":")
    path = Path(place).expanduser()
    if kind == "torchvision":
        path = download.fetch(catalog.find(place))
    elif kind == "run":
        path = checkpoint.latest(path / "checkpoints") / checkpoint.MANIFEST
    return files.sha256(path)


def print_catalog() -> None:
    """Prints the published weights as a table."""
    columns = ("acc@1", "acc@5", "parameters", "MiB", "GFLOP", "resize")
    print_line(
        f"{'torchvision:':34}{'file':31}"
        + "".join(f"{name:>12}" for name in columns)
        + "  recipe"
    )
    for entry in catalog.CATALOG:
        name = f"{entry.model}.{entry.version}" + (" *" if entry.default else "")
        cells = (
            f"{entry.top1:.3f}",
            f"{entry.top5:.3f}",
            f"{entry.parameters:,}",
            f"{entry.mebibytes:.1f}",
            f"{entry.gflops:.2f}",
            f"{entry.resize}",
        )
        print_line(
            f"{name:34}{entry.file:31}"
            + "".join(f"{cell:>12}" for cell in cells)
            + f"  {entry.recipe.split('/')[-1]}"
        )
    print_line("* what the bare name means; V1 is the simple recipe, V2 the long one")
    print_line("also by file name, and the older copies of V1:")
    print_line("  " + ", ".join(catalog.ALIASES))
    print_line("images: shorter side to `resize`, crop 224; 1000 classes of ImageNet")


if __name__ == "__main__":
    sys.exit(run_command(run, sys.argv))
