"""What a run would be: its model, learning rates and memory, with compiled steps."""

from typing import Any

import jax
import jax.numpy as jnp

from tljax import judge, parallel, plan_table, sharding
from tljax.config import Config
from tljax.programs import compile_steps
from tljax.run import Run, prepare


def dry_run(config: Config) -> None:
    """Prints the table of the model, the schedule and the memory; trains nothing.

    Raises RunError for all that would end the run before its first step, but for what
    a judge that is made first turns out to be, and for what no image has been read of.
    """
    for name, inner in (("pretrain", config.pretrain), ("judge", config.judge)):
        if inner is not None:
            print(f"The run made first ({name}):\n")
            dry_run(inner)
            print("\nThe run itself:\n")
    run = prepare(config)
    check_judge(run)
    print(run.describe())
    print(run.storage.news)
    print_model(run)
    for line in plan_table.lines(run):
        print(line)
    print_schedule(run)
    print_memory(run)


def check_judge(run: Run) -> None:
    """Raises RunError where the judge of a GAN, being there, cannot be opened."""
    if run.config.task == "gan" and run.config.judge is None:
        judge.open_network(run.config.gan.judge, run)


def print_model(run: Run) -> None:
    """Prints parameters and output shape of every layer, for one image."""
    images = jnp.zeros((1, *run.image_shape))
    table = run.model.tabulate(
        jax.random.key(0),
        images,
        depth=1,
        console_kwargs={"width": 120, "force_terminal": False},
    )
    print(table)


def print_schedule(run: Run) -> None:
    """Prints the learning rate at the first step, at every tenth, and at the last."""
    num_steps = run.config.num_steps
    steps = sorted({round(tenth * (num_steps - 1) / 10) for tenth in range(11)})
    every = run.config.optim.accumulate_steps
    rates = [float(run.schedule(step // every)) for step in steps]
    highest = run.config.optim.learning_rate
    print(f"learning rate ({run.config.optim.schedule}, {run.config.optim.name})")
    for step, rate in zip(steps, rates, strict=True):
        print(f"  step {step:>8,}  {rate:<10.4g} {'#' * round(40 * rate / highest)}")


def print_memory(run: Run) -> None:
    """Prints what state and a training step take on each device; compiles the steps.

    Raises ConfigError where a device has less. The state is counted, in the last phase
    of the plan, which is the largest; what a step needs beside it is the compiler's own
    figure.
    """
    state = run.abstract_state(run.plan.phases[-1])
    programs = compile_steps(run)
    stored = run.abstract_stored()
    placed = run.placements(state)
    batch = run.abstract_batch("train")
    parts = {
        "parameters": (state.params, placed.params),
        "BatchNorm statistics": (state.batch_stats, placed.batch_stats),
        "optimiser": (state.opt_state, placed.opt_state),
        "moving average": (state.ema, placed.ema),
        "batch": (batch, parallel.batch_shardings(batch, run.mesh)),
        "training images": (stored, run.placements(stored)),
    }
    print("memory on each device")
    for name, tree in parts.items():
        print(f"  {name:22} {megabytes(*tree):10.2f} MB")
    needs = max(
        program.wait().memory_analysis().temp_size_in_bytes
        for program in programs.train_steps.values()
    )
    print(f"  {'activations, gradients':22} {needs / 1e6:10.2f} MB")
    print(f"steps compiled in {programs.seconds:.1f} s")


def megabytes(tree: Any, shardings: Any) -> float:
    """Returns the size of a device's part of all arrays of a tree in 10^6 bytes."""
    return sharding.bytes_on_a_device(tree, shardings) / 1e6
