"""Our step beside torchvision's model, doing the same work in the same process.

    pip install -e '.[parity]'
    python -m benchmarks.compare_torch --model=resnet50 --image_size=224 --batch_size=8

Flags are those of `benchmarks.throughput`; `repeats` are turns. PyTorch runs eager,
with channels_last, and with torch.compile on top of it; `torch` tells each one's speed,
or why it did not run. All sides take turns. `ratio` is ours over the best of theirs in
speed, turn by turn: its median and both ends. bfloat16 is autocast there. On CPUs a
ratio says something where `hardware.load` was low: threads of PyTorch wait for one
another without sleep, and lose most where others are at work.
"""

import importlib
import os
import time

from absl import flags

from benchmarks import command, machine, throughput, timing, torch_side
from benchmarks.work import Work
from tljax import allocator
from tljax.errors import ConfigError, RunError

MODES = ("eager", "channels_last", "compile")
# With 4 channels last and AVX2, torch 2.13 writes where it must not, and dies.
SMOKE = throughput.SMOKE | {
    "width": 8, "repeats": 2, "calls": 1, "torch": "eager,channels_last",
}  # fmt: skip


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this benchmark."""
    throughput.define(values)
    values.set_default("repeats", 5)
    flags.DEFINE_list("torch", list(MODES), "sides of PyTorch", flag_values=values)
    command.define_numbers(values, calls=(3, "that count, in a turn"))
    command.define_numbers(values, 0, torch_threads=(0, "0 = as many as PyTorch takes"))


def prepare_theirs(work: Work, platform: str, modes: list[str]):
    """Returns mode -> take of those that run, and mode -> what is known of each."""
    from benchmarks import torch_rival

    sides, known = {}, {}
    for mode in modes:
        start = time.perf_counter()
        try:
            take = torch_rival.make_take(work, platform, mode)
            take(1)
        except Exception as error:  # Whatever it is, the others can be compared.
            reason = " ".join(str(error).split())[:200]
            known[mode] = {"failed": f"{type(error).__name__}: {reason}"}
            continue
        sides[mode] = take
        seconds = round(time.perf_counter() - start, 2)
        known[mode] = {"first_step_seconds": seconds}
    if not sides:
        raise RunError(f"PyTorch did none of it: {known}")
    return sides, known


def run(argv: list[str]) -> None:
    """Compares what the command line asks for; raises RunError."""
    values = command.parse(argv, __doc__, define, SMOKE)
    if values is None:
        return
    work = throughput.read_work(values)
    command.check(values, torch=MODES)
    if work.devices == "tpu" or work.num_devices > 1:
        raise ConfigError("PyTorch is compared on one CPU or one GPU")
    torch_side.check_torch()
    # jax would take most of the memory of a GPU for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with command.words_of(values):
        program = throughput.prepare(work._replace(num_devices=1), values.await_every)
    platform = machine.describe(program.mesh)["platform"]
    if values.torch_threads:
        importlib.import_module("torch").set_num_threads(values.torch_threads)
    with allocator.compiling():  # torch.compile does too.
        sides, known = prepare_theirs(work, platform, values.torch)
    times = timing.take_turns(
        {"ours": program.take} | in_calls(sides, work.steps_per_call),
        values.repeats,
        values.calls,
        await_every=values.await_every,
    )
    command.finish(describe(program, times, known), values.output)


def in_calls(sides, steps: int):
    """Returns sides whose calls make as many steps as one of ours."""

    def several(take):
        return lambda count: take(count * steps)

    return {mode: several(take) for mode, take in sides.items()}


def describe(program, times, known):
    """Returns the result for the times of calls, one a turn, of each side."""
    import torch

    work = program.work
    ours = times.pop("ours")
    for mode, turns in times.items():
        step_time = timing.spread([time / work.steps_per_call for time in turns])
        known[mode] |= {
            "images_per_second": timing.significant(
                1000 * work.batch_size / step_time["median"]
            ),
            "step_time_ms": step_time,
        }
    best = min(times, key=lambda mode: known[mode]["step_time_ms"]["median"])
    result = throughput.describe(program, ours)
    return {
        "benchmark": "compare_torch",
        **result,
        **timing.ratio(ours, times[best]),
        "best": best,
        "torch": known,
        "versions": result["versions"] | {"torch": torch.__version__},
        "torch_threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    command.main(run)
