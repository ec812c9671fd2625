"""Weights between and among others: points on a line, a mean, a greedy choice.

Wortsman et al. 2021 (WiSE-FT, arXiv 2109.01903) and 2022 (model soups, 2203.05482).
Nothing here knows how weights are judged: `judge(name, variables, trained)` says it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tljax import batch_norm


class Score(NamedTuple):
    """What weights are worth on the validation split."""

    accuracy: float
    log_loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """Sorts scores: by accuracy, and equal ones by the log-loss."""
        return self.accuracy, -self.log_loss


class Candidate(NamedTuple):
    """Weights that were judged.

    Attributes:
      name: what people know them by.
      variables: nested dicts of float32 NumPy arrays.
      score: on the validation split.
      recalibrated: whether their BatchNorm statistics were measured anew.
    """

    name: str
    variables: Any
    score: Score
    recalibrated: bool = False

    def describe(self) -> str:
        """Returns the name, and what was done beside."""
        return self.name + (", recalibrated" if self.recalibrated else "")


class Trial(NamedTuple):
    """The same weights without and with statistics of their own."""

    plain: Candidate
    recalibrated: Candidate | None

    @property
    def best(self) -> Candidate:
        """The better of both; the plain one of equals."""
        both = [self.plain, self.recalibrated]
        return best([one for one in both if one is not None])


# Judges weights; those that are `trained` are not recalibrated.
Judge = Callable[[str, Any, bool], Trial]


class Row(NamedTuple):
    """A trial without its weights; `alpha` is None where there is no line."""

    name: str
    alpha: float | None
    plain: Score
    recalibrated: Score | None


class Soup(NamedTuple):
    """What came of averaging runs.

    Attributes:
      rows: all that was judged.
      singles: the runs themselves.
      order: their places, the best on validation first.
      kept: those that the greedy soup is made of.
      best: the best of all.
      made_of: the places of the runs in it.
    """

    rows: list[Row]
    singles: list[Candidate]
    order: list[int]
    kept: list[int]
    best: Candidate
    made_of: list[int]


def between(start: Any, end: Any, alpha: float) -> Any:
    """Returns (1 - alpha) * start + alpha * end; each end is itself, bit for bit."""
    if alpha in (0, 1):
        return end if alpha else start
    first, second = np.float32(1 - alpha), np.float32(alpha)
    return jax.tree.map(lambda a, b: first * a + second * b, start, end)


def mean(several: Sequence[Any]) -> Any:
    """Returns the mean of variables, summed in float64."""

    def mean_of(*leaves):
        total = sum(np.asarray(leaf, np.float64) for leaf in leaves)
        return (total / len(leaves)).astype(leaves[0].dtype)

    return jax.tree.map(mean_of, *several)


def moved_layers(several: Sequence[Any]) -> tuple[str, ...]:
    """Returns the BatchNorm layers whose statistics are not the same in all variables.

    What was frozen in all of them was never of the weights, and need not follow them.
    """
    first, *others = (batch_norm.by_layer(one["batch_stats"]) for one in several)
    return tuple(
        name
        for name, layer in first.items()
        if any(
            not np.array_equal(values, other[name][kind])
            for other in others
            for kind, values in layer.items()
        )
    )


def best(candidates: Iterable[Candidate]) -> Candidate:
    """Returns the candidate of the best score, the first of equal ones."""
    return max(candidates, key=lambda candidate: candidate.score.rank)


def line(
    start: Any, end: Any, alphas: Iterable[float], judge: Judge
) -> tuple[list[Row], dict[float, Candidate]]:
    """Returns what was judged between two weights, and candidates by their alpha.

    Of the candidates only the ends and the best one so far are kept: all of them would
    fill the memory.
    """
    rows, kept = [], {}
    for alpha in alphas:
        name = f"alpha {alpha:g}"
        trial = judge(name, between(start, end, alpha), alpha in (0, 1))
        rows.append(row_of(trial, alpha))
        kept[alpha] = trial.best
        chosen = best_alpha(kept)
        kept = {key: kept[key] for key in kept if key in (0, 1, chosen)}
    return rows, kept


def best_alpha(candidates: dict[float, Candidate]) -> float:
    """Returns the alpha of the best candidate, the first of equal ones."""
    return max(candidates, key=lambda alpha: candidates[alpha].score.rank)


def numbered(names: Sequence[str]) -> list[str]:
    """Returns names with a number in front, by which means name them."""
    return [f"{number}: {name}" for number, name in enumerate(names, start=1)]


def name_of(places: Iterable[int]) -> str:
    """Returns the name of the mean of the runs at these places."""
    return f"mean of {', '.join(str(place + 1) for place in places)}"


def soup(names: Sequence[str], several: Sequence[Any], judge: Judge) -> Soup:
    """Returns what comes of averaging runs: each of them, all, and a greedy choice.

    The greedy soup begins with the best run and takes the others in the order of their
    accuracy, each where the accuracy of the mean does not fall.
    """
    singles = [
        judge(name, variables, True).best
        for name, variables in zip(names, several, strict=True)
    ]
    # Sorting is stable: of equal runs the one named first is the first.
    ranks = [single.score.rank for single in singles]
    order = sorted(range(len(names)), key=ranks.__getitem__, reverse=True)
    judged: dict[tuple[int, ...], Trial] = {}

    def judge_mean(places: list[int]) -> Candidate:
        key = tuple(sorted(places))
        if key not in judged:
            variables = mean([several[place] for place in key])
            judged[key] = judge(name_of(key), variables, False)
        return judged[key].best

    judge_mean(order)
    kept, current = order[:1], singles[order[0]]
    for place in order[1:]:
        tried = judge_mean([*kept, place])
        if tried.score.accuracy >= current.score.accuracy:
            kept, current = [*kept, place], tried
    rows = [Row(one.name, None, one.score, None) for one in singles]
    rows += [row_of(trial) for trial in judged.values()]
    found = {(place,): singles[place] for place in order}
    found |= {key: trial.best for key, trial in judged.items()}
    made_of = max(found, key=lambda key: found[key].score.rank)
    return Soup(rows, singles, order, sorted(kept), found[made_of], list(made_of))


def row_of(trial: Trial, alpha: float | None = None) -> Row:
    """Returns a trial without its weights."""
    other = trial.recalibrated
    score = None if other is None else other.score
    return Row(trial.plain.name, alpha, trial.plain.score, score)
