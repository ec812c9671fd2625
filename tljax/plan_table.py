"""The table of a fine-tuning plan, as it stands in front of a run."""

from collections.abc import Iterator
from typing import Any

import jax

from tljax.plan import Phase, batch_norm_of, find_norms, layers_of
from tljax.run import Run


def lines(run: Run) -> Iterator[str]:
    """Yields a header and a line a row of the plan.

    What trains of the parameters, from which step on, at which highest learning rate
    and which decay, what becomes of BatchNorm, and the optimiser's memory.
    """
    plan, optim = run.plan, run.config.optim
    state = run.abstract_state(plan.phases[-1])
    sizes = {
        "/".join(key.key for key in path): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    }
    norms = find_norms(sizes)
    patterns = {name: describe(run, name) for name in plan.rows}
    width = max(len("plan"), *map(len, patterns.values()))
    heads = "".join(f"{head:>14}" for head in ("parameters", "trained", "from step"))
    heads += f"{'rate':>10}{'decay':>10}  {'BatchNorm':19}{'optimiser':>9}"
    yield f"{'plan':{width}}{heads}"
    for name, row in plan.rows.items():
        trained = plan.phases[-1].trained.get(name, ())
        total = sum(sizes[path] for path in plan.governed[name])
        training = sum(sizes[path] for path in trained)
        decay = optim.weight_decay if row.weight_decay is None else row.weight_decay
        cells = [f"{total:>14,}", f"{training:>14,}"]
        if trained:
            rate = optim.learning_rate * row.learning_rate
            cells += [
                f"{row.unfreeze_at + 1:>14,}",
                f"{rate:>10.3g}",
                f"{decay:>10.3g}",
            ]
        else:
            cells += [f"{'never':>14}", f"{'-':>10}", f"{'-':>10}"]
        memory = bytes_of(state.opt_state, name) / 1e6
        layers = layers_of(plan.governed[name], norms)
        mode = batch_norm_of(row) if layers else "-"
        if mode == "train" and layers & plan.phases[-1].frozen_statistics:
            mode = "frozen_statistics"  # Another row governs a part of the layer.
        cells += [
            f"  {mode:19}",
            f"{memory:>6.1f} MB",
        ]
        yield f"{patterns[name]:{width}}" + "".join(cells)


def bytes_of(opt_state: Any, name: str) -> int:
    """Returns the bytes that the optimiser holds for a row."""
    return sum(
        leaf.size * leaf.dtype.itemsize
        for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state)
        if any(getattr(key, "key", None) == name for key in path)
    )


def names(run: Run, phase: Phase) -> str:
    """Returns the patterns of the rows that train in a phase."""
    return ", ".join(describe(run, name) for name in phase.trained)


def describe(run: Run, name: str) -> str:
    """Returns what people call a row: its pattern, or what an empty one stands for."""
    rest = "everything" if len(run.plan.rows) == 1 else "the rest"
    return run.plan.rows[name].pattern or rest
