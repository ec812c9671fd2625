"""Judging weights: one compiled program for all that have the same shapes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from tljax import batch_norm, batches, evaluate, network, parallel, recalibrate
from tljax.data.examples import Examples
from tljax.evaluation import bootstrap, calibration, numbers, probabilities
from tljax.interpolation import averages
from tljax.interpolation.averages import Candidate, Score, Trial
from tljax.recalibrate import Meter
from tljax.run import Run
from tljax.terminal import Terminal


class Bench(NamedTuple):
    """All that it takes to judge weights: one program serves all of them.

    Attributes:
      run: whose images and devices are used.
      splits: ready to be loaded.
      predict: compiled `predict(variables, batch)`.
      meter: measures BatchNorm statistics anew, None where the weights share them all.
    """

    run: Run
    splits: dict[str, Examples]
    predict: jax.stages.Compiled
    meter: Meter | None


def prepare(run: Run, variables: Sequence[Any], terminal: Terminal) -> Bench:
    """Returns what judges weights of the shapes of `variables`."""
    layers = frozenset(averages.moved_layers(variables))
    splits = batches.open_splits(run, terminal)
    predict = network.compile_predict(
        run.config,
        run.model,
        run.transform,
        variables[0],
        run.batch_size,
        run.storage.canvases["val"],
        run.mesh,
        len(variables) * len(run.source.splits["val"].labels),
    )
    if not layers:
        return Bench(run, splits, predict, None)
    frozen = frozenset(batch_norm.by_layer(variables[0]["batch_stats"])) - layers
    stored = batches.stored_images(run, splits["train"])
    meter = recalibrate.open_meter(run, layers, frozen, splits["train"], stored)
    return Bench(run, splits, predict, meter)


def judge(bench: Bench, name: str, variables: Any, trained: bool) -> Trial:
    """Returns weights judged on the validation split, also with new statistics.

    Those that are `trained` stay as they are.
    """
    plain = Candidate(name, variables, score(bench, variables))
    if trained or bench.meter is None:
        return Trial(plain, None)
    variables = measured(bench.meter, variables)
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


def measured(meter: Meter, variables: Any) -> Any:
    """Returns weights with the statistics of the training images, on the host."""
    placed = jax.device_put(variables, parallel.replicated(meter.run.mesh))
    return jax.device_get(recalibrate.measure(meter, placed))


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
