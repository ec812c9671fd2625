"""Imports run one way, and nothing heavy comes along."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each room may import of tljax beside itself and errors.
ALLOWED = {
    "errors": set(),
    "home": set(),
    "host_memory": set(),
    "compiled": {"home"},
    "stopwatch": set(),
    "initial": {"models"},
    "settings": set(),
    "models": set(),
    "plan": {"settings"},
    "presets": {"plan"},
    "state": {"plan"},
    "signals": set(),
    "processes": {"signals"},
    "versions": set(),
    "terminal": set(),
    "data": {"home", "settings"},
    "optim": set(),
    "fusion": {"models"},
    "several": {"models"},
    "sharding": set(),
    "parallel": {
        "allocator",
        "fusion",
        "host_memory",
        "models",
        "several",
        "sharding",
    },
    "checkpoint": {"plan"},
    "metrics": {"evaluation", "terminal"},
    "evaluation": set(),
    "tasks": {"models", "data", "initial", "optim", "plan", "state"},
    "batch_norm": {"data", "models", "parallel", "tasks"},
    "consistency": {"data", "models", "optim", "pretrained"},
    "sections": {
        "data",
        "models",
        "optim",
        "plan",
        "presets",
        "pretrained",
        "settings",
        "tasks",
    },
    "config": {
        "consistency",
        "data",
        "parallel",
        "plan",
        "pretrained",
        "sections",
        "settings",
        "tasks",
    },
    "workdirs": {"config", "data", "settings"},
    "pretrained": {"checkpoint", "data", "home", "models"},
    "run": {
        "config",
        "checkpoint",
        "consistency",
        "data",
        "initial",
        "optim",
        "parallel",
        "plan",
        "presets",
        "pretrained",
        "sharding",
        "state",
        "tasks",
        "terminal",
        "workdirs",
    },
    "memory": {"consistency", "parallel", "run"},
    "programs": {"data", "memory", "parallel", "plan", "run"},
    "plan_table": {"plan", "run"},
    "batches": {"data", "parallel", "run", "several", "terminal"},
    "start": {
        "checkpoint",
        "data",
        "initial",
        "parallel",
        "plan",
        "pretrained",
        "processes",
        "run",
        "state",
        "workdirs",
    },
    "recalibrate": {
        "batch_norm",
        "batches",
        "data",
        "parallel",
        "run",
        "start",
        "state",
    },
    "judge": {
        "data",
        "evaluation",
        "models",
        "network",
        "parallel",
        "pretrained",
        "run",
        "workdirs",
    },
    "validation": {
        "data",
        "judge",
        "metrics",
        "parallel",
        "programs",
        "run",
        "state",
    },
    "train": {
        "batch_norm",
        "batches",
        "config",
        "checkpoint",
        "data",
        "host_memory",
        "judge",
        "memory",
        "metrics",
        "parallel",
        "plan_table",
        "processes",
        "programs",
        "recalibrate",
        "run",
        "sharding",
        "signals",
        "start",
        "state",
        "stopwatch",
        "terminal",
        "validation",
        "versions",
        "workdirs",
    },
    "network": {
        "checkpoint",
        "config",
        "data",
        "initial",
        "metrics",
        "parallel",
        "run",
        "tasks",
    },
    "evaluate": {
        "checkpoint",
        "data",
        "entry",
        "evaluation",
        "network",
        "parallel",
        "run",
        "start",
        "terminal",
        "versions",
        "workdirs",
    },
    "interpolation": {
        "batch_norm",
        "batches",
        "checkpoint",
        "config",
        "data",
        "evaluate",
        "evaluation",
        "network",
        "parallel",
        "pretrained",
        "recalibrate",
        "run",
        "terminal",
        "workdirs",
    },
    "interpolate": {
        "checkpoint",
        "entry",
        "evaluate",
        "evaluation",
        "interpolation",
        "parallel",
        "run",
        "terminal",
        "versions",
        "workdirs",
    },
    "predict": {
        "checkpoint",
        "config",
        "data",
        "entry",
        "evaluation",
        "network",
        "parallel",
        "run",
        "tasks",
        "terminal",
        "workdirs",
    },
    "lr_find": {
        "batches",
        "command_line",
        "config",
        "entry",
        "evaluation",
        "optim",
        "plan_table",
        "programs",
        "recalibrate",
        "run",
        "start",
        "terminal",
        "train",
        "versions",
        "workdirs",
    },
    "probing": {
        "checkpoint",
        "command_line",
        "config",
        "data",
        "evaluate",
        "evaluation",
        "metrics",
        "optim",
        "parallel",
        "run",
        "tasks",
        "terminal",
        "workdirs",
    },
    "probe": {
        "config",
        "data",
        "entry",
        "evaluation",
        "parallel",
        "pretrained",
        "probing",
        "run",
        "terminal",
        "train",
        "versions",
        "workdirs",
    },
    "dry_run": {
        "config",
        "judge",
        "parallel",
        "plan_table",
        "programs",
        "run",
        "sharding",
    },
    "command_line": {"config", "settings"},
    "allocator": set(),
    "entry": {"allocator", "compiled"},
    "main": {
        "command_line",
        "dry_run",
        "entry",
        "processes",
        "stopwatch",
        "terminal",
        "train",
    },
    "data.prepare": {"data", "entry", "terminal"},
    "data.show": {
        "batches",
        "command_line",
        "config",
        "data",
        "entry",
        "run",
        "terminal",
        "workdirs",
    },
    "convert": {
        "checkpoint",
        "config",
        "data",
        "entry",
        "pretrained",
        "terminal",
        "workdirs",
    },
}

# Files of data/ that are commands, and so stand above all they use.
COMMANDS = ("data.prepare", "data.show")


def imported_rooms(path: Path) -> set[str]:
    """Returns the rooms of tljax that the file at `path` imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    inside = [name.split(".") for name in names if name.split(".")[0] == "tljax"]
    return {room_of(parts[1:]) for parts in inside if len(parts) > 1}


def room(path: Path) -> str:
    """Returns the room that a file of the package stands in."""
    return room_of(path.relative_to(ROOT / "tljax").with_suffix("").parts)


def room_of(parts) -> str:
    """Returns the room of a module, given by its names below tljax."""
    name = ".".join(parts[:2])
    return name if name in COMMANDS else parts[0]


FILES = [
    path
    for path in sorted((ROOT / "tljax").rglob("*.py"))
    if path != ROOT / "tljax" / "__init__.py"
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    allowed = ALLOWED[room(path)] | {room(path)}
    if room(path) != "models":
        allowed.add("errors")
    assert imported_rooms(path) <= allowed


def test_the_rule_has_no_circle():
    done = set()
    while len(done) < len(ALLOWED):
        ready = {name for name in ALLOWED if ALLOWED[name] <= done} - done
        assert ready, f"a circle among {set(ALLOWED) - done}"
        done |= ready


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")))
def test_configs_import_the_config_only(path):
    assert imported_rooms(path) == {"config"}


def test_no_other_framework_and_no_pickle_is_imported():
    code = "import sys, tljax.main; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert not loaded & {"torch", "tensorflow", "tensorflow_datasets", "keras"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 400
