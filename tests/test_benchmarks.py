"""Every benchmark runs at a small size and ends with one line of JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, keys",
    [
        ("input_pipeline", {"ours", "batch_size", "workers"}),
        ("probe_speed", {"ratio", "ratio_low", "ratio_high", "relative_difference"}),
        ("data_cost", {"ratio", "ratio_low", "ratio_high", "real_ratio"}),
        ("fine_tuning", {"ratio", "ratio_low", "ratio_high", "presets"}),
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
