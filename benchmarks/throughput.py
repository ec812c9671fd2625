"""Images a second of the step that trains, or of the network asked for predictions.

    python -m benchmarks.throughput --model=resnet50 --image_size=224 --batch_size=8

It is `tljax.tasks.classification`'s own step through `tljax.parallel.compile_step`, as
a run has it, on images made up. It needs jax, flax, optax, absl, numpy and
ml_collections, nothing else. Each time is that of a call, waited for; `step_time_ms` is
a step's share of it. Compiling, `compile_seconds`, is apart. The last line is JSON.

  flops_per_step     by XLA's analysis of the program as it was written
  matmul_share       FLOP/s over those of large matrix products of the same precision
  peak_memory_bytes  of a device; on CPUs of the process, compiling included
"""

from typing import Any

from absl import flags
from jax import numpy as jnp

from benchmarks import command, machine, timing, workload
from benchmarks.work import Work
from tljax.errors import ConfigError
from tljax.models import MODELS
from tljax.parallel import COMPILE_MODES
from tljax.tasks.classification import PRECISIONS

STEMS = ("standard", "small")
INPUTS = ("device", "host")
CHOICES = {
    "model": MODELS,
    "phase": workload.STEPS,
    "precision": PRECISIONS,
    "compile": COMPILE_MODES,
    "input": INPUTS,
    "stem": STEMS,
}
SMOKE = {
    "model": "resnet18", "width": 4, "stem": "small", "image_size": 8, "batch_size": 4,
    "repeats": 3,
}  # fmt: skip


def define_work(values: flags.FlagValues) -> None:
    """Defines the flags that say what is measured."""
    default = Work()
    for name, doc in {
        "model": "architecture",
        "phase": "train or infer",
        "precision": "float32 or bfloat16",
        "compile": f"{' or '.join(COMPILE_MODES)}",
        "devices": "cpu, gpu or tpu; empty = the best there is",
        "input": "device: images lie there; host: uint8 batches, sent one ahead",
        "stem": "standard, or small for small images",
    }.items():
        flags.DEFINE_string(name, getattr(default, name), doc, flag_values=values)
    command.define_numbers(
        values,
        image_size=(default.image_size, "pixels"),
        batch_size=(default.batch_size, "images a step, over all devices"),
        steps_per_call=(default.steps_per_call, "steps of training of one call"),
        width=(default.width, "channels of the first stage"),
    )
    command.define_numbers(values, 0, num_devices=(default.num_devices, "0 = all"))
    doc = "as in a run of many steps, see tljax.programs.LONG"
    flags.DEFINE_bool("often", default.often, doc, flag_values=values)


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this benchmark."""
    define_work(values)
    command.define_numbers(
        values,
        repeats=(20, "times that are taken"),
        await_every=(1, "calls made before they are waited for"),
    )


def read_work(values: flags.FlagValues) -> Work:
    """Returns what the flags ask for; raises ConfigError for an unknown name."""
    command.check(values, **CHOICES)
    names = [name for name in Work._fields if name in values]
    return Work(**{name: values[name].value for name in names})


def prepare(work: Work, await_every: int = 1) -> workload.Program:
    """Returns the compiled program; raises ConfigError for what cannot be run."""
    program = workload.prepare(work)
    platform = program.mesh.devices.flat[0].platform
    if await_every > 1 and program.mesh.size > 1 and platform == "cpu":
        # jax 0.10.2 aborts where many steps with collectives wait on CPU devices.
        raise ConfigError(f"--await_every={await_every} is for one device, or no CPUs")
    return program


def describe(program: workload.Program, times: list[float]) -> dict[str, Any]:
    """Returns the result for the milliseconds of calls."""
    work = program.work
    steps = [time / work.steps_per_call for time in times]
    step_time = timing.spread(steps)
    return {
        "model": work.model,
        "phase": work.phase,
        "image_size": work.image_size,
        "batch_size": work.batch_size,
        "precision": work.precision,
        "compile": work.compile,
        "images_per_second": timing.significant(
            1000 * work.batch_size / step_time["median"]
        ),
        "step_time_ms": step_time,
        "compile_seconds": round(program.seconds, 2),
        **machine.describe(program.mesh),
        "steps_per_call": work.steps_per_call,
        "input": work.input,
        "stem": work.stem,
        "width": work.width,
        "often": work.often,
        "times_ms": [timing.significant(time) for time in steps],
        "peak_memory_bytes": machine.peak_memory(program.mesh),
    }


def arithmetic(program: workload.Program, milliseconds: float, peak: float):
    """Returns the FLOPs of a step, and their share of a peak in FLOP/s."""
    count = machine.flops(program.step, program.arguments)
    share = count / milliseconds * 1000 / peak if count else None
    return {
        "flops_per_step": count,
        "matmul_flops_per_second": timing.significant(peak),
        "matmul_share": share and round(share, 4),
    }


def run(argv: list[str]) -> None:
    """Measures what the command line asks for; raises RunError."""
    values = command.parse(argv, __doc__, define, SMOKE)
    if values is None:
        return
    work = read_work(values)
    with command.words_of(values):
        program = prepare(work, values.await_every)
    dtype = PRECISIONS[work.precision] or jnp.float32
    peaks = [machine.matmul_peak(program.mesh, dtype)]
    every = values.await_every
    times = timing.time_calls(program.take, values.repeats, await_every=every)
    result = {"benchmark": "throughput"} | describe(program, times)
    # Before and after: the machine may have been busy once.
    peaks.append(machine.matmul_peak(program.mesh, dtype))
    result |= {"await_every": every}
    result |= arithmetic(program, result["step_time_ms"]["median"], max(peaks))
    command.finish(result, values.output)


if __name__ == "__main__":
    command.main(run)
