"""What people see: a progress bar on a terminal, plain lines in a pipe, a table."""

import os
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

# What of a result is shown; columns that no row has are left out.
RESULT_COLUMNS = {
    "accuracy": ("accuracy", "{:.4f}"),
    "precision": ("precision_macro", "{:.4f}"),
    "recall": ("recall_macro", "{:.4f}"),
    "F1": ("f1_macro", "{:.4f}"),
    "MSE": ("mse", "{:.5f}"),
    "PSNR": ("psnr", "{:.2f}"),
    "SSIM": ("ssim", "{:.4f}"),
    "FD": ("fd", "{:.3f}"),
    "KL": ("kl_to_uniform", "{:.4f}"),
    "images": ("num_examples", "{}"),
    "images/s": ("images_per_second", "{:,.0f}"),
    "compile s": ("compile_seconds", "{:.1f}"),
}
SHOWN = (
    "loss",
    "accuracy",
    "f1_macro",
    "ema_accuracy",
    "loss_discriminator",
    "psnr",
    "fd",
    "ema_fd",
    "kl_to_uniform",
    "learning_rate",
    "images_per_second",
)


class Terminal:
    """The output of one run of steps; `title` stands in front of every line.

    Where it is not `shown`, nothing is printed.
    """

    def __init__(self, title: str, num_steps: int, batch_size: int, shown: bool = True):
        self.shown = shown
        self.title = title
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}  {task.fields[status]}"),
            console=self.console,
            transient=True,
            disable=not (shown and self.console.is_terminal),
        )

    def start(self, first_step: int) -> None:
        """Shows the progress bar and begins to measure the pace."""
        self.first_step = first_step
        self.started = time.perf_counter()
        self.bar = self.progress.add_task(
            self.title, total=self.num_steps, completed=first_step, status=""
        )
        self.progress.start()

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar where there is one."""
        line = f"{self.title}: {text}"
        if not self.shown:
            return
        if self.console.is_terminal:
            self.console.print(line)
        else:
            print_line(line)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Prints metrics; those of training stand in the bar where there is one."""
        if split == "train" and self.console.is_terminal:
            return
        shown = [f"{name} {values[name]:.4g}" for name in SHOWN if name in values]
        if split == "train":
            shown.append(f"ETA {self.time_left(step)}")
        width = len(str(self.num_steps))
        place = f"step {step:{width}d}/{self.num_steps}  {split:5}"
        self.say("  ".join([place, *shown]))

    def advance(self, step: int, loss: float) -> None:
        """Moves the progress bar to `step`."""
        seconds = time.perf_counter() - self.started
        speed = (step - self.first_step) * self.batch_size / seconds
        status = f"{speed:,.0f} images/s  loss {loss:.4f}  ETA {self.time_left(step)}"
        self.progress.update(self.bar, completed=step, status=status)

    def time_left(self, step: int) -> timedelta:
        """Returns the time to the last step at the mean pace so far."""
        pace = (time.perf_counter() - self.started) / (step - self.first_step)
        return timedelta(seconds=round(pace * (self.num_steps - step)))

    def close(self) -> None:
        """Takes the progress bar away."""
        self.progress.stop()


def track(elements: Iterable[Any], total: int, text: str) -> Iterable[Any]:
    """Yields the elements under a progress bar, which is gone at the end."""
    console = Console()
    yield from rich.progress.track(
        elements,
        text,
        total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def print_result(result: dict[str, Any], workdir: str) -> None:
    """Prints the result of a finished run, and of the one it was compared with."""
    rows = [row for row in (result, result.get("baseline")) if row is not None]
    rows = [part for row in rows for part in with_average(row)]
    inside = f"run:{Path(workdir).absolute()}/"
    names = [row["started_from"].replace(inside, "") for row in rows]
    width = max(len("started from"), *map(len, names))
    print_line("")
    columns = {
        name: (key, form)
        for name, (key, form) in RESULT_COLUMNS.items()
        if any(key in row for row in rows)
    }
    print_line(f"{'started from':{width}}" + "".join(f"{name:>10}" for name in columns))
    for name, row in zip(names, rows, strict=True):
        cells = [
            "-" if row.get(key) is None else form.format(row[key])
            for key, form in columns.values()
        ]
        print_line(f"{name:{width}}" + "".join(f"{cell:>10}" for cell in cells))
    print_line(f"all of it in {workdir}/result.json")


def with_average(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns a result, and that of the moving average where one is kept."""
    if "ema" not in result:
        return [result]
    name = f"{result['started_from']}, averaged"
    return [result, result | result["ema"] | {"started_from": name}]


def print_line(text: str) -> None:
    """Prints a line; when nobody reads any more, as behind `| head`, it is dropped."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
