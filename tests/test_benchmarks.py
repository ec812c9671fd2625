"""Every benchmark runs at a small size and ends with one line of JSON."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import flags

from benchmarks import command, convolution, processes
from tljax.errors import ConfigError, RunError

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
        timeout=600,
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
        ("convolution", {"ratio", "ratio_low", "ratio_high", "cases", "ms_chosen"}),
        ("layers", {"ratio", "ratio_low", "ratio_high", "cases", "ms_ours"}),
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
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    line = json.loads(process.stdout.splitlines()[-1])
    assert line["benchmark"] == name
    assert keys <= set(line)
    assert name == "report" or {"hardware", "device", "jax", "versions"} <= set(line)


NAMES = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "__main__" in path.read_text()
)


def test_the_readme_lists_every_command():
    rows = (ROOT / "benchmarks" / "README.md").read_text().splitlines()
    listed = [row[3:].split("`")[0].split()[0] for row in rows if row[:3] == "| `"]
    assert sorted(set(listed) - {"gpu.sh"}) == NAMES


def test_the_readme_names_every_file():
    text = (ROOT / "benchmarks" / "README.md").read_text()
    others = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - set(NAMES)
    assert {name for name in others if f"`{name}.py`" not in text} == {"__init__"}


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_flag_is_one_line(call_command, name):
    benchmark = importlib.import_module(f"benchmarks.{name}")
    code, out, err = call_command(benchmark, "--no_such_flag=1")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "name, flag, expected",
    [
        ("convolution", "--shapes=x", "--shapes: 'x' is not six or seven"),
        ("convolution", "--shapes=2,4,8,8,3", "'2,4,8,8,3' is not six or seven"),
        ("convolution", "--shapes=2,4,8,8,3,1,3", "3 groups do not divide"),
        ("convolution", "--model=foo", "--model = 'foo'"),
        ("convolution", "--stem=smal", "did you mean 'small'"),
        ("convolution", "--precision=bfloat", "did you mean 'bfloat16'"),
        ("data_cost", "--model=foo", "--model = 'foo'"),
        ("fine_tuning", "--presets=heed", "did you mean 'head'"),
        ("fine_tuning", "--presets=", "--presets is empty"),
        ("fine_tuning", "--image_size=0", "--image_size"),
        ("head_to_head", "--seeds=1", "--seeds"),
        ("head_to_head", "--labels_per_class=500", "--labels_per_class = 500"),
        ("input_pipeline", "--size=500", "--size = '500'"),
        ("input_pipeline", "--images=60", "--images = 60"),
        ("label_efficiency", "--labels=x", "--labels: 'x'"),
        ("label_efficiency", "--labels=1000", "--labels = 1000"),
        ("label_efficiency", "--backbones=foo", "--backbones = 'foo'"),
        ("label_efficiency", "--seeds=1", "--seeds"),
        ("layers", "--model=resnet5", "did you mean 'resnet50'"),
        ("layers", "--precision=float", "--precision = 'float'"),
        ("probe_speed", "--model=resnet5", "did you mean 'resnet50'"),
        ("probe_speed", "--images=24", "--images"),
        ("probe_speed", "--batch_size=900", "--batch_size = 900"),
        ("weights", "--model=foo", "--model = 'foo'"),
    ],
)
def test_a_mistake_is_one_line(call_command, name, flag, expected):
    benchmark = importlib.import_module(f"benchmarks.{name}")
    code, out, err = call_command(benchmark, flag)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert expected in err
    assert "config." not in err


def test_more_memory_than_there_is_is_one_line():
    with (
        pytest.raises(ConfigError, match="out of memory: 9 TiB"),
        command.words_of(flags.FlagValues()),
    ):
        raise MemoryError("9 TiB")


def test_a_shape_may_have_groups():
    case = convolution.parse("2,4,8,16,3,2,4")
    assert (case.images, case.kernel) == ((2, 4, 4, 8), (3, 3, 2, 16))
    assert (case.window.stride, case.window.groups) == (2, 4)
    assert convolution.parse("2,4,8,16,3,2").kernel == (3, 3, 8, 16)


def test_the_peak_of_a_new_process_is_its_own():
    """As the kernel tells it to getrusage, it begins with that of the parent."""
    held = b"x" * (300 << 20)
    assert processes.peak_bytes() > len(held)
    assert processes.in_new_process(processes.peak_bytes) < len(held)


def test_a_process_that_dies_is_one_line():
    with pytest.raises(RunError, match="was killed"):
        processes.in_new_process(os._exit, 1)


def test_what_is_compiled_is_not_taken_from_the_disk(monkeypatch):
    found = []

    def run_command(run, argv):
        found.append(jax.config.jax_enable_compilation_cache)
        return 3

    monkeypatch.setattr(command, "run_command", run_command)
    folder = jax.config.jax_compilation_cache_dir
    for elsewhere in (folder, None):
        jax.config.update("jax_compilation_cache_dir", elsewhere)
        try:
            with pytest.raises(SystemExit, match="3"):
                command.main(None)
        finally:
            jax.config.update("jax_compilation_cache_dir", folder)
            jax.config.update("jax_enable_compilation_cache", True)
    assert found == [True, False]
