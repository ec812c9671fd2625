"""Judging weights: one compiled program for all that have the same shapes."""

import itertools
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

import jax

from tljax import batches, evaluate, network, parallel, recalibrate
from tljax.data.examples import Examples
from tljax.evaluation import bootstrap, calibration, numbers, probabilities
from tljax.interpolation import averages
from tljax.interpolation.averages import Candidate, Score, Trial
from tljax.run import Run
from tljax.terminal import Terminal


class Bench(NamedTuple):
    """All that it takes to judge weights: one program serves all of them.

    Attributes:
      run: whose images and devices are used.
      splits: ready to be loaded.
      layers: BatchNorm layers whose statistics are measured anew.
      predict: compiled `predict(variables, batch)`.
      measure: compiled `recalibrate.add_batch`, None where there are no such layers.
      stored: the training images that lie on the devices.
    """

    run: Run
    splits: dict[str, Examples]
    layers: tuple[str, ...]
    predict: jax.stages.Compiled
    measure: jax.stages.Compiled | None
    stored: dict[str, jax.Array]


def prepare(run: Run, variables: Sequence[Any], terminal: Terminal) -> Bench:
    """Returns what judges weights of the shapes of `variables`."""
    layers = averages.moved_layers(variables)
    splits = batches.open_splits(run, terminal)
    predict = network.compile_predict(
        run.config,
        run.model,
        run.transform,
        variables[0],
        run.batch_size,
        run.storage.canvases["val"],
        run.mesh,
    )
    if not layers:
        return Bench(run, splits, layers, predict, None, {})
    measure = recalibrate.compile_add(
        variables[0],
        layers,
        run.abstract_batch("train"),
        run.abstract_stored(),
        mesh=run.mesh,
        mode=run.config.compile,
        model=recalibrate.measuring(run.model, variables[0]["batch_stats"], layers),
        transform=run.transform,
        operations=run.config.data.augment,
        key=jax.random.key(run.config.seed),
    )
    stored = batches.stored_images(run, splits["train"])
    return Bench(run, splits, layers, predict, measure, stored)


def judge(bench: Bench, name: str, variables: Any, trained: bool) -> Trial:
    """Returns weights judged on the validation split, also with new statistics.

    Those that are `trained` stay as they are.
    """
    plain = Candidate(name, variables, score(bench, variables))
    if trained or not bench.layers:
        return Trial(plain, None)
    variables = measured(bench, variables)
    other = Candidate(name, variables, score(bench, variables), recalibrated=True)
    return Trial(plain, other)


def score(bench: Bench, variables: Any) -> Score:
    """Returns what weights are worth on the validation split."""
    found = predict(bench, variables, "val")
    right = found.log_probabilities.argmax(axis=1) == found.labels
    losses = -probabilities.of_labels(found.labels, found.log_probabilities)
    return Score(float(right.mean()), float(losses.mean()))


def predict(bench: Bench, variables: Any, split: str) -> evaluate.Outcome:
    """Returns what weights say of a split."""
    placed = jax.device_put(variables, parallel.replicated(bench.run.mesh))
    return evaluate.predict(bench.run, bench.splits[split], bench.predict, placed)


def measured(bench: Bench, variables: Any) -> Any:
    """Returns weights with the statistics of the training images, on the host.

    Of one epoch, rounded up to whole batches, or of config.plan.recalibration_batches.
    """
    run, examples = bench.run, bench.splits["train"]
    number = -(-len(examples.split.labels) // run.batch_size)
    number = min(number, run.config.plan.recalibration_batches)
    placed = jax.device_put(variables, parallel.replicated(run.mesh))
    with closing(batches.train_batches(run, examples, 0)) as rows:
        found = recalibrate.recalibrate(
            bench.measure,
            placed,
            bench.layers,
            itertools.islice(rows, number),
            bench.stored,
            run.mesh,
        )
    return jax.device_get(found)


class Final(NamedTuple):
    """Weights that are evaluated at the end; `alpha` is None where there is no line."""

    title: str
    alpha: float | None
    candidate: Candidate


def compare(
    bench: Bench, finals: list[Final], chosen: Final, single: Final, over: str
) -> dict[str, Any]:
    """Returns the numbers of weights on the split of the result, each with intervals.

    "gain" is the accuracy of the chosen ones less that of a single run, which `over`
    names, with the interval of the difference on the same resampled images.
    """
    split = bench.run.source.result_split()
    results, drawn = [], []
    for final in finals:
        variables = final.candidate.variables
        val, outcome = (predict(bench, variables, name) for name in ("val", split))
        temperature = calibration.fit_temperature(val.labels, val.log_probabilities)
        given = outcome.labels, outcome.log_probabilities, temperature
        resampled = bootstrap.resampled(*given)
        drawn.append(resampled["accuracy"])
        results.append(
            {
                "name": final.title,
                "row": final.candidate.name,
                "alpha": final.alpha,
                "num_examples": len(outcome.labels),
                **numbers.scalars(*given),
                "temperature": temperature,
                **bootstrap.as_intervals(resampled),
                "confusion_matrix": numbers.confusion(*given[:2]).tolist(),
            }
        )
    first, second = finals.index(chosen), finals.index(single)
    difference = {"accuracy": drawn[first] - drawn[second]}
    gain = results[first]["accuracy"] - results[second]["accuracy"]
    return {
        "split": split,
        "results": numbers.without_nan(results),
        "gain": {"over": over, "accuracy": gain} | bootstrap.as_intervals(difference),
    }
