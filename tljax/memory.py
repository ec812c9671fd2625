"""What a step needs of the memory of a device, and what to do where it has less."""

import jax

from tljax import parallel
from tljax.consistency import batch_unit
from tljax.errors import ConfigError, RunError
from tljax.run import Run


def check(run: Run, program: jax.stages.Compiled) -> None:
    """Raises ConfigError where a step needs more memory than a device has.

    It names a batch that would fit, as far as `needed_by` goes.
    """
    has, needs = parallel.memory_of(run.mesh), parallel.memory_needed(program)
    if not has or needs <= has:
        return
    beside = program.memory_analysis().temp_size_in_bytes
    share = 1 - (needs - has) / max(beside, 1)
    fits = whole_batch(run, share * run.batch_size)
    advice = f"a batch of {fits} would fit" if fits > 0 else "no batch would fit"
    raise ConfigError(
        f"{describe_batch(run)} needs about {needs / 1e9:.2f} GB on each device, "
        f"which has {has / 1e9:.2f} GB; {advice}"
    )


def none_left(run: Run, compiled: list[jax.stages.Compiled], reason: str) -> RunError:
    """Returns the error of a run that a device has no memory left for.

    It names what the largest of its steps needs, and half of the batch to go on with:
    all of it was to fit, but others may use the device.
    """
    half = whole_batch(run, run.batch_size / 2)
    needs, advice = "", f"take a batch of {half}" if half else "no batch is smaller"
    if compiled:
        largest = max(compiled, key=parallel.memory_needed)
        has, less = parallel.memory_of(run.mesh), needed_by(run, largest, half)
        needs = f", which needs about {parallel.memory_needed(largest) / 1e9:.2f} GB"
        needs += f" of {has / 1e9:.2f} GB" if has else ""
        advice += f", about {less / 1e9:.2f} GB" if half else ""
    return RunError(
        f"no memory is left on the device, with {describe_batch(run)}{needs}; "
        f"{advice}: {reason}"
    )


def needed_by(run: Run, program: jax.stages.Compiled, batch_size: int) -> float:
    """Returns the bytes a step would need on each device with so many images.

    As far as what it needs beside its arguments is in proportion to the batch.
    """
    beside = program.memory_analysis().temp_size_in_bytes
    less = beside * (1 - batch_size / run.batch_size)
    return parallel.memory_needed(program) - less


def describe_batch(run: Run) -> str:
    """Returns size and images of a batch as errors name them."""
    return (
        f"config.data.batch_size = {run.batch_size} of images of "
        f"{run.image_shape[0]} px"
    )


def whole_batch(run: Run, number: float) -> int:
    """Returns the most images, up to a number, that can be a batch."""
    unit = batch_unit(run.config, run.mesh.size)
    return int(number) // unit * unit
