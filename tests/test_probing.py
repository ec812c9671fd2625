"""Methods that judge features: beside scikit-learn, SciPy, and training itself."""

import functools

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from tljax.errors import ConfigError, NonFiniteError
from tljax.probing import few_shot, head, logistic, methods, neighbours
from tljax.probing.features import Features

CLASSES = 3


def make_split(number, seed, dimension=5, labels=None):
    """Returns features of three classes that overlap, classes of unequal size."""
    rng = np.random.default_rng(seed)
    if labels is None:
        labels = rng.choice(CLASSES, number, p=(0.5, 0.3, 0.2))
    middles = np.random.default_rng(7).normal(size=(CLASSES, dimension))
    values = middles[labels] + rng.normal(size=(number, dimension))
    return Features(values.astype(np.float32), labels.astype(np.int32))


@pytest.fixture(scope="module")
def splits():
    sizes = {"train": 90, "val": 40, "test": 50}
    return {n: make_split(k, seed) for seed, (n, k) in enumerate(sizes.items())}


jitted = jax.jit(logistic.fit, static_argnames=("num_classes", "at_once"))
THREE = np.float32([1e-3, 0.1, 1e3])


def fit(values, labels, weights=None, max_iterations=200):
    """Always of one shape, to be compiled once."""
    weights = np.ones(len(labels)) if weights is None else weights
    weights = weights.astype(np.float32)
    return jitted(
        values, labels, weights, THREE, num_classes=CLASSES,
        max_iterations=max_iterations, at_once=1,
    )  # fmt: skip


def sklearn_fit(values, labels, penalty, number):
    model = LogisticRegression(C=1 / (number * penalty), tol=1e-12, max_iter=10_000)
    return model.fit(values.astype(np.float64), labels)


def test_logistic_regression_in_float64_has_the_weights_of_scikit_learn(
    splits, monkeypatch
):
    monkeypatch.setattr(logistic, "TOLERANCE", 1e-9)
    train, penalties = splits["train"], np.array([1e-3, 0.03, 1.0, 50.0, 1e4])
    with jax.enable_x64(True):
        fit = functools.partial(
            logistic.fit, num_classes=CLASSES, max_iterations=500, at_once=5
        )
        values, weights = train.values.astype(np.float64), np.ones(90)
        found = jax.device_get(jax.jit(fit)(values, train.labels, weights, penalties))
    assert (found.gradient <= 1e-9).all()
    for place, penalty in enumerate(penalties):
        model = sklearn_fit(train.values, train.labels, penalty, 90)
        np.testing.assert_allclose(found.kernel[place].T, model.coef_, atol=2e-6)
        np.testing.assert_allclose(
            found.bias[place] - found.bias[place].mean(), model.intercept_, atol=2e-6
        )


def test_in_float32_it_has_the_probabilities(splits):
    train, test = splits["train"], splits["test"]
    fits = fit(train.values, train.labels)
    assert logistic.converged(fits).all()
    right, losses = logistic.judge(fits, test.values, test.labels)
    for place, penalty in enumerate([1e-3, 0.1, 1e3]):
        model = sklearn_fit(train.values, train.labels, penalty, 90)
        expected = model.predict_proba(test.values.astype(np.float64))
        found = jax.nn.softmax(
            logistic.scores(fits.kernel[place], fits.bias[place], test.values)
        )
        np.testing.assert_allclose(found, expected, atol=3e-4)
        assert right[place] == np.sum(model.predict(test.values) == test.labels)
        loss = -np.log(expected[np.arange(50), test.labels]).mean()
        assert losses[place] == pytest.approx(loss, abs=1e-4)


def test_an_example_of_weight_0_is_not_there(splits):
    train = splits["train"]
    chosen = np.arange(90) % 3 > 0
    found = fit(train.values, train.labels, weights=chosen)
    model = sklearn_fit(train.values[chosen], train.labels[chosen], 0.1, 60)
    np.testing.assert_allclose(found.kernel[1].T, model.coef_, atol=3e-4)


def test_a_class_without_images_does_no_harm(splits):
    train = splits["train"]
    fits = fit(train.values, np.where(train.labels == 2, 0, train.labels))
    assert logistic.converged(fits).all()
    predictions = logistic.predict(fits.kernel[0], fits.bias[0], train.values)
    assert set(predictions.tolist()) == {0, 1}


def test_what_has_not_converged_says_so(splits):
    train = splits["train"]
    fits = fit(train.values, train.labels, max_iterations=8)
    assert logistic.converged(fits).tolist() == [False, False, True]
    assert fits.iterations[0] == 8 and fits.gradient[0] > logistic.TOLERANCE
    # It is the gradient of the loss itself, in plain units.
    targets, weights = np.eye(CLASSES, dtype=np.float32)[train.labels], np.ones(90) / 90
    for place in range(3):
        grads = jax.grad(logistic.penalised_loss, argnums=(0, 1))(
            fits.kernel[place],
            fits.bias[place],
            train.values,
            targets,
            weights.astype(np.float32),
            THREE[place],
        )
        largest = max(np.abs(grad).max() for grad in grads)
        assert fits.gradient[place] == pytest.approx(largest, rel=0.05, abs=1e-6)
    wrong = np.where(np.arange(90)[:, None] == 5, np.float32(np.nan), train.values)
    with pytest.raises(NonFiniteError, match="logistic regression"):
        logistic.converged(fit(wrong, train.labels))


def test_of_equal_accuracies_the_lowest_loss_is_chosen():
    accuracies, losses = np.array([0.5, 0.7, 0.7, 0.6]), np.array([0.1, 0.9, 0.8, 0.2])
    assert logistic.choose(accuracies, losses) == 2


def test_fits_made_at_once_fit_into_memory():
    assert logistic.fits_at_once(10, 10, 2, 45, "cpu") == 1
    assert logistic.fits_at_once(10, 10, 2, 45, "gpu") == 45
    assert 1 < logistic.fits_at_once(50_000, 2048, 100, 45, "gpu") < 45
    assert logistic.fits_at_once(10**7, 2048, 1000, 45, "gpu") == 1


def test_logistic_regression_is_chosen_on_validation(splits, monkeypatch):
    monkeypatch.setattr(logistic, "PENALTIES", np.geomspace(1e-3, 1e2, 6))
    found = methods.logistic_regression(splits, "test", CLASSES, 200, "cpu")
    train, val, test = splits["train"], splits["val"], splits["test"]
    best = max(row["val_accuracy"] for row in found["path"])
    tied = [row for row in found["path"] if row["val_accuracy"] == best]
    chosen = min(tied, key=lambda row: row["val_log_loss"])
    assert found["penalty"] == chosen["penalty"] and found["val_accuracy"] == best
    model = sklearn_fit(train.values, train.labels, found["penalty"], 90)
    assert found["accuracy"] == model.score(test.values, test.labels)
    assert chosen["train_accuracy"] == model.score(train.values, train.labels)
    assert best == model.score(val.values, val.labels)
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]


def test_features_are_standardised_by_those_of_training(splits):
    constant = {
        name: split._replace(values=np.c_[split.values, np.full(len(split.labels), 3)])
        for name, split in splits.items()
    }
    found = methods.standardize(constant)
    scaler = StandardScaler().fit(splits["train"].values)
    expected = scaler.transform(splits["test"].values)
    np.testing.assert_allclose(found["test"].values[:, :-1], expected, atol=1e-6)
    assert not found["test"].values[:, -1].any()


@pytest.mark.parametrize("bytes_at_once", [1, 2**20])
def test_neighbours_are_those_of_scikit_learn(splits, monkeypatch, bytes_at_once):
    monkeypatch.setattr(neighbours, "AT_ONCE", bytes_at_once)
    train, test = splits["train"], splits["test"]
    counts = neighbours.counts_for(90)
    assert counts == (1, 5, 10, 20, 50)
    found = neighbours.predict(train, test.values, counts, CLASSES)
    for count, predictions in zip(counts, found, strict=True):
        model = KNeighborsClassifier(
            count, metric="cosine", weights=lambda away: np.exp((1 - away) / 0.07)
        ).fit(train.values, train.labels)
        np.testing.assert_array_equal(predictions, model.predict(test.values))


def test_the_number_of_neighbours_is_chosen_on_validation(splits):
    found = methods.nearest_neighbours(splits, "test", CLASSES)
    best = max(found["path"], key=lambda row: row["val_accuracy"])
    assert (found["k"], found["val_accuracy"]) == (best["k"], best["val_accuracy"])
    predictions = neighbours.predict(
        splits["train"], splits["test"].values, (found["k"],), CLASSES
    )
    assert found["accuracy"] == np.mean(predictions[0] == splits["test"].labels)


def test_intervals_are_of_resampled_images():
    right = np.arange(400) % 4 > 0
    found = methods.judged(right[:4], right)
    assert found["accuracy"] == 0.75 and found["val_accuracy"] == 0.75
    low, high = np.array(stats.binom.interval(0.95, 400, 0.75)) / 400
    assert found["accuracy_low"] == pytest.approx(low, abs=0.01)
    assert found["accuracy_high"] == pytest.approx(high, abs=0.01)


def test_draws_are_of_every_class_and_hold_the_smaller_ones():
    labels = np.array([2, 0, 1, 0, 2, 1, 0, 2, 1, 1, 0, 2])
    found = few_shot.draw(labels, 3, draws=4, seed=0)
    again = few_shot.draw(labels, 3, draws=5, seed=0)
    np.testing.assert_array_equal(found.places, again.places[:4])
    for shot in (1, 2, 3):
        for places in found.places[:, found.ranks < shot]:
            assert len(set(places.tolist())) == 3 * shot
            assert np.bincount(labels[places]).tolist() == [shot] * 3
    assert len(np.unique(found.places, axis=0)) == 4
    assert (found.places != few_shot.draw(labels, 3, 4, seed=1).places).any()
    few_shot.check((1, 4), labels, "abc")
    assert few_shot.most(labels, "abcd") == 0
    with pytest.raises(
        ConfigError, match=r"5 images a class .* class 'a' has 4 .* take 4 at most"
    ):
        few_shot.check((1, 5), labels, "abc")


def test_few_labels_give_what_scikit_learn_gives(splits, monkeypatch):
    monkeypatch.setattr(logistic, "PENALTIES", np.array([0.01, 0.1, 10.0]))
    rows = methods.few_labels(
        splits, "test", 1, (2, 4), 3, "abc", 5, max_iterations=200, platform="cpu"
    )
    train, val, test = splits["train"], splits["val"], splits["test"]
    draws = few_shot.draw(train.labels, 4, 3, 5)
    for row in rows:
        scores = {}
        for penalty in (0.01, 0.1, 10.0):
            scores[penalty] = []
            for places in draws.places[:, draws.ranks < row["shots"]]:
                model = sklearn_fit(
                    train.values[places], train.labels[places], penalty, len(places)
                )
                scores[penalty].append(
                    [model.score(part.values, part.labels) for part in (val, test)]
                )
        means = {key: np.mean(pairs, axis=0) for key, pairs in scores.items()}
        for step in row["path"]:
            expected = means[step["penalty"]][0]
            assert step["val_accuracy"] == pytest.approx(expected, abs=1e-9)
        expected = [tested for _, tested in scores[row["penalty"]]]
        assert row["accuracies"] == pytest.approx(expected, abs=1e-9)
        assert row["val_accuracy"] == max(step["val_accuracy"] for step in row["path"])
    assert [row["shots"] for row in rows] == [2, 4]
    assert rows[0]["accuracies"] != rows[1]["accuracies"]


def test_the_interval_of_draws_is_students():
    values = np.array([0.5, 0.6, 0.7, 0.65])
    found = few_shot.interval_of(values, 4)
    ends = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx(ends)
    assert few_shot.interval_of(values, 1)["accuracy_low"] is None
    assert few_shot.interval_of(np.array([1, 0.9, 1]), 3)["accuracy_high"] == 1


def test_the_head_sees_each_copy_in_turn(tiny_config):
    config = tiny_config(num_steps=6)
    labels = np.arange(8) % 2
    rows = head.rows_of_steps(np.tile(labels, 2), 2, 4, config)
    epochs = rows.reshape(3, 8)
    for epoch, first in zip(epochs, (0, 8, 0), strict=True):
        assert sorted(epoch.tolist()) == list(range(first, first + 8))


def test_dropout_drops_its_share(key):
    values = np.ones((100, 100), np.float32)
    found = np.asarray(head.drop(key, values, 0.25))
    assert set(np.unique(found).tolist()) == {0.0, np.float32(1 / 0.75)}
    assert found.mean() == pytest.approx(1, abs=0.05)


def test_a_head_that_diverges_is_an_error(splits, tiny_config):
    config = tiny_config()
    config.optim.learning_rate = 1e30
    initial = {"kernel": np.ones((5, 3), np.float32), "bias": np.ones(3, np.float32)}
    with pytest.raises(NonFiniteError, match=r"head: .* not finite after step"):
        methods.trained_head(splits, "test", 1, initial, 30, None, config)
