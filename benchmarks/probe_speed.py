"""Training a head: on features computed once, beside ordinary steps.

    python -m benchmarks.probe_speed

The ordinary side takes steps through the whole network, frozen but for `fc`: BatchNorm
by its running statistics, the gradient of `fc` alone. The other side computes the
features of all images once and takes the same steps on them, as `tljax.probe` does.
Networks are compiled before; compiling the steps on features is in its time. Both sides
take turns in one process. `ratio` is ordinary over features, in time.
"""

import json
import statistics
import time

import jax
import numpy as np
import optax
from absl import app, flags

from tljax import evaluate, optim, probe
from tljax.config import Config, Data, Model, Optim, validate
from tljax.data import augment
from tljax.data.skipped import Skipped
from tljax.probing import features, head
from tljax.run import Run, prepare
from tljax.terminal import print_line

MODEL = flags.DEFINE_string("model", "resnet50", "architecture")
SIZE = flags.DEFINE_integer("image_size", 64, "pixels")
BATCH = flags.DEFINE_integer("batch_size", 32, "images a step")
IMAGES = flags.DEFINE_integer("images", 600, "of training")
EPOCHS = flags.DEFINE_integer("epochs", 10, "of the head")
REPEATS = flags.DEFINE_integer("repeats", 3, "turns of each side")
SMOKE = flags.DEFINE_bool("smoke", False, "a small model, few images")


def make_run() -> Run:
    """Returns a run on images made up, so many of them for training."""
    data = Data(
        source="synthetic", image_size=SIZE.value, batch_size=BATCH.value,
        num_examples=2 * IMAGES.value, val_fraction=0.3, test_fraction=0.2,
        cache="device",
    )  # fmt: skip
    config = Config(
        num_epochs=EPOCHS.value, num_devices=1, model=Model(name=MODEL.value),
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
    compiled = step.lower(initial, tx.init(initial), images, labels, rows[0]).compile()

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


def main(argv: list[str]) -> None:
    """Measures both sides and prints one JSON line last."""
    del argv
    if SMOKE.value:
        flags.FLAGS.model, flags.FLAGS.image_size = "resnet18", 32
        flags.FLAGS.images, flags.FLAGS.batch_size = 40, 5
        flags.FLAGS.epochs, flags.FLAGS.repeats = 2, 2
    run = make_run()
    variables, _ = probe.begin(run)
    sides = ordinary(run, variables), on_features(run, variables)
    seconds, heads = [], []
    for _ in range(REPEATS.value):
        times = []
        for train in sides:
            start = time.perf_counter()
            heads.append(train())
            times.append(time.perf_counter() - start)
        seconds.append(times)
    ratios = [slow / fast for slow, fast in seconds]
    apart, whole = (
        optax.tree.norm(tree) for tree in (optax.tree.sub(*heads[:2]), heads[0])
    )
    result = {
        "benchmark": "probe_speed",
        "model": MODEL.value,
        "image_size": SIZE.value,
        "batch_size": run.batch_size,
        "images": len(run.source.splits["train"].labels),
        "epochs": EPOCHS.value,
        "seconds_ordinary": round(statistics.median(s for s, _ in seconds), 3),
        "seconds_features": round(statistics.median(s for _, s in seconds), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        # Between the weights of both heads: it is one and the same training.
        "relative_difference": float(apart / whole),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
