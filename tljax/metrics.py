"""Numbers on their way out: read one step late, checked, written to files."""

import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from tljax.errors import NonFiniteError
from tljax.terminal import Terminal


def is_due(step: int, every: int) -> bool:
    """Returns whether what happens every `every` steps happens at `step`; 0 = never."""
    return every > 0 and step % every == 0


class Speed:
    """Images a second of training alone: validations and saves are not counted."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.images = 0
        self.seconds = 0.0

    def start(self, step: int) -> None:
        """Begins to measure with the steps after `step`."""
        self.step, self.time = step, time.perf_counter()

    def measure(self, step: int) -> float:
        """Returns the speed since the last call of this or `start`; `step` is done."""
        images = (step - self.step) * self.batch_size
        seconds = time.perf_counter() - self.time
        self.images += images
        self.seconds += seconds
        self.start(step)
        return images / seconds

    def mean(self) -> float | None:
        """Returns the speed over all measurements, None where no step was taken."""
        return self.images / self.seconds if self.images else None


class Recorder:
    """Reads each call's metrics once the next call has been sent to the device.

    So the device has work while the host waits, and at most two calls are under way. A
    call takes one step, or several.
    """

    def __init__(
        self,
        writer: "Writer",
        speed: Speed,
        log_every: int,
        warn: Callable[[int, dict[str, float]], str],
    ):
        self.writer = writer
        self.speed = speed
        self.log_every = log_every
        self.warn = warn
        self.pending: tuple[int, dict[str, jax.Array], int] | None = None

    def push(self, step: int, metrics: dict[str, jax.Array], count: int = 1) -> None:
        """Takes the metrics of a call of `count` steps, the last of them `step`.

        Reads those of the call before; raises NonFiniteError where they are not finite.
        """
        before, self.pending = self.pending, (step, metrics, count)
        if before is not None:
            self.read(*before)

    def flush(self) -> None:
        """Reads the metrics of the last call, which is done when this returns.

        Raises NonFiniteError where they are not finite.
        """
        if self.pending is not None:
            (step, metrics, count), self.pending = self.pending, None
            self.read(step, metrics, count)
            self.speed.measure(step)

    def read(self, last: int, metrics: dict[str, jax.Array], count: int) -> None:
        """Waits for the metrics of a call, and checks and writes those of each step."""
        rows = {
            name: np.atleast_1d(values).tolist()
            for name, values in jax.device_get(metrics).items()
        }
        steps = range(last - count + 1, last + 1)
        speed = 0.0
        if any(is_due(step, self.log_every) for step in steps):
            speed = self.speed.measure(last)
        for place, step in enumerate(steps):
            self.note(step, {name: row[place] for name, row in rows.items()}, speed)

    def note(self, step: int, values: dict[str, float], speed: float) -> None:
        """Checks the metrics of a step, and writes them where due."""
        if not values.pop("finite"):
            raise NonFiniteError(
                f"step {step}: loss {values['loss']:g}, gradient norm "
                f"{values['grad_norm']:g} or the weights are not finite; nothing of it "
                "was saved; try a lower optim.learning_rate, or optim.clip_norm"
            )
        if is_due(step, self.log_every):
            values["images_per_second"] = speed
            self.writer.write(step, "train", values)
            if warning := self.warn(step, values):
                self.writer.terminal.say(f"warning: {warning}")
        self.writer.terminal.advance(step, values["loss"])


def read_late(outputs: Iterable[Any]) -> Iterator[Any]:
    """Yields each output on the host, once the next has been sent to the device."""
    pending = None
    for output in outputs:
        if pending is not None:
            yield jax.device_get(pending)
        pending = output
    if pending is not None:
        yield jax.device_get(pending)


def load_tensorboard() -> type:
    """Returns what writes for TensorBoard: a second, where PyTorch is installed.

    To be called where there is something to wait for anyway.
    """
    from tensorboardX import SummaryWriter

    return SummaryWriter


class Writer:
    """metrics.jsonl, TensorBoard events and the terminal.

    What an interrupted run wrote after `first_step` is dropped, so that metrics.jsonl
    reads as if there had been no interruption.
    """

    def __init__(self, workdir: Path, terminal: Terminal, first_step: int):
        path = workdir / "metrics.jsonl"
        keep_until(path, first_step)
        self.file = path.open("a")
        self.workdir = workdir
        self.first_step = first_step
        self.pictures = workdir / "pictures"
        self.terminal = terminal
        self.failed = False

    @functools.cached_property
    def events(self) -> Any:
        """What writes for TensorBoard, opened when it is first written to."""
        open_events = load_tensorboard()
        return open_events(str(self.workdir), purge_step=self.first_step + 1)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Writes the metrics of a split; a full disk costs a warning, not the run."""
        line = json.dumps({"step": step, "split": split} | values)
        try:
            self.file.write(line + "\n")
            self.file.flush()
            for name, value in values.items():
                self.events.add_scalar(f"{split}/{name}", value, step)
        except OSError as error:
            if not self.failed:
                self.terminal.say(f"warning: metrics cannot be written: {error}")
            self.failed = True
        self.terminal.write(step, split, values)

    def show(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Writes grids, uint8 [rows, columns, h, w, c], as PNG into WORKDIR/pictures.

        And into TensorBoard. A full disk costs a warning, not the run.
        """
        if not pictures:
            return
        from tljax.evaluation import sheets  # Matplotlib takes half a second.

        for name, images in pictures.items():
            columns, *shape = images.shape[1:]
            page = sheets.sheet(images.reshape(-1, *shape), columns)
            try:
                self.pictures.mkdir(exist_ok=True)
                Image.fromarray(page).save(self.pictures / f"{name}_{step}.png")
                self.events.add_image(name, page, step, dataformats="HWC")
            except OSError as error:
                self.terminal.say(f"warning: pictures cannot be written: {error}")

    def close(self) -> None:
        """Writes what is held back, and ends the progress bar."""
        self.terminal.close()
        self.file.close()
        if "events" in vars(self):
            self.events.close()


class NoWriter:
    """What writes nothing, for processes beside the one that does."""

    def __init__(self, terminal: Terminal):
        self.terminal = terminal

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Writes nothing."""

    def show(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Ends the progress bar, which is not shown."""
        self.terminal.close()


def open_writer(
    workdir: Path, terminal: Terminal, first_step: int
) -> Writer | NoWriter:
    """Returns what writes metrics: of several processes the first does."""
    if jax.process_index() > 0:
        return NoWriter(terminal)
    return Writer(workdir, terminal, first_step)


def keep_until(path: Path, step: int) -> None:
    """Drops from a file of metrics what a run resumed at `step` will write again.

    That is every line of a later step, the test, and a line that was cut short.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if values["step"] <= step and values["split"] != "test":
            kept.append(line + "\n")
    part = path.with_name(path.name + ".part")
    part.write_text("".join(kept))
    part.replace(path)
