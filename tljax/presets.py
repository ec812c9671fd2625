"""Fine-tuning plans by name: each makes rows of a plan for a network's layers."""

import re
from collections.abc import Iterable

from tljax.plan import Row, modules_of

HEAD = "fc/"
NORMS = r"(.*/)?(bn\d|downsample_1)/"
STEM = ("conv1", "bn1")


def full(config, paths: list[str], num_steps: int) -> tuple[Row, ...]:
    """Everything trains from the first step."""
    return (Row("", batch_norm=config.batch_norm),)


def head(config, paths: list[str], num_steps: int) -> tuple[Row, ...]:
    """The last layer trains: a linear probe."""
    return Row(HEAD), frozen(config)


def head_then_full(config, paths: list[str], num_steps: int) -> tuple[Row, ...]:
    """The last layer trains first, then all of the network with it."""
    steps = config.phase_steps or num_steps // 2
    return Row(HEAD), Row("", unfreeze_at=steps, batch_norm=config.batch_norm)


def gradual(config, paths: list[str], num_steps: int) -> tuple[Row, ...]:
    """Stage by stage joins, from the last layer to the first.

    Howard and Ruder 2018 (arXiv 1801.06146).
    """
    found = stages_of(paths)
    steps = config.phase_steps or num_steps // (len(found) + 1)
    later = [
        Row(pattern, unfreeze_at=number * steps, batch_norm=config.batch_norm)
        for number, pattern in enumerate(reversed(found), start=1)
    ]
    return Row(HEAD), *later


def layerwise_decay(config, paths: list[str], num_steps: int) -> tuple[Row, ...]:
    """Everything trains, each block `factor` times as fast as the one above it.

    As timm's `layer_decay`: the head is the highest block, the stem the lowest.
    """
    blocks = [name for name in modules_of(paths) if name.startswith("layer")]
    patterns = [re.escape(f"{name}/") for name in sorted_blocks(blocks)]
    below = [
        Row(
            pattern,
            learning_rate=config.factor**number,
            batch_norm=config.batch_norm,
        )
        for number, pattern in enumerate([*reversed(patterns), any_of(STEM)], start=1)
    ]
    return Row(HEAD), *below


def bn_only(config, paths: list[str], num_steps: int) -> tuple[Row, ...]:
    """BatchNorm and the last layer train. Frankle et al. 2020 (arXiv 2003.00152)."""
    return Row(HEAD), Row(NORMS, batch_norm=config.batch_norm), Row("", train=False)


def last_k(config, paths: list[str], num_steps: int) -> tuple[Row, ...]:
    """The last layer and the `last_k` stages before it train."""
    trained = stages_of(paths)[-config.last_k :]
    rows = Row(HEAD), *(Row(name, batch_norm=config.batch_norm) for name in trained)
    return rows if len(trained) == len(stages_of(paths)) else (*rows, frozen(config))


# Each takes (plan config, parameter paths, number of steps) and returns rows.
PRESETS = {
    "full": full,
    "head": head,
    "head_then_full": head_then_full,
    "gradual": gradual,
    "layerwise_decay": layerwise_decay,
    "bn_only": bn_only,
    "last_k": last_k,
}


def frozen(config) -> Row:
    """Returns the row that freezes the rest, its statistics measured anew if asked."""
    recalibrated = config.batch_norm == "recalibrate"
    return Row("", train=False, batch_norm="recalibrate" if recalibrated else "auto")


def stages_of(paths: list[str]) -> list[str]:
    """Returns a pattern for each stage below the head, the stem first."""
    numbers = sorted({int(found[1]) for found in map(stage, paths) if found})
    return [any_of(STEM), *(f"layer{number}_" for number in numbers)]


def stage(path: str) -> re.Match | None:
    """Returns the match of a path in a numbered stage."""
    return re.match(r"layer(\d+)_", path)


def sorted_blocks(names: Iterable[str]) -> list[str]:
    """Returns names like layer3_10 in the order of the network."""
    return sorted(names, key=lambda name: tuple(map(int, re.findall(r"\d+", name))))


def any_of(names: Iterable[str]) -> str:
    """Returns the pattern of paths that begin with one of the modules."""
    return f"({'|'.join(map(re.escape, names))})/"
