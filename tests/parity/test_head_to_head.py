"""The head-to-head with plain torch, in small: the same file, recipe and draws."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `parity` is not installed")

ROOT = Path(__file__).parent.parent.parent
FLAGS = ["--seeds=2", "--num_steps=5", "--source_steps=40"]


def test_fine_tuning_a_file_goes_as_it_goes_in_torch():
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.head_to_head", *FLAGS],
        cwd=ROOT,
        # torch's threads wait for one another without sleep where cores are shared.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    print(result)
    # Rounding grows from step to step, fastest in a network that knows nothing yet.
    assert result["source_accuracy"] > 0.5
    differences = result["same_loss_differences"]
    assert len(differences) == 5
    assert max(differences[:2]) <= 1e-5
    assert max(differences) <= 1e-3
    # One of the 179 test images may lie on the border.
    assert abs(result["same_accuracy_difference"]) <= 1.5 / 179
    assert len(result["accuracies_ours"]) == len(result["accuracies_theirs"]) == 2
    assert result["ratio_low"] <= result["ratio"] <= result["ratio_high"]
