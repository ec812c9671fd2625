"""Fine-tuning the same file by the same recipe: tljax beside plain torch.

    pip install -e '.[parity]' && python -m benchmarks.head_to_head

torchvision's ResNet-18 is trained in torch on the digits 0 to 4 of scikit-learn's, and
saved as a .pth file. Each seed then chooses a few labelled images of the digits 5 to 9,
and both sides fine-tune that file on them and are tested on the same images. Recipe and
distributions are the same on both sides; each draws its own last layer and order.

  accuracy_*       test accuracies, means over seeds with 95 % intervals (Student's t)
  difference       ours less theirs, seed by seed, with its interval
  agree            whether that interval holds 0, or each mean lies in the interval of
                   the other
  same_*           five steps in which both sides have the same last layer and order:
                   relative differences of the loss of each step, and the difference of
                   test accuracies
  ratio            ours over theirs in images/s while training, over seeds; compiling,
                   and torch's first step, are left out. It says something on an idle
                   machine only: torch's threads wait for one another without sleep
"""

import json
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import command, machine, timing
from benchmarks.intervals import interval, with_ends
from benchmarks.torch_side import check_torch
from tljax import parallel
from tljax.config import Config, Data, Loss, Model, Optim
from tljax.data import sources
from tljax.data.order import Order
from tljax.train import train_and_evaluate

# Of the run in which both sides do the same but for rounding, which grows with steps.
SAME_STEPS = 5


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this benchmark."""
    # Of one seed there is no interval, of one step no speed.
    command.define_numbers(
        values,
        2,
        seeds=(5, "runs of each side"),
        num_steps=(40, "steps of fine-tuning"),
    )
    command.define_numbers(
        values,
        source_steps=(80, "steps on the digits 0 to 4"),
        labels_per_class=(10, "images of each class to train on"),
    )


def source_config(num_steps: int) -> Config:
    """Returns how the file that both sides start from is made."""
    return Config(
        num_steps=num_steps,
        data=digits("01234", batch_size=32),
        optim=Optim(
            learning_rate=0.05, schedule="cosine", momentum=0.9, weight_decay=5e-4
        ),
        loss=Loss(label_smoothing=0.1),
    )


def target_config(path: Path, seed: int, values: flags.FlagValues) -> Config:
    """Returns the recipe of fine-tuning the file at `path`."""
    labels = values.labels_per_class
    return Config(
        seed=seed,
        num_steps=values.num_steps,
        log_every=10,
        eval_every=0,
        checkpoint_every=0,
        num_devices=1,
        pretrained=f"file:{path}",
        model=Model(name="resnet18", stem="small"),
        data=digits("56789", batch_size=25, labels_per_class=labels, seed=seed),
        optim=Optim(
            name="momentum",
            learning_rate=0.03,
            schedule="cosine",
            momentum=0.9,
            weight_decay=5e-4,
        ),
        loss=Loss(label_smoothing=0.1),
    )


def digits(classes: str, **settings) -> Data:
    """Returns the images of some digits, enlarged and normalised for both sides.

    Of 24 px, layer4 still sees 3x3. Below that XLA's convolutions are slow on CPUs: it
    exchanges the images and a kernel that is larger than they are.
    """
    return Data(
        source="digits",
        classes=tuple(classes),
        image_size=24,
        mean=(0.5,),
        std=(0.5,),
        **settings,
    )


def pretrain(path: Path, config: Config) -> float:
    """Writes the file that both sides start from; returns its test accuracy."""
    import torch

    from benchmarks import torch_training

    splits = sources.load(config.data).splits
    model = torch_training.create_model(len(config.data.classes), config.seed)
    order = torch_training.shuffled(
        len(splits["train"].labels), config.data.batch_size, config.seed
    )
    torch_training.train(model, splits["train"], config, order)
    torch.save(model.state_dict(), path)
    return torch_training.accuracy_of(model, splits["test"], config)


def fine_tune_theirs(path: Path, config: Config) -> tuple[float, float]:
    """Returns test accuracy and images/s of torch."""
    from benchmarks import torch_training

    splits = sources.load(config.data).splits
    model = torch_training.load_model(path, len(config.data.classes), config.seed)
    order = torch_training.shuffled(
        len(splits["train"].labels), config.data.batch_size, config.seed
    )
    trained = torch_training.train(model, splits["train"], config, order)
    accuracy = torch_training.accuracy_of(model, splits["test"], config)
    return accuracy, trained.images_per_second


def fine_tune_ours(path: Path, config: Config) -> tuple[float, float]:
    """Returns test accuracy and images/s of tljax."""
    with tempfile.TemporaryDirectory() as workdir:
        result = train_and_evaluate(config, workdir)
    return result["accuracy"], result["images_per_second"]


SIDES = {"ours": fine_tune_ours, "theirs": fine_tune_theirs}


def same_draws(path: Path, config: Config) -> dict[str, Any]:
    """Returns what differs where both sides begin and go on with the same draws."""
    import torch

    from benchmarks import torch_training

    config.num_steps, config.log_every = SAME_STEPS, 1
    config.transfer.head = "keep"
    # So that which parameters decay shows within a few steps.
    config.optim.weight_decay = 0.05
    splits = sources.load(config.data).splits
    model = torch_training.load_model(path, len(config.data.classes), config.seed)
    with tempfile.TemporaryDirectory() as folder:
        start, workdir = Path(folder) / "start.pth", Path(folder) / "run"
        torch.save(model.state_dict(), start)
        config.pretrained = f"file:{start}"
        result = train_and_evaluate(config, workdir)
        losses = read_losses(workdir)
    order, size = Order(config.seed, splits["train"].labels), config.data.batch_size
    batches = (
        torch.from_numpy(order.examples(step * size, (step + 1) * size))
        for step in range(SAME_STEPS)
    )
    expected = torch_training.train(model, splits["train"], config, batches).losses
    accuracy = torch_training.accuracy_of(model, splits["test"], config)
    errors = np.abs(np.subtract(losses, expected)) / np.abs(expected)
    return {
        "same_loss_differences": [float(f"{error:.1e}") for error in errors],
        "same_accuracy_difference": result["accuracy"] - accuracy,
    }


def read_losses(workdir: Path) -> list[float]:
    """Returns the training losses that a run has logged."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["loss"] for row in rows if row["split"] == "train"]


def compare(path: Path, values: flags.FlagValues) -> dict[str, Any]:
    """Returns accuracies and speeds of both sides, which take turns."""
    runs = {side: [] for side in SIDES}
    for seed in range(values.seeds):
        for side in timing.order(SIDES, seed):
            runs[side].append(SIDES[side](path, target_config(path, seed, values)))
    accuracies = {side: np.array([run[0] for run in runs[side]]) for side in SIDES}
    times = {side: [1 / run[1] for run in runs[side]] for side in SIDES}
    ours, theirs = (interval(accuracies[side]) for side in SIDES)
    difference = interval(accuracies["ours"] - accuracies["theirs"])
    within = theirs[1] <= ours[0] <= theirs[2] and ours[1] <= theirs[0] <= ours[2]
    return {
        **with_ends("accuracy_ours", ours),
        **with_ends("accuracy_theirs", theirs),
        **with_ends("difference", difference),
        "agree": bool(within or difference[1] <= 0 <= difference[2]),
        **{f"accuracies_{side}": accuracies[side].round(4).tolist() for side in SIDES},
        **timing.ratio(times["ours"], times["theirs"]),
        **{
            f"images_per_second_{side}": timing.significant(
                1 / statistics.median(times[side])
            )
            for side in SIDES
        },
    }


def run(argv: list[str]) -> None:
    """Compares both sides; raises RunError."""
    values = command.parse(argv, __doc__, define)
    if values is None:
        return
    with command.words_of(values):
        sources.load(target_config(Path(), 0, values).data)
    check_torch()
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.pth"
        accuracy = pretrain(path, source_config(values.source_steps))
        same = same_draws(path, target_config(path, 0, values))
        found = compare(path, values)
    result = {
        "benchmark": "head_to_head",
        "source_accuracy": accuracy,
        **same,
        **found,
        "seeds": values.seeds,
        "num_steps": values.num_steps,
        "labels_per_class": values.labels_per_class,
        "cores": machine.cores(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **machine.describe(parallel.create_mesh(num_devices=1)),
    }
    command.finish(result, values.output)


if __name__ == "__main__":
    command.main(run)
