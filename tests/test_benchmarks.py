"""Every benchmark runs at a small size and ends with one line of JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_set_for_a_gpu_runs_to_its_end_without_one(tmp_path):
    small = {
        "DEVICES": "cpu", "MODEL": "resnet18", "IMAGE_SIZE": "8", "BATCHES": "4",
        "STEPS": "1", "REPEATS": "2", "TORCH": "", "EXTRA": "--width=2 --stem=small",
    }  # fmt: skip
    file = tmp_path / "gpu.jsonl"
    process = subprocess.run(
        [ROOT / "benchmarks" / "gpu.sh", file],
        env=os.environ | small | {"PYTHON": sys.executable, "AWAIT_EVERY": "2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["train", "infer"]
    assert all(line["await_every"] == 2 for line in lines)
    assert (tmp_path / "gpu.png").exists()
    assert (tmp_path / "gpu.md").read_text().count("resnet18") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, keys",
    [
        ("input_pipeline", {"ours", "batch_size", "workers"}),
        ("probe_speed", {"ratio", "ratio_low", "ratio_high", "relative_difference"}),
        ("data_cost", {"ratio", "ratio_low", "ratio_high", "real_ratio"}),
        ("convolution", {"ratio", "cases", "ms_chosen"}),
        ("fine_tuning", {"ratio", "ratio_low", "ratio_high", "presets"}),
        ("throughput", {"images_per_second", "step_time_ms", "compile_seconds"}),
        ("scaling", {"axes", "device", "jax"}),
        ("report", {"rows"}),
        ("label_efficiency", {"rows", "seeds", "seconds"}),
    ],
)
def test_a_benchmark_ends_with_its_numbers(name, keys):
    process = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--smoke"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert keys <= set(json.loads(process.stdout.splitlines()[-1]))
