"""Averages of weights, judged by a function that is known: what is kept and best."""

import numpy as np
import pytest

from tljax.interpolation import averages
from tljax.interpolation.averages import Candidate, Score, Trial


def weights(value):
    """Returns variables with one number in them."""
    stats = {"mean": np.zeros(1, np.float32), "var": np.ones(1, np.float32)}
    return {
        "params": {"fc": {"bias": np.full(2, value, np.float32)}},
        "batch_stats": {"bn1": stats},
    }


def value_of(variables):
    return float(variables["params"]["fc"]["bias"][0])


def judge_by(accuracy, recalibrated=None):
    """Returns a judge for which accuracies are functions of the number in weights."""
    seen = []

    def judge(name, variables, trained):
        value = value_of(variables)
        seen.append((name, value, trained))
        plain = Candidate(name, variables, Score(accuracy(value), abs(value)))
        if trained or recalibrated is None:
            return Trial(plain, None)
        score = Score(recalibrated(value), abs(value))
        return Trial(plain, Candidate(name, variables, score, True))

    judge.seen = seen
    return judge


def test_between_is_a_line_with_exact_ends():
    rng = np.random.default_rng(0)
    start, end = ({"a": rng.normal(size=50).astype(np.float32)} for _ in range(2))
    assert averages.between(start, end, 0.0) is start
    assert averages.between(start, end, 1.0) is end
    found = averages.between(start, end, 0.3)["a"]
    expected = 0.7 * start["a"].astype(np.float64) + 0.3 * end["a"].astype(np.float64)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_mean_is_that_of_float64():
    leaves = [np.array([1e8, 1.0], np.float32), np.array([-1e8, 2.0], np.float32),
              np.array([1.0, 6.0], np.float32)]  # fmt: skip
    found = averages.mean([{"a": leaf} for leaf in leaves])["a"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [1 / 3, 3.0], rtol=1e-7)


def test_layers_whose_statistics_moved():
    one, other = weights(0.0), weights(1.0)
    assert averages.moved_layers([one, other]) == ()
    other["batch_stats"]["bn1"] = {"mean": np.zeros(1), "var": np.full(1, 2.0)}
    assert averages.moved_layers([one, one, other]) == ("bn1",)


@pytest.mark.parametrize("peak", [-0.2, 0.0, 0.31, 0.7, 1.0, 3.0])
def test_a_line_is_never_worse_than_its_ends(peak):
    judge = judge_by(lambda value: 1 - abs(value - peak))
    alphas = [0.0, 0.3, 0.7, 1.0]
    rows, kept = averages.line(weights(0.0), weights(1.0), alphas, judge)
    chosen = averages.best_alpha(kept)
    assert chosen == min(alphas, key=lambda alpha: abs(alpha - peak))
    assert {0.0, 1.0} <= set(kept) and len(kept) <= 3
    assert kept[chosen].score.accuracy == max(row.plain.accuracy for row in rows)
    assert [row.alpha for row in rows] == alphas
    assert [trained for _, _, trained in judge.seen] == [True, False, False, True]
    np.testing.assert_allclose([value for _, value, _ in judge.seen], alphas, rtol=1e-6)


def test_the_better_of_both_statistics_is_taken_and_ties_go_by_the_loss():
    judge = judge_by(lambda value: 0.5, lambda value: 0.6)
    _, kept = averages.line(weights(0.0), weights(1.0), [0.0, 0.5, 1.0], judge)
    assert averages.best_alpha(kept) == 0.5 and kept[0.5].recalibrated
    judge = judge_by(lambda value: 0.5, lambda value: 0.5)
    _, kept = averages.line(weights(2.0), weights(1.0), [0.0, 0.5, 1.0], judge)
    assert averages.best_alpha(kept) == 1.0  # The log-loss is the number.


def test_the_greedy_soup_keeps_what_does_not_make_it_worse():
    """Runs 0, 3, 4 and 10; the nearer to 3.5 the better, in steps of a half."""
    judge = judge_by(lambda value: -np.floor(abs(value - 3.5) * 2))
    names = averages.numbered("abcd")
    assert names[0] == "1: a"
    several = [weights(value) for value in (0.0, 3.0, 4.0, 10.0)]
    soup = averages.soup(names, several, judge)
    # 3 first: as near as 4, but of the lower log-loss. With 4 it is 3.5; 0 takes it
    # down to 2.3, 10 up to 5.7.
    assert soup.order == [1, 2, 0, 3]
    assert soup.kept == [1, 2] and soup.made_of == [1, 2]
    assert soup.best.name == "mean of 2, 3" and value_of(soup.best.variables) == 3.5
    judged = [name for name, _, _ in judge.seen]
    assert judged == [*names, "mean of 1, 2, 3, 4", "mean of 2, 3",
                      "mean of 1, 2, 3", "mean of 2, 3, 4"]  # fmt: skip
    assert [trained for _, _, trained in judge.seen] == [True] * 4 + [False] * 4
    assert [row.name for row in soup.rows] == judged


@pytest.mark.parametrize("seed", range(20))
def test_a_soup_is_never_worse_than_the_best_run(seed):
    """Whatever the judge says: here accuracies that have nothing to do with weights."""
    rng = np.random.default_rng(seed)
    drawn = {}

    def accuracy(value):
        return drawn.setdefault(value, round(float(rng.random()), 1))

    several = [weights(value) for value in rng.normal(size=4)]
    judge = judge_by(accuracy, lambda value: round(float(rng.random()), 1))
    soup = averages.soup(list("abcd"), several, judge)
    singles = [single.score.accuracy for single in soup.singles]
    assert soup.best.score.accuracy >= max(singles)
    greedy = [row for row in soup.rows if row.name == averages.name_of(soup.kept)]
    if len(soup.kept) > 1:
        scores = [score for score in greedy[0][2:] if score is not None]
        assert max(score.accuracy for score in scores) >= max(singles)
    expected = averages.mean([several[place] for place in soup.made_of])
    assert value_of(soup.best.variables) == value_of(expected)
