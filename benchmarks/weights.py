"""Loading a weight file: tljax beside torch, in wall time and in memory.

    pip install -e '.[parity]' && python -m benchmarks.weights --model=resnet152

Both sides load the same file, written once with torch.save, in processes of their own
that alternate: `pretrained.load` here, `torch.load` (weights_only, the default) and
`load_state_dict` there. Imports and building the module are not timed. Memory is the
growth of the process's peak over what it held before, in units of the file.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

from benchmarks.torch_side import import_torchvision

MODEL = flags.DEFINE_string("model", "resnet152", "architecture")
REPEATS = flags.DEFINE_integer("repeats", 7, "processes of each side")
SIDE = flags.DEFINE_string("side", "", "what a child process measures")
PATH = flags.DEFINE_string("path", "", "the file, given to a child process")


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


def held_bytes() -> int:
    """Returns the memory that this process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    """Returns the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_here(side: str, path: str, model: str) -> dict[str, float]:
    """Returns seconds and bytes of one load in this process."""
    if side == "ours":
        from tljax import pretrained  # noqa: F401
    else:
        torch_model("resnet18")
    before = held_bytes()
    return {"seconds": SIDES[side](path, model), "bytes": peak_bytes() - before}


def measure_apart(side: str, path: str) -> dict[str, float]:
    """Returns seconds and bytes of one load in a new process."""
    command = [sys.executable, "-m", "benchmarks.weights"]
    command += [f"--side={side}", f"--path={path}", f"--model={MODEL.value}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(output.stdout.splitlines()[-1])


def compare(path: Path) -> dict[str, object]:
    """Returns the comparison over alternating processes."""
    size = path.stat().st_size
    runs = {side: [] for side in SIDES}
    for _ in range(REPEATS.value):
        for side in SIDES:
            runs[side].append(measure_apart(side, str(path)))
    seconds = {side: [run["seconds"] for run in runs[side]] for side in SIDES}
    ratios = [
        theirs / ours
        for ours, theirs in zip(seconds["ours"], seconds["theirs"], strict=True)
    ]
    return {
        "benchmark": "weights",
        "model": MODEL.value,
        "file_megabytes": size / 1e6,
        "seconds_ours": statistics.median(seconds["ours"]),
        "seconds_theirs": statistics.median(seconds["theirs"]),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "memory_ours": max(run["bytes"] for run in runs["ours"]) / size,
        "memory_theirs": max(run["bytes"] for run in runs["theirs"]) / size,
        "repeats": REPEATS.value,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def main(argv: list[str]) -> None:
    """Prints the comparison, or what a child process measured, as one JSON line."""
    del argv
    if SIDE.value:
        print(json.dumps(measure_here(SIDE.value, PATH.value, MODEL.value)))
        return
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{MODEL.value}.pth"
        torch.save(torch_model(MODEL.value).state_dict(), path)
        print(json.dumps(compare(path) | {"torch": torch.__version__}))


if __name__ == "__main__":
    app.run(main)
