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
import os
import platform
import statistics
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
from absl import app, flags, logging
from scipy import stats

from benchmarks import torch_training
from tljax.config import Config, Data, Loss, Model, Optim
from tljax.data import sources
from tljax.data.order import Order
from tljax.train import train_and_evaluate

SEEDS = flags.DEFINE_integer("seeds", 5, "runs of each side")
STEPS = flags.DEFINE_integer("num_steps", 40, "steps of fine-tuning")
SOURCE_STEPS = flags.DEFINE_integer("source_steps", 80, "steps on the digits 0 to 4")
LABELS = flags.DEFINE_integer(
    "labels_per_class", 10, "images of each class to train on"
)

# Of the run in which both sides do the same but for rounding, which grows with steps.
SAME_STEPS = 5


def source_config() -> Config:
    """Returns how the file that both sides start from is made."""
    return Config(
        num_steps=SOURCE_STEPS.value,
        data=digits("01234", batch_size=32),
        optim=Optim(
            learning_rate=0.05, schedule="cosine", momentum=0.9, weight_decay=5e-4
        ),
        loss=Loss(label_smoothing=0.1),
    )


def target_config(path: Path, seed: int) -> Config:
    """Returns the recipe of fine-tuning the file at `path`."""
    return Config(
        seed=seed,
        num_steps=STEPS.value,
        log_every=10,
        eval_every=0,
        checkpoint_every=0,
        num_devices=1,
        pretrained=f"file:{path}",
        model=Model(name="resnet18", stem="small"),
        data=digits("56789", batch_size=25, labels_per_class=LABELS.value, seed=seed),
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


def pretrain(path: Path) -> float:
    """Writes the file that both sides start from; returns its test accuracy."""
    config = source_config()
    splits = sources.load(config.data).splits
    model = torch_training.create_model(len(config.data.classes), config.seed)
    order = torch_training.shuffled(
        len(splits["train"].labels), config.data.batch_size, config.seed
    )
    torch_training.train(model, splits["train"], config, order)
    torch.save(model.state_dict(), path)
    return torch_training.accuracy_of(model, splits["test"], config)


def fine_tune_theirs(path: Path, seed: int) -> tuple[float, float]:
    """Returns test accuracy and images/s of torch."""
    config = target_config(path, seed)
    splits = sources.load(config.data).splits
    model = torch_training.load_model(path, len(config.data.classes), seed)
    order = torch_training.shuffled(
        len(splits["train"].labels), config.data.batch_size, seed
    )
    trained = torch_training.train(model, splits["train"], config, order)
    accuracy = torch_training.accuracy_of(model, splits["test"], config)
    return accuracy, trained.images_per_second


def fine_tune_ours(path: Path, seed: int) -> tuple[float, float]:
    """Returns test accuracy and images/s of tljax."""
    with tempfile.TemporaryDirectory() as workdir:
        result = train_and_evaluate(target_config(path, seed), workdir)
    return result["accuracy"], result["images_per_second"]


SIDES = {"ours": fine_tune_ours, "theirs": fine_tune_theirs}


def same_draws(path: Path) -> dict[str, float]:
    """Returns what differs where both sides begin and go on with the same draws."""
    config = target_config(path, seed=0)
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


def mean_and_interval(values: list[float]) -> tuple[float, float, float]:
    """Returns the mean, and the ends of its 95 % interval by Student's t."""
    mean, error = statistics.mean(values), stats.sem(values)
    half = stats.t.ppf(0.975, len(values) - 1) * error
    return mean, float(mean - half), float(mean + half)


def with_ends(name: str, numbers: tuple[float, float, float]) -> dict[str, float]:
    """Returns a number and the ends of its interval under their names."""
    ends = ("", "_low", "_high")
    return {f"{name}{end}": round(n, 4) for end, n in zip(ends, numbers, strict=True)}


def compare(path: Path) -> dict[str, object]:
    """Returns accuracies and speeds of both sides, which take turns."""
    runs = {side: [] for side in SIDES}
    for seed in range(SEEDS.value):
        for side, fine_tune in SIDES.items():
            runs[side].append(fine_tune(path, seed))
    accuracies = {side: [run[0] for run in runs[side]] for side in SIDES}
    speeds = {side: [run[1] for run in runs[side]] for side in SIDES}
    ours, theirs = (mean_and_interval(accuracies[side]) for side in SIDES)
    difference = mean_and_interval(
        [a - b for a, b in zip(accuracies["ours"], accuracies["theirs"], strict=True)]
    )
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["theirs"], strict=True)]
    within = theirs[1] <= ours[0] <= theirs[2] and ours[1] <= theirs[0] <= ours[2]
    return {
        **with_ends("accuracy_ours", ours),
        **with_ends("accuracy_theirs", theirs),
        **with_ends("difference", difference),
        "agree": within or difference[1] <= 0 <= difference[2],
        "accuracies_ours": [round(value, 4) for value in accuracies["ours"]],
        "accuracies_theirs": [round(value, 4) for value in accuracies["theirs"]],
        **with_ends("ratio", (statistics.median(ratios), min(ratios), max(ratios))),
        "images_per_second_ours": round(statistics.median(speeds["ours"]), 1),
        "images_per_second_theirs": round(statistics.median(speeds["theirs"]), 1),
    }


def main(argv: list[str]) -> None:
    """Prints the comparison as one JSON line, last."""
    del argv
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.pth"
        result = {"benchmark": "head_to_head", "source_accuracy": pretrain(path)}
        result |= same_draws(path) | compare(path)
    result |= {
        "seeds": SEEDS.value,
        "num_steps": STEPS.value,
        "labels_per_class": LABELS.value,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
