"""What a few labels give: backbones trained without labels, with others, or not at all.

    python -m benchmarks.label_efficiency --output=docs

The task is to tell the digits 5 to 9 of scikit-learn's from 1, 2, 5, 10 or all labelled
training images of each. Backbones are a small ResNet-18 (`label_backbones`):

  scratch      random weights
  supervised   trained on the labelled training images of the digits 0 to 4
  denoising    the encoder of an autoencoder that sees images with pixels missing
  masked       the same with patches hidden, the loss being on these alone
  gan          the trunk of the discriminator of an unconditional GAN

and, beside them, one dense layer of 64 units with a random start ("dense") and as the
encoder of a tied autoencoder ("tied"). What needs no labels sees the training images of
all ten digits, without any. Validation and test images are never trained on.

"probe" is logistic regression on frozen features, which are standardised by training
images. "fine_tune" trains all weights, by one recipe for all: Adam with a cosine, 200
steps, batches of 25, BatchNorm by the batch. What suits a random start unlearns what
was learnt before, so the learning rate is the one of RATES with which a backbone is
best, in the mean over seeds, on the validation images: chosen alike for all of them,
the random ones too, and for each number of labels.

A seed moves the split, the labelled images, first weights and order; of one seed they
are the same for all backbones. The line printed last has means over seeds with 95 %
intervals by Student's t, and so have label_efficiency.csv and label_efficiency.png in
the folder `--output`. All seeds, and all backbones of a kind, train side by side in one
compiled program. It takes 9.5 minutes of two cores of an AMD EPYC with AVX-512, jax
0.10.2, and 35 with AVX2 beside other work.
"""

import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import command, label_report, machine, side_by_side
from benchmarks import label_backbones as backbones
from benchmarks.label_backbones import TARGET
from benchmarks.label_images import Images, load
from tljax import parallel
from tljax.config import Config, Loss, Model, Optim
from tljax.errors import ConfigError
from tljax.probing import logistic
from tljax.run import Run
from tljax.state import TrainState

RESNETS = ("scratch", "supervised", "denoising", "masked", "gan")
DENSE = ("dense", "tied")

SMOKE = {
    "seeds": 2, "num_steps": 4, "backbones": ",".join(["scratch", *DENSE]),
    "labels": "1,2",
}  # fmt: skip
BATCH = 25
# Of fine-tuning, of which the best in validation is taken.
RATES = (0.003, 0.01, 0.03)
# Of the squared weights of logistic regression: of 0.01, 0.1 and 1 the best in the mean
# over backbones and numbers of labels, on the validation images of three other seeds.
PENALTY = 0.01
# Of L-BFGS.
ITERATIONS = 200


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this benchmark."""
    for name, default, doc in (
        ("backbones", [*RESNETS, *DENSE], "those that are tried"),
        ("labels", ["1", "2", "5", "10", "all"], "for each class"),
    ):
        flags.DEFINE_list(name, default, doc, flag_values=values)
    doc = "folder of table and plot; empty = none"
    flags.DEFINE_string("output", "", doc, flag_values=values)
    # Of one seed there is no interval.
    command.define_numbers(values, 2, seeds=(8, "runs of everything"))
    command.define_numbers(values, 0, first_seed=(0, "the first of them"))
    command.define_numbers(values, num_steps=(200, "of fine-tuning"))


def check(values: flags.FlagValues) -> None:
    """Raises ConfigError for what cannot be tried, or not be written."""
    command.check(values, backbones=[*RESNETS, *DENSE])
    for count in values.labels:
        if count != "all" and not (count.isdecimal() and int(count)):
            raise ConfigError(f"--labels: {count!r} is no positive integer, nor 'all'")
    if not values.labels:
        raise ConfigError("--labels is empty")
    if values.output:
        try:
            Path(values.output).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--output={values.output}: {error}") from None


def fine_tuning(num_steps: int) -> Config:
    """Returns the recipe of fine-tuning."""
    return Config(
        num_steps=num_steps,
        num_devices=1,
        model=Model(name="resnet18", width=backbones.WIDTH, stem="small"),
        data=backbones.digits(classes=TARGET, batch_size=BATCH),
        optim=Optim(name="adam", learning_rate=1.0, schedule="cosine"),
        loss=Loss(label_smoothing=0.1),
    )


def fine_tune(run: Run, states: TrainState, images: Images, seeds: range):
    """Yields accuracies [val and test, rates, models], by number of labels."""
    states = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * len(RATES)), states)
    rates = np.repeat(np.float32(RATES), len(states.step) // len(RATES))
    predict = functools.partial(run.model.apply, train=False)
    program = None
    for labelled in images.labelled.values():
        places = side_by_side.draw_all(seeds, labelled, run.config.num_steps, BATCH)
        args = states, images.stored, for_all(places, states), rates
        program = program or side_by_side.compile_steps(run, *args)
        trained, _ = program(*args)
        judged = np.concatenate([images.val, images.test], axis=1)
        logits = side_by_side.over_images(
            run, predict, trained.variables, images.stored["image"],
            for_all(judged, states),
        )  # fmt: skip
        middle = images.val.shape[1]
        parts = logits[:, :middle], logits[:, middle:]
        yield [
            accuracy(part, for_all(places, states), images).reshape(len(RATES), -1)
            for part, places in zip(parts, (images.val, images.test), strict=True)
        ]


def choose_rates(accuracies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns test accuracies [labels, backbones, seeds], and rates without seeds.

    Of accuracies [labels, val and test, rates, backbones, seeds]; the rate is that with
    the best mean over seeds in validation.
    """
    val, test = accuracies[:, 0], accuracies[:, 1]
    best = val.mean(-1).argmax(1)
    chosen = np.take_along_axis(test, best[:, None, :, None], axis=1)[:, 0]
    return chosen, np.array(RATES)[best]


def for_all(rows: np.ndarray, states: TrainState) -> np.ndarray:
    """Returns rows [seeds, ...] for all models, seeds being the last of their axes."""
    times = len(states.step) // len(rows)
    return np.concatenate([rows] * times)


def accuracy(logits: np.ndarray, places: np.ndarray, images: Images) -> np.ndarray:
    """Returns the share of right answers [models] of logits [models, n, classes]."""
    labels = np.asarray(images.stored["label"])
    return (logits.argmax(-1) == labels[places]).mean(-1)


def probe(run: Run, states: TrainState, images: Images):
    """Yields accuracies [models] of linear classifiers, by number of labels."""

    def pooled(variables, seen):
        return run.model.apply(variables, seen, return_features=True)[1]["pooled"]

    labels, judged = np.asarray(images.stored["label"]), for_all(images.test, states)
    every = np.broadcast_to(np.arange(len(labels)), (len(judged), len(labels)))
    features = standardised(
        side_by_side.over_images(
            run, pooled, states.variables, images.stored["image"], every
        ),
        for_all(side_by_side.cut(images.train), states),
    )
    fit = functools.partial(logistic.fit_one, max_iterations=ITERATIONS)
    program = jax.jit(jax.vmap(functools.partial(fit, PENALTY)))
    longest = max(len(own) for rows in images.labelled.values() for own in rows)
    for labelled in images.labelled.values():
        # All of one length, for one program: what is repeated weighs nothing.
        places = for_all(
            np.stack([np.resize(own, longest) for own in labelled]), states
        )
        sizes = for_all(np.array([len(own) for own in labelled]), states)[:, None]
        weights = (np.arange(longest) < sizes) / sizes.astype(np.float32)
        targets = np.eye(len(TARGET), dtype=np.float32)[labels[places]]
        fits = program(take(features, places), targets, weights)
        logits = take(features, judged) @ np.asarray(fits.kernel)
        yield accuracy(logits + np.asarray(fits.bias)[:, None], judged, images)


def take(features: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns of each model the features [models, m, d] at places [models, m]."""
    return np.take_along_axis(features, places[:, :, None], axis=1)


def standardised(features: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns features with mean 0 and deviation 1 over the images at the places."""
    own = take(features, places)
    mean, deviation = own.mean(1, keepdims=True), own.std(1, keepdims=True)
    return (features - mean) / np.maximum(deviation, 1e-6)


def study(
    seeds: range, images: Images, names: list[str], num_steps: int, smoke: bool
) -> dict[str, dict[str, np.ndarray]]:
    """Returns name -> "probe" and "fine_tune", accuracies [labels, seeds], and "rates".

    Those [labels] are what "fine_tune" was done with. The names are of one kind.
    """
    run = backbones.target_run(fine_tuning(num_steps), names[0] in DENSE)
    parts = []
    for name in names:
        own = images.source if name == "supervised" else images.train
        start = backbones.pretrain(name, seeds, images.stored, own, smoke)
        state = backbones.begin(run, seeds, start)
        everything = images.stored["image"], side_by_side.cut(images.train)
        parts.append(backbones.recalibrated(run, state, *everything))
    states = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    shape = len(names), len(seeds)
    begun = time.perf_counter()
    probed = np.stack(list(probe(run, states, images)))
    print(f"probed in {time.perf_counter() - begun:.1f} s", flush=True)
    tuned = np.array(list(fine_tune(run, states, images, seeds)))
    print(f"and fine-tuned in {time.perf_counter() - begun:.1f} s", flush=True)
    tuned, rates = choose_rates(tuned.reshape(*tuned.shape[:-1], *shape))
    probed = probed.reshape(-1, *shape)
    return {
        name: {"probe": probed[:, n], "fine_tune": tuned[:, n], "rates": rates[:, n]}
        for n, name in enumerate(names)
    }


def run(argv: list[str]) -> None:
    """Prints the tables, and all numbers as one JSON line last; raises RunError."""
    values = command.parse(argv, __doc__, define, SMOKE)
    if values is None:
        return
    check(values)
    begun = time.perf_counter()
    seeds = range(values.first_seed, values.first_seed + values.seeds)
    with command.words_of(values):
        images = load(seeds, values.labels)
    found: dict[str, Any] = {}
    for kind in (RESNETS, DENSE):
        names = [name for name in kind if name in values.backbones]
        if names:
            found |= study(seeds, images, names, values.num_steps, values.smoke)
    rows = label_report.rows_of(found, values.labels)
    print("\n".join(label_report.lines(rows, values.labels)))
    if values.output:
        label_report.write(Path(values.output), rows, values.labels)
    result = {
        "benchmark": "label_efficiency",
        "seeds": list(seeds),
        "test_images": images.test.shape[1],
        "num_steps": values.num_steps,
        "rows": rows,
        "seconds": round(time.perf_counter() - begun, 1),
        "cpu_seconds": round(time.process_time(), 1),
        **machine.describe(parallel.create_mesh(num_devices=1)),
    }
    command.finish(result)


if __name__ == "__main__":
    command.main(run)
