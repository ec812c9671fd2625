"""The command `python -m tljax.interpolate --workdir=DIR`: weights averaged."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from tljax import (
    checkpoint,
    evaluate,
    parallel,
    workdirs,
)
from tljax.entry import read_flags, run_command
from tljax.errors import ConfigError
from tljax.evaluation import averaging, plots
from tljax.interpolation import averages, ingredients, judging
from tljax.interpolation.averages import Candidate, Row, Trial
from tljax.interpolation.ingredients import Ingredients
from tljax.interpolation.judging import Bench, Final
from tljax.run import Run, Saved
from tljax.terminal import Terminal, print_line
from tljax.versions import versions

USAGE = "python -m tljax.interpolate --workdir=DIR [--runs=DIR2,DIR3]"
ALPHAS = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1"

HELP = f"""{USAGE}

  --workdir=DIR    a fine-tuned run
  --runs=DIR2,...  more runs on the same data that started from the same weights
  --alphas=A,B,... places between 0, the weights that the run started from, and 1, the
                   fine-tuned ones; {ALPHAS}
  --output=DIR     a new workdir for what is chosen; WORKDIR/interpolated
  --step=N         a checkpoint that was kept, or best in validation; the latest
  --entry=ema      the moving average of the weights, where the run has kept one
  --device=NAME    cpu, gpu or tpu; that of the run's config
  --num_devices=N  devices to use; as many as the run's config says

Without --runs: (1 - alpha) * start + alpha * fine-tuned, with the fine-tuned head where
the start has none for these classes (WiSE-FT, arXiv 2109.01903). With --runs: the mean
of all runs, and the greedy soup (arXiv 2203.05482); runs of one config.seed have begun
with the same new head, which their mean needs.

Averaged weights are tried with averaged BatchNorm statistics and with those of the
training images; the start and the runs themselves stay as they are. The best accuracy
on validation is chosen, of equal ones the lowest log-loss: it is never below that of
the run, or of the best run. Then the test split (validation, where there is no test) is
evaluated, once.

Writes interpolation.json and interpolation.png to the output, which is a workdir for
evaluate, predict, convert and --config.pretrained=run:DIR.
"""


def run(argv: list[str]) -> None:
    """Runs what the command line asks for; raises RunError."""
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print_line(HELP)
        return
    options = parse(argv)
    alphas = parse_alphas(options.alphas)
    workdir = workdirs.as_path(options.workdir)
    output = workdirs.as_path(options.output or str(workdir / "interpolated"))
    if checkpoint.latest(output / "checkpoints") is not None:
        raise ConfigError(f"--output: {output} holds a run already")
    # What is chosen has no baseline of its own.
    config = dataclasses.replace(workdirs.load_classifier(workdir), baseline=False)
    parts, saved = evaluate.open_run(workdir, options)
    if options.runs:
        found = ingredients.load_runs(parts, saved, workdir, options)
    else:
        found = ingredients.load_line(parts, saved, workdir)
    for note in found.notes:
        print_line(note)
    with workdirs.hold(output, config):
        for name in ("interpolation.json", "interpolation.png"):
            workdirs.check_writable(output / name)
        bench = judging.prepare(parts, found.variables, Terminal(output.name, 0, 0))
        if options.runs:
            report, chosen = search_runs(bench, found)
        else:
            report, chosen = search_line(bench, found, alphas)
        for text in averaging.result_lines(report):
            print_line(text)
        write(output, parts, saved, report, chosen)
    print_line(f"all of it in {output}")


def parse(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of a command line; raises ConfigError for what is wrong."""
    values = flags.FlagValues()
    for name in ("workdir", "runs", "alphas", "output", "step", "entry", "device"):
        flags.DEFINE_string(name, "", name, flag_values=values)
    flags.DEFINE_integer("num_devices", 0, "to use", 0, flag_values=values)
    read_flags(values, argv, USAGE)
    if not values.workdir:
        raise ConfigError(f"--workdir is missing; usage: {USAGE}")
    if values.runs and values.alphas:
        raise ConfigError(
            "--alphas are of one run and its start, not of several --runs"
        )
    return values


def parse_alphas(text: str) -> list[float]:
    """Returns the alphas that a flag names, in order, both ends among them.

    Raises ConfigError for what is no number from 0 to 1.
    """
    found = {0.0, 1.0}
    for part in (text or ALPHAS).split(","):
        try:
            alpha = float(part)
        except ValueError:
            alpha = np.nan
        if not 0 <= alpha <= 1:
            raise ConfigError(
                f"--alphas = {text!r}: {part!r} must be a number from 0 to 1"
            )
        found.add(alpha)
    return sorted(found)


def announce(names: list[str], bench: Bench) -> averages.Judge:
    """Returns `judge`, which also prints a line of a table for all that it judges."""
    print_line(averaging.head(names))

    def judge_and_print(name: str, variables: Any, trained: bool) -> Trial:
        trial = judging.judge(bench, name, variables, trained)
        print_line(averaging.row(names, *as_json([averages.row_of(trial)])))
        return trial

    return judge_and_print


def search_line(
    bench: Bench, found: Ingredients, alphas: list[float]
) -> tuple[dict[str, Any], Candidate]:
    """Returns what stands between start and fine-tuned weights, and the best of it."""
    judge_one = announce([f"alpha {alpha:g}" for alpha in alphas], bench)
    rows, kept = averages.line(*found.variables, alphas, judge_one)
    best = averages.best_alpha(kept)
    start, end = found.origins
    made_of = f"interpolation: {1 - best:g} of {start}, {best:g} of {end}"
    ends = {0.0: "alpha 0, the start", 1.0: "alpha 1, the run"}
    finals = {
        alpha: Final(ends.get(alpha, kept[alpha].describe()), alpha, kept[alpha])
        for alpha in sorted(kept)
    }
    several = list(finals.values())
    last = judging.compare(bench, several, finals[best], finals[1.0], "the run")
    return {
        "rows": as_json(rows),
        "chosen": describe_chosen(kept[best], best, made_of),
        **last,
    }, kept[best]


def search_runs(bench: Bench, found: Ingredients) -> tuple[dict[str, Any], Candidate]:
    """Returns what stands in averages of runs, and the best of it."""
    names = averages.numbered(found.names)
    soup = averages.soup(
        names,
        found.variables,
        announce([*names, averages.name_of(range(len(names)))], bench),
    )
    made_of = ", ".join(found.origins[place] for place in soup.made_of)
    if len(soup.made_of) > 1:
        made_of = f"mean of {made_of}"
    best_run = soup.singles[soup.order[0]]
    single = Final(f"the best run, {best_run.name}", None, best_run)
    chosen = Final(soup.best.describe(), None, soup.best)
    finals = [single] if len(soup.made_of) == 1 else [single, chosen]
    last = judging.compare(bench, finals, finals[-1], single, "the best run")
    return {
        "rows": as_json(soup.rows),
        "order": [found.names[place] for place in soup.order],
        "greedy": [found.names[place] for place in soup.kept],
        "chosen": describe_chosen(soup.best, None, made_of),
        **last,
    }, soup.best


def describe_chosen(
    chosen: Candidate, alpha: float | None, made_of: str
) -> dict[str, Any]:
    """Returns what is said of the weights that were chosen, and prints it."""
    print_line(f"chosen on validation: {chosen.describe()}")
    if chosen.recalibrated:
        made_of += ", BatchNorm recalibrated"
    return {
        "name": chosen.describe(),
        "row": chosen.name,
        "alpha": alpha,
        "recalibrated": chosen.recalibrated,
        "started_from": made_of,
        "val": chosen.score._asdict(),
    }


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    """Returns rows as interpolation.json holds them."""
    return [
        {
            "name": row.name,
            "alpha": row.alpha,
            "val": row.plain._asdict(),
            "val_recalibrated": row.recalibrated and row.recalibrated._asdict(),
        }
        for row in rows
    ]


def write(
    output: Path, run: Run, saved: Saved, report: dict[str, Any], chosen: Candidate
) -> None:
    """Writes the report, its plot, and the chosen weights as those of a finished run.

    The checkpoint comes last but for the result: what is there before it is no run.
    """
    about = describe(run, saved, report)
    meta = saved.meta | {"started_from": about["started_from"]}
    scores = {"accuracy": chosen.score.accuracy, "loss": chosen.score.log_loss}
    try:
        plots.save(output / "interpolation.png", averaging.draw, report)
        workdirs.write_entries(output, run.source.entries)
        workdirs.write_json(output / "interpolation.json", report | about)
        with checkpoint.Checkpoints(output / "checkpoints", run.config) as checkpoints:
            checkpoints.save(about["step"], chosen.variables, meta, scores)
        result = as_result(report) | about
        workdirs.write_json(output / "result.json", result)
    except OSError as error:
        raise ConfigError(f"cannot write to {output}: {error}") from None


def describe(run: Run, saved: Saved, report: dict[str, Any]) -> dict[str, Any]:
    """Returns what the numbers are the numbers of."""
    return {
        "step": int(saved.folder.name),
        "split": report["split"],
        "num_classes": len(run.source.class_names),
        "class_names": list(run.source.class_names),
        "started_from": report["chosen"]["started_from"],
        "transform": saved.meta["transform"],
        "data": {"fingerprint": run.source.fingerprint(), "cache": run.storage.cache},
        "device": parallel.describe(run.mesh),
        "versions": versions(),
        "config": workdirs.as_json(run.config),
    }


def as_result(report: dict[str, Any]) -> dict[str, Any]:
    """Returns the numbers of what was chosen, as training writes them."""
    row = report["chosen"]["row"]
    found = next(result for result in report["results"] if result["row"] == row)
    names = (
        "num_examples",
        "accuracy",
        "precision_macro",
        "recall_macro",
        "f1_macro",
        "confusion_matrix",
    )
    # Nothing was trained here, and so there is no speed.
    unknown = dict.fromkeys(("images_per_second", "compile_seconds", "best_step"))
    return {name: found[name] for name in names} | {"loss": found["log_loss"]} | unknown


if __name__ == "__main__":
    sys.exit(run_command(run, sys.argv))
