"""Weight files that are damaged or hostile are refused in one line, and do nothing."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import hostile_files
import hostile_pickles as pickles
import hostile_safetensors  # noqa: F401  # Adds its files to HOSTILE.
import numpy as np
import pytest
import safetensors.numpy
from hostile_pickles import HOSTILE, assert_one_line, load

from tljax import convert, main
from tljax.entry import run_command
from tljax.errors import ConfigError, DataError, WeightsError

ROOT = Path(__file__).parent.parent
SLOW = 5  # seconds; the slowest takes one
MEBIBYTE = 2**20


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory, where a file that ran code would leave another."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(folder, name):
    """Returns the path of a hostile file in `folder`."""
    path = folder / f"weights{HOSTILE[name].suffix}"
    path.write_bytes(HOSTILE[name].make())
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(name, folder):
    path = put(folder, name)
    started = time.process_time()
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert time.process_time() - started < SLOW
    text = str(caught.value).replace(str(path), "")
    assert HOSTILE[name].words in text
    assert_one_line(text)
    assert list(folder.iterdir()) == [path]


@pytest.mark.parametrize(
    "name",
    [
        "has_a_flood_of_dicts",
        "has_a_pickle_of_10_mib",
        "has_a_flood_of_tensors",
        "has_a_thousand_views_of_one_storage",
        "repeats_a_number_for_terabytes",
        "claims_a_text_of_4_gib",
        "is_a_zip_bomb",
        "has_records_within_records",
        "has_a_flood_of_records",
        "has_another_byte_order",
        "has_metadata_of_10_mib",
        "is_a_legacy_file_with_a_text_of_10_mib",
        "has_a_header_of_10_mib",
    ],
)
def test_a_bomb_takes_no_more_memory_than_twice_its_size(name, folder):
    """And 64 MiB, for what a pickle of 500,000 opcodes can make."""
    path = put(folder, name)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError):
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * path.stat().st_size + 64 * MEBIBYTE


def test_what_is_left_out_is_named_in_one_line(folder):
    """`origin` stands in logs and results."""
    records = hostile_files.sound_records()
    odd = pickles.text("\n\x1b[2J") + b"N" + pickles.SURROGATE + b"N"
    state = records["data.pkl"].removeprefix(b"\x80\x02").removesuffix(b".")
    records["data.pkl"] = (
        b"\x80\x02}(" + odd + pickles.text("state_dict") + state + b"u."
    )
    path = folder / "weights.pth"
    path.write_bytes(pickles.zipped(records))
    origin = load(path).origin
    assert "took state_dict, left" in origin
    assert_one_line(origin)


def test_a_file_of_any_number_of_names_lists_some_of_them(folder):
    state = hostile_files.resnet()
    extra = {f"\x1b{n}": np.zeros(1, np.float32) for n in range(9_000)}
    path = folder / "weights.safetensors"
    path.write_bytes(safetensors.numpy.save(state | extra))
    with pytest.raises(WeightsError, match="and 6,500 more") as caught:
        load(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200_000


def make_folder(path):
    path.mkdir()


def make_pipe(path):
    """Nobody writes into it: to open it would be to wait for ever."""
    os.mkfifo(path)


def make_loop(path):
    path.symlink_to(path)


def make_device(path):
    path.symlink_to("/dev/zero")


def make_nothing(path):
    pass


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "make", [make_folder, make_pipe, make_loop, make_device, make_nothing]
)
def test_what_is_no_file_is_a_config_error(make, suffix, folder):
    path = folder / f"weights{suffix}"
    make(path)
    with pytest.raises(ConfigError, match="does not exist"):
        load(path)


@pytest.mark.parametrize("name", ["x", "x.bin", "x.pth.gz", "x.PTH", "~nobody_/x.pth"])
def test_a_name_that_cannot_be_is_a_config_error(name, folder):
    with pytest.raises(ConfigError):
        load(name)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_cannot_be_read_is_a_data_error(suffix, folder):
    with pytest.raises(DataError, match=r"cannot be read: .*too long"):
        load(f"{'x' * 300}{suffix}")
    memory = Path("/proc/self/mem")  # Its first page is nobody's, not even root's.
    if not memory.exists():
        pytest.skip("there is no /proc")
    path = folder / f"weights{suffix}"
    path.symlink_to(memory)
    with pytest.raises(DataError, match=r"cannot be read: .*Input/output error"):
        load(path)


def convert_flags(path, folder):
    return [f"--input={path}", f"--output={folder}/out.pth"]


def main_flags(path, folder):
    config = f"--config={ROOT}/configs/digits.py"
    return [config, f"--config.pretrained=file:{path}", f"--workdir={folder}/out"]


COMMANDS = {
    "convert": (convert.run, convert_flags),
    "main": (main.run, main_flags),
}


def assert_nothing_made(folder, path):
    """At most a workdir, in which a run says what it would do, and no checkpoint."""
    assert {path} <= {*folder.iterdir()} <= {path, folder / "out"}
    assert not list(folder.glob("out/checkpoints/*"))


@pytest.fixture
def handlers():
    """The handlers of signals, which a command sets, are put back."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "name",
    [
        "calls_os_system",
        "names_terminal_escapes",
        "has_names_with_terminal_escapes",
        "repeats_a_number_for_terabytes",
        "has_a_wrong_crc",
        "is_a_zip_bomb",
        "is_a_page",
        "has_a_protocol_that_expands",
        "has_metadata_of_an_unknown_model",
        "has_a_name_with_terminal_escapes",
        "has_floats_of_8_bits",
    ],
)
def test_a_command_says_one_line_and_exits_with_3(command, name, folder, capsys):
    run, flags = COMMANDS[command]
    path = put(folder, name)
    assert run_command(run, [command, *flags(path, folder)]) == 3
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("tljax: ") and err.endswith("\n")
    assert_one_line(err[:-1])
    assert_nothing_made(folder, path)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_process_says_one_line_and_exits_with_3(command, folder):
    path = put(folder, "calls_os_system")
    flags = COMMANDS[command][1](path, folder)
    process = subprocess.run(
        [sys.executable, "-m", f"tljax.{command}", *flags],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 3 and process.stdout == ""
    assert process.stderr.startswith("tljax: ") and "os.system" in process.stderr
    assert process.stderr.count("\n") == 1
    assert_nothing_made(folder, path)


@pytest.mark.usefixtures("handlers")
def test_a_command_says_one_line_of_a_path_with_line_breaks(folder, capsys):
    path = folder / "a\n\x1b[2J\u202e.pth"
    path.write_bytes(b"")
    assert run_command(convert.run, ["convert", *convert_flags(path, folder)]) == 3
    assert_one_line(capsys.readouterr().err[:-1])


@pytest.mark.usefixtures("handlers")
def test_a_wrong_path_is_exit_code_2(folder, capsys):
    flags = convert_flags(folder / "nope.pth", folder)
    assert run_command(convert.run, ["convert", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(folder.iterdir())
