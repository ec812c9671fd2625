"""Loading a weight file: tljax beside torch, in wall time and in memory.

    pip install -e '.[parity]' && python -m benchmarks.weights --model=resnet152

Both sides load the same file, written once with torch.save, in processes of their own
that alternate: `pretrained.load` here, `torch.load` (weights_only, the default) and
`load_state_dict` there. Imports and building the module are not timed. Memory is the
growth of the process's peak over what it held before, in units of the file.
"""

import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import command, processes, timing
from benchmarks.torch_side import check_torch, import_torchvision


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this benchmark."""
    flags.DEFINE_string("model", "resnet152", "architecture", flag_values=values)
    command.define_numbers(values, repeats=(7, "processes of each side"))


def load_ours(path: str, model: str) -> float:
    """Returns the seconds that tljax takes to load a file."""
    from tljax import pretrained

    start = time.perf_counter()
    pretrained.load(f"file:{path}", arch=model)
    return time.perf_counter() - start


def load_theirs(path: str, model: str) -> float:
    """Returns the seconds that torch takes to load a file into its module."""
    import torch

    module = torch_model(model)
    start = time.perf_counter()
    module.load_state_dict(torch.load(path, weights_only=True))
    return time.perf_counter() - start


def torch_model(name: str):
    """Returns torchvision's module."""
    torchvision = import_torchvision()
    return torchvision.models.get_model(name, weights=None)


SIDES = {"ours": load_ours, "theirs": load_theirs}


def measure(side: str, path: str, model: str) -> dict[str, float]:
    """Returns seconds and bytes of one load in this process."""
    if side == "ours":
        from tljax import pretrained  # noqa: F401
    else:
        torch_model("resnet18")
    before = processes.held_bytes()
    seconds = SIDES[side](path, model)
    return {"seconds": seconds, "bytes": processes.peak_bytes() - before}


def compare(path: Path, model: str, repeats: int) -> dict[str, Any]:
    """Returns the comparison over alternating processes."""
    size = path.stat().st_size
    runs = {side: [] for side in SIDES}
    for turn in range(repeats):
        for side in timing.order(SIDES, turn):
            found = processes.in_new_process(measure, side, str(path), model)
            runs[side].append(found)
    seconds = {side: [run["seconds"] for run in runs[side]] for side in SIDES}
    return {
        "file_megabytes": size / 1e6,
        "seconds_ours": statistics.median(seconds["ours"]),
        "seconds_theirs": statistics.median(seconds["theirs"]),
        **timing.ratio(seconds["ours"], seconds["theirs"]),
        "memory_ours": max(run["bytes"] for run in runs["ours"]) / size,
        "memory_theirs": max(run["bytes"] for run in runs["theirs"]) / size,
    }


def run(argv: list[str]) -> None:
    """Compares both sides; raises RunError."""
    values = command.parse(argv, __doc__, define)
    if values is None:
        return
    # Not in the processes that measure.
    from benchmarks import machine
    from tljax import parallel
    from tljax.models import MODELS

    command.check(values, model=MODELS)
    check_torch()
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{values.model}.pth"
        torch.save(torch_model(values.model).state_dict(), path)
        found = compare(path, values.model, values.repeats)
    result = {
        "benchmark": "weights",
        "model": values.model,
        **found,
        "repeats": values.repeats,
        "cores": machine.cores(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **machine.describe(parallel.create_mesh(num_devices=1)),
    }
    command.finish(result, values.output)


if __name__ == "__main__":
    command.main(run)
