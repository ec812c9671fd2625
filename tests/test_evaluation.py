"""The numbers of an evaluation beside scikit-learn's, and beside plain loops."""

import numpy as np
import pytest
from scipy import optimize, special
from sklearn import metrics

from tljax.evaluation import bootstrap, calibration, numbers, probabilities, ranking

# What can be wrong with a split: nothing, classes that it lacks, equal probabilities,
# a single label, a single example, two classes, one class, probabilities of 0 and 1.
KINDS = ("plain", "absent", "ties", "one_label", "one_example", "binary", "one_class")
KINDS = (*KINDS, "certain")


def draw_case(kind, seed):
    """Returns labels [n] and normalised log-probabilities [n, classes]."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    num_classes = {"binary": 2, "one_class": 1}.get(kind, int(rng.integers(3, 12)))
    size = 1 if kind == "one_example" else int(rng.integers(2, 60))
    labels = rng.integers(0, num_classes, size)
    if kind == "absent":
        labels = rng.choice(rng.permutation(num_classes)[: num_classes // 2], size)
    if kind == "one_label":
        labels[:] = labels[0]
    scale = 60.0 if kind == "certain" else rng.uniform(0.5, 3)
    logits = scale * rng.standard_normal((size, num_classes))
    logits[np.arange(size), labels] += rng.uniform(0, 2 * scale)
    if kind == "ties":
        logits = np.round(logits / scale)
    found = special.log_softmax(logits.astype(np.float32), axis=1)
    return labels, probabilities.normalize(found)


def cases(count=8):
    return [pytest.param(kind, seed) for kind in KINDS for seed in range(count)]


def assert_equal(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
@pytest.mark.parametrize("kind, seed", cases())
def test_every_number_is_that_of_scikit_learn(kind, seed):
    labels, logs = draw_case(kind, seed)
    found = numbers.scalars(labels, logs, 2.0)
    values = np.exp(logs)
    classes = np.arange(values.shape[1])
    predictions = values.argmax(axis=1)
    assert_equal(found["accuracy"], metrics.accuracy_score(labels, predictions))
    for average in ("macro", "micro", "weighted"):
        for name in ("precision", "recall", "f1"):
            score = getattr(metrics, f"{name}_score")
            expected = score(labels, predictions, average=average, zero_division=0)
            assert_equal(found[f"{name}_{average}"], expected)
    if len(classes) > 5:
        expected = metrics.top_k_accuracy_score(labels, values, k=5, labels=classes)
        assert_equal(found["top5"], expected)
        assert_equal(probabilities.in_top(labels, logs).mean(), expected)
    else:
        assert found["top5"] == 1
    if len(classes) > 1 and values.min() > 1e-15:  # There scikit-learn clips.
        expected = metrics.log_loss(labels, values, labels=classes)
        assert_equal(found["log_loss"], expected)
    hot = np.eye(len(classes))[labels]
    assert_equal(found["brier"], np.mean(np.sum((values - hot) ** 2, axis=1)))
    both = [label for label in classes if 0 < np.sum(labels == label) < len(labels)]
    for name, score in (
        ("roc_auc", metrics.roc_auc_score),
        ("average_precision", metrics.average_precision_score),
    ):
        each = [score(labels == label, values[:, label]) for label in both]
        assert_equal(found[name], np.mean(each) if both else np.nan)
    assert_equal(found["ece"], plain_calibration_error(labels, values))
    cooled = special.softmax(logs / 2.0, axis=1)
    assert_equal(found["ece_calibrated"], plain_calibration_error(labels, cooled))
    expected = metrics.confusion_matrix(labels, predictions, labels=classes)
    assert (numbers.confusion(labels, logs) == expected).all()


def test_all_classes_together_are_scikit_learns_macro_auc():
    labels, logs = draw_case("plain", 1)
    assert len(np.unique(labels)) == logs.shape[1]
    expected = metrics.roc_auc_score(labels, np.exp(logs), multi_class="ovr")
    assert_equal(numbers.scalars(labels, logs, 1.0)["roc_auc"], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_each_class_has_its_row(kind):
    labels, logs = draw_case(kind, 3)
    names = tuple(f"class {label}" for label in range(logs.shape[1]))
    rows = numbers.per_class(labels, logs, names)
    assert [row["class"] for row in rows] == list(names)
    assert sum(row["support"] for row in rows) == len(labels)
    predictions = logs.argmax(axis=1)
    for label, row in enumerate(rows):
        correct = np.sum((labels == label) & (predictions == label))
        assert row["precision"] == pytest.approx(
            correct / max(np.sum(predictions == label), 1)
        )
        assert row["recall"] == pytest.approx(correct / max(np.sum(labels == label), 1))
        assert np.isnan(row["roc_auc"]) == (row["support"] in (0, len(labels)))


def plain_calibration_error(labels, values):
    """Returns the expected calibration error by its definition, bin by bin."""
    confidence, predictions = values.max(axis=1), values.argmax(axis=1)
    total = 0.0
    for low, high in zip(
        np.linspace(0, 1, 16), np.linspace(0, 1, 16)[1:], strict=False
    ):
        inside = [i for i, c in enumerate(confidence) if low < c <= high]
        if inside:
            right = np.mean([predictions[i] == labels[i] for i in inside])
            gap = abs(right - np.mean([confidence[i] for i in inside]))
            total += len(inside) / len(labels) * gap
    return total


def test_normalised_rows_keep_order_and_ties():
    rng = np.random.default_rng(0)
    logs = np.round(rng.standard_normal((50, 8)), 1).astype(np.float32)
    found = probabilities.normalize(logs)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-14)
    assert (np.argsort(found, axis=1, kind="stable")
            == np.argsort(logs, axis=1, kind="stable")).all()  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_the_temperature_is_that_of_scipys_minimiser(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, 200)
    logits = rng.standard_normal((200, 6))
    logits[np.arange(200), labels] += rng.uniform(0.5, 1.5)
    logs = probabilities.normalize(logits * rng.uniform(0.2, 8))

    def log_loss(temperature):
        scaled = special.log_softmax(logs / temperature, axis=1)
        return -scaled[np.arange(200), labels].mean()

    expected = optimize.minimize_scalar(
        log_loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-9}
    )
    found = calibration.fit_temperature(labels, logs)
    assert found == pytest.approx(expected.x, rel=1e-5)
    assert log_loss(found) <= expected.fun + 1e-12


def test_temperatures_where_none_is_the_best():
    labels = np.array([0, 1, 2, 0])
    logs = probabilities.normalize(3 * np.eye(3)[labels])
    assert calibration.fit_temperature(labels, logs) == calibration.COLDEST
    wrong = probabilities.normalize(3 * np.eye(3)[(labels + 1) % 3])
    assert calibration.fit_temperature(labels, wrong) == calibration.HOTTEST
    one_class = np.zeros((4, 1))
    assert calibration.fit_temperature(np.zeros(4, int), one_class) == 1


def test_confidences_at_the_edge_of_a_bin_count_below_it():
    confidence = np.array([1 / 15, 5 / 15, 5 / 15 + 1e-9, 1.0, 1e-9])
    assert list(calibration.bins_of(confidence)) == [0, 4, 5, 14, 0]


@pytest.mark.parametrize("kind, seed", cases(3))
def test_each_resample_has_the_numbers_of_its_examples(kind, seed, monkeypatch):
    """A plain loop repeats the examples and asks `numbers` again."""
    labels, logs = draw_case(kind, seed)
    monkeypatch.setattr(bootstrap, "CHUNK", 7 * len(labels))  # Chunks of seven.
    found = bootstrap.resampled(labels, logs, 2.0, seed, resamples=20)
    counts = np.concatenate(list(bootstrap.draw(len(labels), 20, seed)), axis=1)
    assert (
        counts.shape == (len(labels), 20) and (counts.sum(axis=0) == len(labels)).all()
    )
    for number in range(20):
        drawn = np.repeat(np.arange(len(labels)), counts[:, number].astype(int))
        expected = numbers.scalars(labels[drawn], logs[drawn], 2.0)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert_equal(found[name][number], value)


def test_intervals_are_percentiles_and_repeat():
    labels, logs = draw_case("plain", 2)
    found = bootstrap.intervals(labels, logs, 1.0)
    drawn = bootstrap.resampled(labels, logs, 1.0)["accuracy"]
    assert len(drawn) == 1000
    ends = found["accuracy_low"], found["accuracy_high"]
    assert ends == tuple(np.percentile(drawn, [2.5, 97.5]))
    assert bootstrap.intervals(labels, logs, 1.0) == found
    assert bootstrap.intervals(labels, logs, 1.0, seed=1) != found


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Of 200 samples of 100 examples, of which each is right with probability 0.8."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        right = rng.random((100, 1)) < 0.8
        drawn = bootstrap.means({"right": right}, next(bootstrap.draw(100, 200, seed)))
        low, high = bootstrap.as_intervals(drawn).values()
        covered += low <= 0.8 <= high
    assert 0.9 <= covered / 200 <= 0.99


def test_ranked_metrics_of_large_splits_have_fewer_resamples(monkeypatch):
    labels, logs = draw_case("plain", 2)
    monkeypatch.setattr(bootstrap, "WORK", 30 * logs.size)
    monkeypatch.setattr(bootstrap, "FEWEST", 1)
    found = bootstrap.resampled(labels, logs, 1.0, resamples=50)
    assert len(found["roc_auc"]) == 30 and len(found["accuracy"]) == 50


def test_resampled_temperatures_are_those_of_a_plain_loop():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 80)
    logits = rng.standard_normal((80, 4)) + np.eye(4)[labels]
    logs = probabilities.normalize(3 * logits)
    found = bootstrap.temperatures(labels, logs, 0, resamples=20)
    counts = next(bootstrap.draw(80, 20, 0))
    for number in range(20):
        drawn = np.repeat(np.arange(80), counts[:, number].astype(int))
        expected = calibration.fit_temperature(labels[drawn], logs[drawn])
        assert found[number] == pytest.approx(expected, rel=2e-3)


def test_weighted_ranking_is_scikit_learns():
    """Many ties, and weights of 0 at either end."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        positive = rng.random(30) < 0.4
        scores = rng.integers(0, 6, 30) / 5
        counts = rng.integers(0, 3, (30, 1)).astype(float)
        if not 0 < positive[counts[:, 0] > 0].mean() < 1:
            continue
        found = ranking.auc_and_precision(positive, scores, counts)
        for value, score in zip(
            found, (metrics.roc_auc_score, metrics.average_precision_score), strict=True
        ):
            expected = score(positive, scores, sample_weight=counts[:, 0])
            assert_equal(value[0], expected)


def test_what_has_no_value_is_null():
    value = {"a": float("nan"), "b": [1, {"c": float("nan")}], "d": "nan"}
    expected = {"a": None, "b": [1, {"c": None}], "d": "nan"}
    assert numbers.without_nan(value) == expected
