"""Training a head: on features computed once, beside ordinary steps.

    python -m benchmarks.probe_speed

The ordinary side takes steps through the whole network, frozen but for `fc`: BatchNorm
by its running statistics, the gradient of `fc` alone. The other side computes the
features of all images once and takes the same steps on them, as `tljax.probe` does.
Networks are compiled before; compiling the steps on features is in its time. Both sides
take turns in one process,
after a first training that is not counted. `ratio` is ordinary over features, in time.
"""

import jax
import numpy as np
import optax
from absl import flags

from benchmarks import command, machine, timing
from tljax import allocator, evaluate, optim, probe
from tljax.config import Config, Data, Model, Optim, validate
from tljax.data import augment
from tljax.data.skipped import Skipped
from tljax.models import MODELS
from tljax.probing import features, head
from tljax.run import Run, prepare
from tljax.terminal import print_line

SMOKE = {
    "model": "resnet18", "image_size": 32, "batch_size": 5, "images": 40, "epochs": 2,
    "repeats": 2,
}  # fmt: skip


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this benchmark."""
    flags.DEFINE_string("model", "resnet50", "architecture", flag_values=values)
    command.define_numbers(
        values,
        image_size=(64, "pixels"),
        batch_size=(32, "images a step"),
        epochs=(10, "of the head"),
        repeats=(3, "turns of each side"),
    )
    # Of fewer, the smaller splits would lack classes.
    command.define_numbers(values, 25, images=(600, "of training"))


def make_run(values: flags.FlagValues) -> Run:
    """Returns a run on images made up, so many of them for training."""
    data = Data(
        source="synthetic", image_size=values.image_size, batch_size=values.batch_size,
        num_examples=2 * values.images, val_fraction=0.3, test_fraction=0.2,
        cache="device",
    )  # fmt: skip
    config = Config(
        num_epochs=values.epochs, num_devices=1, model=Model(name=values.model),
        data=data, optim=Optim(learning_rate=1e-4, schedule="cosine"),
    )  # fmt: skip
    return prepare(validate(config))


def ordinary(run: Run, variables):
    """Returns a function that trains the head by steps through the whole network."""
    config, params = run.config, variables["params"]
    tx = optim.create_optimizer(
        config.optim, optim.create_schedule(config.optim, config.num_steps)
    )
    split = run.source.splits["train"]
    images, labels = map(jax.device_put, (np.asarray(split.images), split.labels))
    rows = head.rows_of_steps(split.labels, 1, run.batch_size, config)

    @jax.jit
    def step(fc, opt_state, images, labels, rows):
        seen = augment.normalize(images[rows], run.transform.mean, run.transform.std)

        def loss_fn(fc):
            there = variables | {"params": params | {"fc": fc}}
            logits = run.model.apply(there, seen, train=False)
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits, labels[rows]
            )
            return losses.mean()

        grads = jax.grad(loss_fn)(fc)
        updates, opt_state = tx.update(grads, opt_state, fc)
        return optax.apply_updates(fc, updates), opt_state

    initial = params["fc"]
    lowered = step.lower(initial, tx.init(initial), images, labels, rows[0])
    with allocator.compiling():
        compiled = lowered.compile()

    def train():
        fc, opt_state = initial, tx.init(initial)
        for places in rows:
            fc, opt_state = compiled(fc, opt_state, images, labels, places)
        return jax.block_until_ready(fc)

    return train


def on_features(run: Run, variables):
    """Returns a function that computes features once and trains the head on them."""
    skipped = Skipped(len(run.source.entries), 0.0, print_line)
    storage = evaluate.storage_of(run, "train")
    split = features.open_split(run, "train", storage, skipped)

    def look(key, batch):
        return features.middle(run, key, batch)

    program = features.compile_features(run, variables, look, storage.canvases["train"])

    def train():
        key = jax.random.key(0)
        found = features.go_over(run, split, program, variables, key, "features")
        rows = head.rows_of_steps(found.labels, 1, run.batch_size, run.config)
        fc, _ = head.train(variables["params"]["fc"], found, rows, None, run.config)
        return jax.block_until_ready(fc)

    return train


def run(argv: list[str]) -> None:
    """Measures both sides; raises RunError."""
    values = command.parse(argv, __doc__, define, SMOKE)
    if values is None:
        return
    command.check(values, model=MODELS)
    with command.words_of(values):
        course = make_run(values)
        variables, _ = probe.begin(course)
        sides = {
            "ordinary": ordinary(course, variables),
            "features": on_features(course, variables),
        }
    heads = [train() for train in sides.values()]
    takes = {name: timing.repeated(train) for name, train in sides.items()}
    times = timing.take_turns(takes, values.repeats, 1, warmup=0)
    medians = {name: timing.spread(found)["median"] for name, found in times.items()}
    apart, whole = (
        optax.tree.norm(tree) for tree in (optax.tree.sub(*heads), heads[0])
    )
    result = {
        "benchmark": "probe_speed",
        "model": values.model,
        "image_size": values.image_size,
        "batch_size": values.batch_size,
        "images": len(course.source.splits["train"].labels),
        "epochs": values.epochs,
        "seconds_ordinary": timing.significant(medians["ordinary"] / 1000),
        "seconds_features": timing.significant(medians["features"] / 1000),
        **timing.ratio(times["features"], times["ordinary"]),
        # Between the weights of both heads: it is one and the same training.
        "relative_difference": float(apart / whole),
        **machine.describe(course.mesh),
    }
    command.finish(result, values.output)


if __name__ == "__main__":
    command.main(run)
