"""BatchNorm statistics of other images or other weights: measured, and compared.

As `torch.optim.swa_utils.update_bn` measures them: every batch counts the same, and the
mean over batches of their means and of their unbiased variances takes the place of the
running statistics. Each layer sees what the layers before it make of the same batch.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh

from tljax import parallel
from tljax.data import views
from tljax.data.operations import Mixing, Operation
from tljax.data.transforms import Transform
from tljax.models import devices
from tljax.models.normalization import EPS
from tljax.tasks import classification

# So many layers are printed; of more, those that have moved most.
SHOWN = 20

Statistics = dict[str, dict[str, jax.Array]]


class Sums(NamedTuple):
    """The statistics of some batches added up, by layer, and how many there were."""

    batches: jax.Array
    statistics: Statistics


def by_layer(batch_stats: Any) -> Statistics:
    """Returns {"layer1_0/bn1": {"mean": [c], "var": [c]}, ...} in a network's order."""
    flat = traverse_util.flatten_dict(batch_stats)
    names = {"/".join(path[:-1]): path[:-1] for path in flat}
    return {
        name: {kind: flat[*names[name], kind] for kind in ("mean", "var")}
        for name in sorted(names, key=in_order)
    }


def in_order(name: str) -> list[Any]:
    """Returns what sorts layer3_2 before layer3_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def with_statistics(batch_stats: Any, statistics: Statistics) -> Any:
    """Returns batch_stats with the statistics of some layers in them."""
    flat = traverse_util.flatten_dict(batch_stats, sep="/")
    return traverse_util.unflatten_dict(
        flat | traverse_util.flatten_dict(statistics, sep="/"), sep="/"
    )


def batch_statistics(
    model: nn.Module, variables: Any, images: jax.Array, names: Iterable[str]
) -> Statistics:
    """Returns mean and unbiased variance [c] of one batch in the layers `names`.

    `images` are normalised, [b, h, w, c]. All other layers normalise as the model does
    in training. Raises ValueError for a layer whose statistics the model does not
    train: it would not look at the batch.
    """
    names = sorted(names)
    # A layer keeps 0.9 of the old value: of zeros, a tenth of the batch's is left.
    there = by_layer(variables["batch_stats"])
    zeros = jax.tree.map(jnp.zeros_like, {name: there[name] for name in names})
    given = with_statistics(variables["batch_stats"], zeros)
    # The statistics are for networks that drop nothing.
    model = model.clone(dropout=0.0, stochastic_depth=0.0)
    _, updated = model.apply(
        {"params": variables["params"], "batch_stats": given},
        images,
        train=True,
        mutable=["batch_stats"],
    )
    found = by_layer(updated["batch_stats"])
    frozen = [name for name in names if found[name]["var"] is zeros[name]["var"]]
    if frozen:
        raise ValueError(f"the model does not train the statistics of {frozen}")
    return jax.tree.map(lambda leaf: leaf / 0.1, {name: found[name] for name in names})


def no_sums(variables: Any, names: Iterable[str]) -> Sums:
    """Returns the sums before the first batch."""
    there = by_layer(variables["batch_stats"])
    zeros = {name: jax.tree.map(jnp.zeros_like, there[name]) for name in sorted(names)}
    return Sums(jnp.zeros((), jnp.int32), zeros)


def add_batch(
    state: tuple[Sums, Any],
    batch: dict[str, jax.Array],
    stored: dict[str, jax.Array],
    *,
    model: nn.Module,
    transform: Transform,
    operations: tuple[Operation, ...],
    key: jax.Array,
) -> Sums:
    """Returns the sums of `state`, (sums, variables), with one batch more.

    The images are augmented as in training, but not mixed: what is evaluated is not.
    What is drawn for them is a function of `key` and the number of the batch.
    """
    sums, variables = state
    key = devices.own(jax.random.fold_in(key, sums.batches))
    batch = views.gather(batch, stored)
    operations = tuple(each for each in operations if not isinstance(each, Mixing))
    images, _ = classification.see(key, batch, model.num_classes, transform, operations)
    found = batch_statistics(model, variables, images, sums.statistics)
    added = jax.tree.map(jnp.add, sums.statistics, found)
    return Sums(sums.batches + 1, added)


def compile_add(
    variables: Any,
    names: Iterable[str],
    batch: Any,
    stored: Any,
    *,
    mesh: Mesh,
    mode: str = "jit",
    **options: Any,
) -> jax.stages.Compiled:
    """Returns `add_batch(state, batch, stored)` compiled for arguments of these shapes.

    It serves all variables of one shape; `options` are the other arguments.
    """
    state = jax.eval_shape(
        lambda variables: (no_sums(variables, names), variables), variables
    )
    step = functools.partial(add_batch, **options)
    program, _ = parallel.compile_step(step, state, batch, stored, mesh=mesh, mode=mode)
    return program


def measure(
    program: jax.stages.Compiled,
    variables: Any,
    names: Iterable[str],
    batches: Iterable[dict[str, jax.Array]],
    stored: dict[str, jax.Array],
    mesh: Mesh,
) -> Any:
    """Returns variables whose layers `names` have the statistics of the batches.

    All else is what it was, bit for bit. `program` is of `compile_add`; variables and
    batches are on the devices.
    """
    sums = parallel.replicate(no_sums(variables, names), mesh)
    for batch in batches:
        sums = program((sums, variables), batch, stored)
        # Few steps are under way at a time, as in training.
        jax.block_until_ready(sums.batches)
    batch_stats = with_statistics(variables["batch_stats"], average(sums))
    return {**variables, "batch_stats": batch_stats}


def average(sums: Sums) -> Statistics:
    """Returns the mean over the batches."""
    return jax.tree.map(lambda leaf: leaf / sums.batches, sums.statistics)


class Drift(NamedTuple):
    """How far the statistics of a layer have moved.

    That of means is counted in deviations before, that of deviations is the logarithm
    of their ratio: 0.1 is a tenth of a deviation, and 10 % more of it. A deviation is
    what BatchNorm divides by, the root of variance + 1e-5.

    Attributes:
      layer: its name.
      channels: how many it has.
      mean_rms, deviation_rms: root of the mean square over the channels.
      mean_largest, deviation_largest: that of the channel that moved most, with sign.
      mean_channel, deviation_channel: its number.
    """

    layer: str
    channels: int
    mean_rms: float
    mean_largest: float
    mean_channel: int
    deviation_rms: float
    deviation_largest: float
    deviation_channel: int


def drift(before: Any, after: Any) -> list[Drift]:
    """Returns how far statistics moved between two trees of batch_stats, by layer."""
    there, here = by_layer(before), by_layer(after)
    return [drift_of(name, there[name], here[name]) for name in there]


def drift_of(name: str, before: dict[str, Any], after: dict[str, Any]) -> Drift:
    """Returns how far the statistics of one layer moved, in float64."""
    before, after = (
        {kind: np.asarray(values, np.float64) for kind, values in layer.items()}
        for layer in (before, after)
    )
    deviations = [np.sqrt(layer["var"] + EPS) for layer in (before, after)]
    means = (after["mean"] - before["mean"]) / deviations[0]
    logs = np.log(deviations[1] / deviations[0])
    return Drift(name, len(means), *moved(means), *moved(logs))


def moved(values: np.ndarray) -> tuple[float, float, int]:
    """Returns the root mean square of values, the largest of them, and its place."""
    place = int(np.abs(values).argmax())
    return float(np.sqrt(np.mean(values**2))), float(values[place]), place


def drift_rows(rows: list[Drift]) -> Iterator[list[Any]]:
    """Yields the header and a row a layer, as batch_norm.csv holds them."""
    yield list(Drift._fields)
    yield from (list(row) for row in rows)


def lines(rows: list[Drift]) -> Iterator[str]:
    """Yields what people see of a drift: a line a layer, of many those moved most."""
    shown = rows
    if len(rows) > SHOWN:
        most = sorted(rows, key=lambda row: -max(row.mean_rms, row.deviation_rms))
        shown = [row for row in rows if row in most[:SHOWN]]
    width = max(len(row.layer) for row in rows) + 2
    yield (
        f"{'':{width}}{'':>9}{'mean, in deviations':>29}{'log ratio of deviations':>29}"
    )
    heads = "".join(f"{'rms':>9}{'largest':>9}{'channel':>11}" for _ in range(2))
    yield f"{'BatchNorm':{width}}{'channels':>9}{heads}"
    for row in shown:
        yield (
            f"{row.layer:{width}}{row.channels:>9}"
            f"{row.mean_rms:>9.3f}{row.mean_largest:>+9.3f}{row.mean_channel:>11}"
            f"{row.deviation_rms:>9.3f}{row.deviation_largest:>+9.3f}"
            f"{row.deviation_channel:>11}"
        )
    if len(shown) < len(rows):
        yield f"the {SHOWN} of {len(rows)} layers that have moved most"
