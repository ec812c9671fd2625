"""The command, run as people run it: exit codes and one line for each mistake."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pictures
import pytest

from tljax import command_line, entry, main, train

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


@pytest.fixture
def call(capfd):
    """Returns a function that runs the command in this process."""
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
    }

    def run_here(*flags):
        code = entry.run_command(main.run, ["main", *flags])
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(flags, code, out, err)

    yield run_here
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(*flags):
    """Returns the finished process of `python -m tljax.main FLAGS`."""
    return subprocess.run(
        [sys.executable, "-m", "tljax.main", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def assert_refused(process, code, *words):
    """The exit code is `code`, and one line on stderr holds all the words."""
    assert process.returncode == code, process.stderr
    assert len(process.stderr.splitlines()) == 1, process.stderr
    assert process.stderr.startswith("tljax: ")
    assert "compiled" not in process.stdout
    for word in words:
        assert word in process.stderr


DIGITS = f"--config={ROOT}/configs/digits.py"
SMALL = [DIGITS, "--config.model.width=2", "--config.num_devices=1"]


def test_help_is_for_newcomers():
    process = run("--help")
    assert process.returncode == 0 and process.stderr == ""
    assert "--config.optim.learning_rate: float = 0.01" in process.stdout


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], ["--config=FILE.py is missing"]),
        ([DIGITS], ["--workdir is missing"]),
        (["--config=nope.py", "--workdir=/tmp/x"], ["'nope.py' does not exist"]),
        (
            [DIGITS, "--workdir=/tmp/x", "--config.num_stepz=1"],
            ["no field 'num_stepz'", "did you mean 'num_steps'?"],
        ),
        (
            [DIGITS, "--workdir=/tmp/x", "--config.data.source=digitz"],
            ["'digitz' is unknown", "digits, synthetic"],
        ),
        ([DIGITS, "--workdir=/proc/nope"], ["cannot write to workdir /proc/nope"]),
        ([DIGITS, "--workdir=/dev/null"], ["cannot write to workdir /dev/null"]),
        (
            [DIGITS, "--workdir=/tmp/x", "--config.device=tpu"],
            ["config.device = 'tpu': there is no such device"],
        ),
        (
            [DIGITS, "--workdir=/tmp/x", "--config.num_devices=64"],
            ["config.num_devices = 64"],
        ),
        (
            [DIGITS, "--workdir=/tmp/x", "--config.data.batch_size=4000000"],
            ["config.data.batch_size = 4000000, but there are 1168 training images"],
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(call, flags, words, tmp_path):
    flags = [flag.replace("/tmp/x", str(tmp_path)) for flag in flags]
    assert_refused(call(*flags), 2, *words)


PLANNED = """
from tljax.config import Config, Data, Model, Optim, Plan, Row

def get_config():
    return Config(
        num_steps=8,
        num_devices=1,
        model=Model(width=2, stem="small"),
        data=Data(batch_size=32),
        plan=Plan(rows=[ROWS]),
    )
"""
HEAD = "Row('fc'), Row('', train=False)"


@pytest.mark.parametrize(
    "rows, flags, words",
    [
        (
            "Row('fc('), Row('')",
            [],
            ["config.plan.rows[0].pattern = 'fc('", "missing ), unterminated"],
        ),
        (
            "Row('fc'), Row('layer5'), Row('')",
            [],
            ["rows[1].pattern = 'layer5' matches no parameter", "conv1, fc, layer1_0"],
        ),
        (
            "Row(''), Row('fc')",
            [],
            ["rows[1].pattern = 'fc' matches nothing that the rows before", "put it"],
        ),
        ("Row('fc')", [], ["no row matches bn1/bias", "a last Row('', train=False)"]),
        ("Row('', train=False)", [], ["every parameter is frozen; nothing would"]),
        ("Row('', unfreeze_at=4)", [], ["every parameter is frozen until step 4"]),
        (
            "Row('fc'), Row('', unfreeze_at=8)",
            [],
            ["config.plan.rows[1].unfreeze_at = 8 must be below num_steps = 8"],
        ),
        (
            "Row('fc'), Row('', unfreeze_at=8)",
            ["num_epochs=1", "data.batch_size=512"],
            ["config.plan.rows[1].unfreeze_at = 8 must be below num_steps = 2"],
        ),
        (
            "Row('fc'), Row('', unfreeze_at=3)",
            ["optim.accumulate_steps=2"],
            ["rows[1].unfreeze_at = 3 must be a multiple", "accumulate_steps = 2"],
        ),
        (
            "Row('fc'), Row('', train=False, unfreeze_at=3)",
            [],
            ["rows[1].unfreeze_at = 3, but train = False: the row never trains"],
        ),
        (
            "Row('fc'), Row('', batch_norm='frozn')",
            [],
            ["rows[1].batch_norm = 'frozn' is unknown (did you mean 'frozen'?)"],
        ),
        (HEAD, ["plan.preset=head"], ["config.plan.preset = 'head' and", "both set"]),
        ("", ["plan.preset=heads"], ["'heads' is unknown (did you mean 'head'?)"]),
        ("", ["plan.rows=fc"], ["config.plan.rows[0] = 'fc' must be Row"]),
        (
            "",
            ["plan.preset=gradual", "plan.phase_steps=2"],
            ["'gradual': phase_steps = 2, unfreeze_at = 8 must be below num_steps = 8"],
        ),
        (
            "",
            ["plan.preset=bn_only", "plan.batch_norm=frozen"],
            ["config.plan.batch_norm = 'frozen' freezes it; take the preset head"],
        ),
        (
            "",
            ["optim.decay_towards=start"],
            ["config.optim.decay_towards = 'start' needs weights to start from"],
        ),
        (
            "",
            [
                "optim.decay_towards=start",
                "optim.weight_decay=0.1",
                "optim.name=lamb",
                "pretrained=run:/nope",
            ],
            ["config.optim.name = 'lamb'", "take adamw or momentum"],
        ),
        (
            "",
            ["optim.sam_radius=0.1", "optim.accumulate_steps=2"],
            ["config.optim.sam_radius = 0.1 needs", "accumulate_steps = 1, not 2"],
        ),
        (
            "",
            ["patience=3", "eval_every=0"],
            ["config.patience = 3 needs config.eval_every above 0"],
        ),
    ],
)
def test_mistakes_in_a_plan_are_one_line_and_exit_code_2(
    call, rows, flags, words, tmp_path
):
    path = tmp_path / "planned.py"
    path.write_text(PLANNED.replace("ROWS", rows))
    flags = [f"--config.{flag}" for flag in flags]
    process = call(f"--config={path}", f"--workdir={tmp_path}/run", *flags)
    assert_refused(process, 2, *words)


def test_the_process_says_one_line_and_exits_with_the_code(tmp_path):
    flags = [DIGITS, f"--workdir={tmp_path}", "--config.num_steps=0"]
    assert_refused(run(*flags), 2, "config.num_steps = 0 must be at least 1")


def test_data_that_is_not_there_is_exit_code_3(call, tmp_path):
    flags = [DIGITS, f"--workdir={tmp_path}", "--config.data.labels_per_class=1000"]
    assert_refused(call(*flags), 3, "class '0' has only")


def test_a_damaged_checkpoint_is_exit_code_4(call, tmp_path):
    steps = ["--config.num_steps=1", "--config.optim.warmup_steps=0"]
    flags = [*SMALL, *steps, f"--workdir={tmp_path}"]
    assert call(*flags).returncode == 0
    (tmp_path / "result.json").unlink()
    manifest = tmp_path / "checkpoints" / "1" / "state" / "manifest.ocdbt"
    manifest.write_bytes(b"")
    process = call(*flags)
    assert_refused(process, 4, "step 1 is damaged", "manifest.ocdbt differs")


def test_numbers_that_are_not_finite_are_exit_code_5(call, tmp_path):
    process = call(*SMALL, f"--workdir={tmp_path}", "--config.optim.learning_rate=3e38")
    assert process.returncode == 5
    assert process.stderr.startswith("tljax: step ")
    assert len(process.stderr.splitlines()) == 1


def test_dry_run_shows_and_writes_nothing(call, tmp_path):
    process = call(*SMALL, "--dry_run", f"--workdir={tmp_path}/new")
    assert process.returncode == 0, process.stderr
    for word in ("layer4_1", "learning rate (cosine", "optimiser", "compiled in"):
        assert word in process.stdout
    assert not (tmp_path / "new").exists()


def test_dry_run_shows_the_phases_of_a_plan(call, tmp_path):
    path = tmp_path / "planned.py"
    rows = "Row('fc'), Row('layer4_', learning_rate=0.5, unfreeze_at=4), "
    path.write_text(PLANNED.replace("ROWS", rows + "Row('', train=False)"))
    process = call(f"--config={path}", "--dry_run")
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    (header,) = (place for place, line in enumerate(lines) if line.startswith("plan "))
    words = [line.split() for line in lines[header + 1 : header + 4]]
    assert words[0][:4] == ["fc", "170", "170", "1"]
    assert words[1][0] == "layer4_" and words[1][3:5] == ["5", "0.005"]
    assert words[2][:2] == ["the", "rest"] and words[2][3:5] == ["0", "never"]
    assert "compiled in" in process.stdout


def parts_of(config):
    """Returns a config and those of the runs that are made before it."""
    inner = [each for each in (config.pretrain, config.judge) if each is not None]
    return [config] + [part for each in inner for part in parts_of(each)]


# The others take up to half a minute of compilation each.
QUICK = ("digits", "digits_tied_autoencoder")


@pytest.mark.parametrize(
    "path",
    [
        path if path.stem in QUICK else pytest.param(path, marks=pytest.mark.slow)
        for path in CONFIGS
    ],
    ids=lambda path: path.stem,
)
def test_every_config_runs_two_steps(path, tmp_path):
    """Through the same loop, with fewer steps and narrower layers."""
    config = command_line.load(str(path))
    for number, part in enumerate(parts_of(config)):
        part.num_steps = 2
        part.optim.warmup_steps = 0
        part.num_devices = 1
        part.num_epochs = 0
        part.model.width = 2
        part.gan.num_samples = 16
        part.autoencoder.patch_size = 0
        part.precision = "float32"
        if part.data.source.startswith("tfds:"):
            part.data.source, part.data.image_size = "synthetic", 32
            part.data.num_examples, part.data.batch_size = 100, 10
        if part.data.source.startswith("folder:"):
            # Published weights cannot be had here, and are as wide as they are.
            part.pretrained = ""
            part.data.source = (
                f"folder:{pictures.write_digits(tmp_path / f'p{number}', {'': 9})}"
            )
            part.data.image_size, part.data.batch_size = 32, 4
    result = train.train_and_evaluate(config, tmp_path)
    assert result["step"] == 2
    assert json.loads((tmp_path / "result.json").read_text()) == result


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_config_shares_a_section(path):
    """Else an override of the one run would change the other."""
    config = command_line.load(str(path))
    names = ("model", "data", "optim", "loss", "autoencoder", "gan")
    sections = [getattr(p, n) for p in parts_of(config) for n in names]
    assert len({id(section) for section in sections}) == len(sections)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_its_command(path):
    command = f"python -m tljax.main --config=configs/{path.name} --workdir="
    assert command in path.read_text()


def test_the_readmes_lines_are_those_that_ci_runs():
    readme = (ROOT / "README.md").read_text()
    ci = (ROOT / ".ci" / "run").read_text()
    test = "pip install -e '.[test]' && pytest"
    train_line = (
        "pip install -e . && python -m tljax.main "
        "--config=configs/digits_transfer.py --workdir="
    )
    for line in (test, train_line):
        assert line in readme and line in ci


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path):
    """As behind `| head -1`."""
    command = " ".join([sys.executable, "-m", "tljax.main", *SMALL])
    steps = "--config.num_steps=4 --config.optim.warmup_steps=0"
    script = f"{command} {steps} --workdir={tmp_path} | head -1"
    subprocess.run(["bash", "-c", script], check=True, timeout=600)
    deadline = time.monotonic() + 300
    while not (tmp_path / "result.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
