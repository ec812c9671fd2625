"""What the command line of a probe asks for."""

from pathlib import Path
from typing import NamedTuple

from absl import flags

from tljax import command_line, workdirs
from tljax.config import Config, check_classifies
from tljax.errors import ConfigError
from tljax.probing import features, logistic, neighbours

USAGE = (
    "python -m tljax.probe --config=FILE.py --workdir=DIR [--copies=1] "
    "[--shots=1,5,10] [--seeds=5] [--config.FIELD=VALUE ...]"
)

COUNTS = ", ".join(map(str, neighbours.COUNTS))
FIRST, LAST = logistic.PENALTIES[[0, -1]]
PENALTIES = f"{len(logistic.PENALTIES)} from {FIRST:g} to {LAST:g}"
HELP = f"""{USAGE}

Computes the features of every image once, with a frozen backbone (BatchNorm by its
running statistics), and says what they are worth: by nearest neighbours, by logistic
regression, by a head trained as the config says, and with few labels.

  --config=FILE.py        the config of a run, as for python -m tljax.main: its images,
                          the weights that it starts from (random ones where there are
                          none), and, for the head, its optimiser and its steps
  --config.FIELD=VALUE    any field of it; python -m tljax.main --help lists them
  --workdir=DIR           where to write; not that of a run
  --copies=1              copies of the training images: the first is the view that
                          evaluation takes, the others are augmented as the config says,
                          without mixup and cutmix
  --shots=1,5,10          labelled images a class that few-shot learning gets; those of
                          1, 5, 10 that every class has; nothing for --shots=
  --seeds=5               times that these images are drawn
  --max_iterations=1000   of a logistic regression

It writes
  probe.json   all numbers
  probe.png    accuracy over the penalty and over the labels
  features/    the features: the next probe of the same weights and images takes them
  pretrain/    the run that the config starts from, where it has one (config.pretrain)

What is to be chosen is chosen on the validation split: k among {COUNTS},
and the penalty among {PENALTIES}, for few labels by the mean over
the draws. The penalty is that of mean log-loss + penalty / 2 * |weights|^2, on features
less their mean and over their deviation in all training images. The test split is
looked at with what is chosen.
"""


class Options(NamedTuple):
    """What the command line asks for beside the config.

    `shots` are None where nothing is said.
    """

    workdir: Path
    copies: int
    shots: tuple[int, ...] | None
    seeds: int
    max_iterations: int


def parse(argv: list[str]) -> tuple[Config, Options]:
    """Returns what a command line asks for; raises ConfigError for what is wrong."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "where to write", flag_values=values)
    flags.DEFINE_integer("copies", 1, "of training images", 1, flag_values=values)
    flags.DEFINE_string("shots", None, "images a class", flag_values=values)
    flags.DEFINE_integer("seeds", 5, "draws of images", 1, flag_values=values)
    flags.DEFINE_integer("max_iterations", 1000, "of a fit", 1, flag_values=values)
    config = command_line.parse_config(argv, values, USAGE)
    if not values.workdir:
        raise ConfigError(f"--workdir is missing; usage: {USAGE}")
    shots = None if values.shots is None else parse_shots(values.shots)
    return config, Options(
        workdirs.as_path(values.workdir),
        values.copies,
        shots,
        values.seeds,
        values.max_iterations,
    )


def parse_shots(text: str) -> tuple[int, ...]:
    """Returns the numbers in "1,5,10", sorted; raises ConfigError for anything else."""
    try:
        shots = sorted({int(number) for number in text.split(",") if text})
    except ValueError:
        shots = [0]
    if shots and shots[0] < 1:
        raise ConfigError(
            f"--shots = {text!r} must be numbers of images a class from 1 on, as 1,5,10"
        )
    return tuple(shots)


def check(config: Config, options: Options) -> None:
    """Raises ConfigError for what cannot be probed."""
    check_classifies(config)
    if options.copies > 1 and not features.unmixed(config.data.augment):
        raise ConfigError(
            f"--copies = {options.copies}, but config.data.augment has no operation to "
            "make them by (mixup and cutmix, which mix labels, do not count)"
        )
    if (options.workdir / "config.json").exists():
        raise ConfigError(
            f"workdir {options.workdir} holds a run; a probe takes another --workdir"
        )
