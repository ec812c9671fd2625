"""What is made of times: spreads, turns, ratios, verdicts, tables and plots."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, report, results, scaling, timing


def test_times_are_of_calls_after_a_warm_up(monkeypatch):
    counts, clock = [], iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    found = timing.time_calls(counts.append, 3, warmup=2, await_every=5)
    assert counts == [10, 5, 5, 5]
    assert found == [200.0] * 3  # The clock is read twice for five calls.


def test_a_spread_is_numpys():
    values = list(np.random.default_rng(0).random(50))
    found = timing.spread(values)
    assert found.pop("n") == 50
    expected = np.percentile(values, (50, 10, 90))
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-3)


def test_sides_take_turns_and_another_is_first_each_time():
    order = []
    sides = {name: lambda count, name=name: order.append(name) for name in "abc"}
    found = timing.take_turns(sides, turns=3, calls=2)
    assert order == [name for name in "abcbcacab" for _ in range(3)]
    assert {name: len(times) for name, times in found.items()} == dict.fromkeys(
        sides, 3
    )


def test_the_first_call_of_a_turn_does_not_count(monkeypatch):
    now = 0.0
    cost = iter([100.0, 1.0, 3.0, 2.0])

    def take(count):
        nonlocal now
        now += sum(next(cost) for _ in range(count))

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    assert timing.take_turns({"a": take}, turns=1, calls=3) == {"a": [2000.0]}


def test_a_ratio_is_taken_turn_by_turn():
    # The machine was three times slower in the second turn, for both.
    found = timing.ratio(ours=[1.0, 3.0, 1.0], theirs=[2.0, 6.0, 3.0])
    assert found == {
        "ratios": [2.0, 2.0, 3.0], "ratio": 2.0, "ratio_low": 2.0, "ratio_high": 3.0
    }  # fmt: skip


def line(times=(), **changes):
    """Returns a line of results."""
    return report.SMOKE_LINE | {"benchmark": "throughput", "times_ms": times} | changes


def noisy(median: float, seed: int, spread: float = 0.02):
    """Returns times around a median."""
    draws = np.random.default_rng(seed).standard_normal(20)
    return list(median * (1 + spread * draws))


NOISE = {"noise": 0.05, "lone_noise": 0.6}


def runs(*medians: float, seed: int = 0):
    """Returns lines of runs with such medians."""
    return [line(noisy(each, seed + n)) for n, each in enumerate(medians)]


@pytest.mark.parametrize(
    "after, expected",
    [(100, "no difference seen"), (103, "no difference seen"),
     (97, "no difference seen"), (80, "faster"), (125, "slower")],
)  # fmt: skip
def test_a_verdict_on_runs(after, expected):
    after = runs(after, 1.01 * after, 0.99 * after, seed=10)
    found = compare.compare(runs(100, 101, 99), after, **NOISE)
    assert found["verdict"] == expected
    assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"]


def test_runs_that_differ_among_themselves_are_no_evidence():
    before, after = runs(100, 140, 90), runs(85, 125, 80)
    assert compare.compare(before, after, **NOISE)["verdict"] == "no difference seen"


@pytest.mark.parametrize(
    "after, expected", [(70, "no difference seen"), (50, "faster"), (200, "slower")]
)
def test_lone_runs_need_a_large_difference(after, expected):
    found = compare.compare(runs(100), runs(after), **NOISE)
    assert found["verdict"] == expected


def test_ratios_to_another_side_are_compared_where_there_are_any():
    before = line(noisy(100, 0), ratios=[1.0, 1.01, 0.99, 1.0, 1.0])
    after = line(noisy(300, 1), ratios=[1.5, 1.51, 1.49, 1.5, 1.52])
    found = compare.compare([before], [after], **NOISE)
    assert found["verdict"] == "faster"
    assert found["ratio"] == pytest.approx(1.5)


def write(path, *lines):
    """Writes lines of results to a file."""
    path.write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    return path


def test_files_are_compared_by_what_they_measured(call_command, tmp_path):
    small = {"image_size": 64}
    before = write(tmp_path / "a", line(noisy(9, 0)), line(noisy(5, 1), **small))
    after = write(tmp_path / "b", line(noisy(4, 2), jax="1"), line([1.0], batch_size=1))
    code, out, _ = call_command(compare, before, after)
    found = json.loads(out.splitlines()[-1])
    assert code == 0
    assert [row["verdict"] for row in found["rows"]] == ["faster"]
    assert found["only_in_one"] == 2
    code, _, err = call_command(compare, before, write(tmp_path / "c", line(width=8)))
    assert code == 2
    assert "nothing in common" in err


def test_the_files_to_compare_stand_anywhere(call_command, tmp_path):
    file = write(tmp_path / "a", line(noisy(9, 0)))
    assert call_command(compare, file, "--noise", "0.1", file)[0] == 0
    code, _, err = call_command(compare, "--noise=0.1", file)
    assert code == 2 and "two files are needed" in err
    code, _, err = call_command(compare, file, file, "third")
    assert code == 2 and "unexpected argument 'third'" in err


def models(**ratios):
    """Returns a line of `small_models`."""
    rows = {name: {"ratios": found} for name, found in ratios.items()}
    return {"benchmark": "small_models", "models": rows}


def points(seed: int, **medians):
    """Returns a line of `scaling`, along an axis of the batch."""
    rows = [
        {"batch_size": int(name[1:]), "times_ms": noisy(time, seed)}
        for name, time in medians.items()
    ]
    return line(benchmark="scaling", axes={"batch_size": {"rows": rows}})


def test_models_and_points_are_compared_each_for_itself(call_command, tmp_path):
    before = models(dcgan=[1.8, 1.81], tied=[6.0, 6.1]), points(0, b4=100, b8=200)
    after = models(dcgan=[3.6, 3.61], new=[1.0]), points(1, b4=20, b8=210)
    files = write(tmp_path / "a", *before), write(tmp_path / "b", *after)
    code, out, err = call_command(compare, *files)
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    assert [(row["what"], row["verdict"]) for row in found["rows"]] == [
        ("small_models, dcgan", "faster"),
        ("scaling, resnet50, train, 224 px, batch 4, float32", "faster"),
        ("scaling, resnet50, train, 224 px, batch 8, float32", "no difference seen"),
    ]
    assert found["only_in_one"] == 2
    assert found["not_compared"] == []


@pytest.mark.parametrize("times", ["absent", None, [], ["fast"], [1.0, None], [0.0]])
def test_lines_without_times_are_named_and_the_rest_is_compared(
    call_command, tmp_path, times
):
    strange = {} if times == "absent" else {"times_ms": times}
    other = {"benchmark": "probe_speed", "model": "resnet18"} | strange
    file = write(tmp_path / "a", other, line(noisy(9, 0)))
    code, out, err = call_command(compare, file, file)
    assert code == 0, err
    assert "1 without times: probe_speed, resnet18" in out
    found = json.loads(out.splitlines()[-1])
    assert found["not_compared"] == ["probe_speed, resnet18"]
    assert [row["ratio"] for row in found["rows"]] == [1.0]
    alone = write(tmp_path / "b", other)
    code, _, err = call_command(compare, alone, alone)
    assert code == 3
    assert "probe_speed, resnet18" in err


def test_the_results_that_are_kept_can_be_compared(call_command):
    kept = Path(compare.__file__).parent / "results" / "cpu.jsonl"
    code, out, err = call_command(compare, kept, kept)
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    assert {row["verdict"] for row in found["rows"]} == {"no difference seen"}
    assert found["only_in_one"] == 0


def test_machines_are_not_compared(call_command, tmp_path):
    files = [
        write(tmp_path / name, line([9.0], hardware={"cpu": "AMD EPYC", "cores": 2}))
        for name in "ab"
    ]
    assert call_command(compare, *files)[0] == 0
    for change in (
        {"cpu": "Xeon", "cores": 2},
        {"cpu": "AMD EPYC", "cores": 64},
        {"cpu": "AMD EPYC", "cores": 2, "vectors": "avx512f"},
    ):
        write(files[1], line([1.0], hardware=change))
        code, _, err = call_command(compare, *files)
        assert code == 2 and "the same hardware" in err
        lines = results.read(files)
        assert results.latest(lines) == lines


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"model": "resnet18"}', '{"benchmark": "scaling", "axes": 1}']
)
def test_a_line_that_is_no_result_is_named(call_command, tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(line())}\n{text}\n")
    code, _, err = call_command(report, f"--results={path}")
    assert code == 3
    assert f"{path}:2" in err
    assert len(err.splitlines()) == 1


def test_a_report_shows_the_last_line_of_each(call_command, tmp_path):
    slow, fast = line([1.0]), line([1.0], images_per_second=77.0)
    other = line([1.0], images_per_second=55.0, jax="1")
    small = models(dcgan=[2.0], tied=[5.0])
    for number, row in enumerate(small["models"].values(), start=1):
        ratio = {"ratio": 2.0, "ratio_low": 1.9, "ratio_high": 2.1, "best": "torch"}
        row.update(ratio, steps_per_second={"ours": 10.0 * number})
    small["batch_size"] = 64
    write(tmp_path / "x.jsonl", slow, fast, other, points(0, b4=100), small)
    table, plot = tmp_path / "table.md", tmp_path / "plot.png"
    flags = f"--results={tmp_path}", f"--table={table}", f"--plot={plot}"
    code, out, err = call_command(report, *flags)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["rows"] == 4
    rows = table.read_text().splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == [
        "77.0",
        "55.0",
        "640",
        "1280",
    ]
    assert rows[2].startswith("| small_models, dcgan |")
    assert "2.0 (1.9 to 2.1, torch)" in rows[2]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_an_exponent_is_that_of_a_power_law(power, tmp_path):
    rows = [
        {
            "batch_size": size,
            "gflops_per_step": 3.0 * size,
            "step_time_ms": {"median": t, "p10": 0.9 * t, "p90": 1.2 * t},
        }
        for size in (1, 4, 16)
        for t in [7 * size**power]
    ]
    found = scaling.exponent("batch_size", rows)
    assert found == power
    path = tmp_path / "plot.png"
    scaling.draw({"batch_size": {"rows": rows, "exponent": found}}, str(path))
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "flag, expected",
    [
        ("--axes=deepth", "'deepth' is unknown"),
        ("--batch_sizes=4", "two values or more"),
        ("--batch_sizes=4,many", "'many' is not a positive integer"),
        ("--models=resnet18,resnet5", "did you mean 'resnet50'"),
        ("--model=resnet19", "did you mean 'resnet18'"),
    ],
)
def test_a_mistake_in_scaling_is_one_line(call_command, flag, expected):
    code, _, err = call_command(scaling, flag)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert expected in err


def test_what_is_measured_is_said_in_words():
    words = results.label_of(line(num_devices=2, steps_per_call=10, stem="small"))
    assert words == (
        "resnet50, train, 224 px, batch 8, float32, jit x2, 10 steps a call, small stem"
    )
