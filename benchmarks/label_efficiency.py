"""What few labels give: backbones that were trained without labels, with, and not.

    python -m benchmarks.label_efficiency

docs
"""

import functools
import json
import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from benchmarks import label_backbones, label_report, side_by_side
from benchmarks.label_backbones import SOURCE, TARGET, digits
from tljax.config import Config, Loss, Model, Optim, Plan, validate
from tljax.data import sources
from tljax.probing import logistic

SEEDS = flags.DEFINE_integer("seeds", 5, "runs of everything")
FIRST_SEED = flags.DEFINE_integer("first_seed", 0, "the first of them")
SPLIT = flags.DEFINE_enum("split", "test", ["val", "test"], "what accuracies are of")
KINDS = flags.DEFINE_list(
    "backbones",
    ["scratch", "supervised", "denoising", "masked", "gan", "dense", "tied"],
    "which",
)
RATE = flags.DEFINE_float("learning_rate", 0.003, "of fine-tuning")
STEPS = flags.DEFINE_integer("num_steps", 200, "of fine-tuning")
NORM = flags.DEFINE_string("batch_norm", "train", "of fine-tuning")
PENALTY = flags.DEFINE_float("penalty", 0.1, "of the linear probe")
OUTPUT = flags.DEFINE_string("output", "", "folder for results")
SMOKE = flags.DEFINE_bool("smoke", False, "two seeds, few steps")

LABELS = (1, 2, 5, 10, 0)
BATCH = 25


class Images(NamedTuple):
    """All digits, and the places of some by name for every seed.

    Attributes:
      stored: "image" uint8 [n, 8, 8, 1] and "label" int32 [n], 0 to 4 in each half.
      train, source, target: training images: all, digits 0 to 4, digits 5 to 9.
      judged: the target's images that accuracies are of.
      labelled: number of labels a class -> places for every seed.
    """

    stored: dict[str, jax.Array]
    train: list[np.ndarray]
    source: list[np.ndarray]
    target: list[np.ndarray]
    judged: list[np.ndarray]
    labelled: dict[int, list[np.ndarray]]


def places_of(split) -> np.ndarray:
    """Returns the places of a split's images among all digits."""
    return split.names.astype(np.int32)


def load(seeds, split: str, labels) -> Images:
    """Returns the digits, divided and labelled by seed."""
    everything = sources.load_digits("", None).splits["train"]
    stored = {
        "image": jnp.asarray(everything.images),
        "label": jnp.asarray(everything.labels % 5),
    }

    def divided(classes, **settings):
        return [
            sources.load(digits(classes, seed=seed, **settings)).splits
            for seed in seeds
        ]

    whole, source, target = map(divided, ((), SOURCE, TARGET))
    labelled = {
        count: [
            places_of(splits["train"])
            for splits in divided(TARGET, labels_per_class=count)
        ]
        for count in labels
    }
    return Images(
        stored,
        *([places_of(s["train"]) for s in each] for each in (whole, source, target)),
        [places_of(s[split]) for s in target],
        labelled,
    )


def target_config(seed: int = 0) -> Config:
    """Returns the recipe of fine-tuning, that of all backbones."""
    return validate(Config(
        num_steps=STEPS.value,
        num_devices=1,
        model=Model(name="resnet18", width=label_backbones.WIDTH, stem="small"),
        data=digits(TARGET, batch_size=BATCH),
        optim=Optim(name="adam", learning_rate=RATE.value, schedule="cosine"),
        loss=Loss(label_smoothing=0.1),
        plan=Plan(batch_norm=NORM.value),
    ))


def rectangle(rows: list[np.ndarray]) -> np.ndarray:
    """Returns rows as an array, cut to the shortest."""
    return np.stack([row[: min(map(len, rows))] for row in rows])


def join(trees):
    """Returns trees with one after another along the axis of models."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)


def fine_tune(run, states, images: Images, seeds, kinds: int):
    """Returns accuracies [labels, backbones, seeds] of all weights trained."""
    judged = np.tile(rectangle(images.judged), (kinds, 1))
    answers = np.asarray(images.stored["label"])[judged]
    predict = functools.partial(run.model.apply, train=False)
    program, found = None, []
    for labelled in images.labelled.values():
        rows = np.stack(
            [
                side_by_side.draw_places(
                    np.random.default_rng((seed, 2)), own, run.config.num_steps, BATCH
                )
                for seed, own in zip(seeds, labelled, strict=True)
            ]
        )
        args = states, images.stored, np.tile(rows, (kinds, 1, 1))
        program = program or side_by_side.compile_steps(run, *args)
        trained, _ = program(*args)
        logits = side_by_side.over_images(
            run, predict, trained.variables, images.stored["image"], judged
        )
        correct = logits.argmax(-1) == answers
        found.append(correct.mean(1).reshape(kinds, len(seeds)))
    return np.stack(found)


def probe(run, states, images: Images, kinds: int):
    """Returns accuracies [labels, backbones, seeds]"""
    labels = np.asarray(images.stored["label"])
    number, seeds = len(labels), len(images.train)

    def pooled(variables, seen):
        return run.model.apply(variables, seen, return_features=True)[1]["pooled"]

    everything = np.tile(np.arange(number, dtype=np.int32), (kinds * seeds, 1))
    features = side_by_side.over_images(
        run, pooled, states.variables, images.stored["image"], everything
    )
    found = np.zeros((len(images.labelled), kinds, seeds))
    size = max(len(row) for row in images.target)
    fit = jax.jit(jax.vmap(functools.partial(
        logistic.fit_one, PENALTY.value, max_iterations=200)))
    for place, labelled in enumerate(images.labelled.values()):
        xs, ys, ws, tests = [], [], [], []
        for n in range(kinds * seeds):
            s = n % seeds
            x = features[n]
            own = x[images.train[s]]
            x = (x - own.mean(0)) / (own.std(0) + 1e-6)
            rows = np.resize(labelled[s], size)
            xs.append(x[rows])
            ys.append(np.eye(5, dtype=np.float32)[labels[rows]])
            ws.append((np.arange(size) < len(labelled[s])) / np.float32(len(labelled[s])))
            tests.append(x[images.judged[s]])
        fits = fit(*map(np.stack, (xs, ys, ws)))
        kernel, bias = map(np.asarray, fits[:2])
        for n in range(kinds * seeds):
            s = n % seeds
            said = (tests[n] @ kernel[n] + bias[n]).argmax(-1)
            found[place, n // seeds, s] = (said == labels[images.judged[s]]).mean()
    return found


def main(argv: list[str]) -> None:
    """Prints tables, and one JSON line last."""
    del argv
    begun = time.perf_counter()
    seeds = range(FIRST_SEED.value, FIRST_SEED.value + SEEDS.value)
    images = load(seeds, SPLIT.value, LABELS)
    result = {}
    for dense in (False, True):
        kinds = [k for k in KINDS.value if (k in ("dense", "tied")) == dense]
        if not kinds: continue
        run = label_backbones.target_run(target_config(), dense)
        parts = []
        for kind in kinds:
            backbone = None
            if kind not in ("scratch", "dense"):
                own = images.source if kind == "supervised" else images.train
                backbone = label_backbones.pretrain(kind, seeds, images.stored, own, label_backbones.STEPS[kind])
                if os.environ.get("SAVE"):
                    import pickle; pickle.dump(jax.tree.map(np.asarray, backbone), open(os.environ["SAVE"]+f"/{kind}.pkl","wb"))
            states = label_backbones.begin(run, seeds, backbone)
            parts.append(label_backbones.recalibrated(run, states, images.stored["image"], rectangle(images.train)))
        states = join(parts)
        p = probe(run, states, images, len(kinds))
        f = fine_tune(run, states, images, seeds, len(kinds))
        for i,k in enumerate(kinds):
            print(k, "probe", p[:,i].mean(-1).round(3), "tune", f[:,i].mean(-1).round(3), "sd", f[:,i].std(-1).round(3), flush=True)
    print(time.perf_counter()-begun)


if __name__ == "__main__":
    app.run(main)
