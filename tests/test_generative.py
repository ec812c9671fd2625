"""Measures of generated images beside plain float64 computations and known answers."""

import numpy as np
import pytest
from scipy import linalg

from tljax.errors import DataError, NonFiniteError
from tljax.evaluation import generative


def draw(shape, seed=0, shift=0.0, scale=1.0):
    return shift + scale * np.random.default_rng(seed).standard_normal(shape)


def with_moments(mean, covariance, count, seed=0):
    """Returns samples whose mean and covariance are exactly these."""
    noise = draw((count, len(mean)), seed)
    noise, _ = np.linalg.qr(noise - noise.mean(axis=0))
    return mean + np.sqrt(count - 1) * noise @ linalg.sqrtm(covariance)


def distance(one, other):
    return generative.frechet_distance(
        generative.moments(one), generative.moments(other)
    )


def plain_distance(one, other):
    """Returns the Frechet distance by a root of the product of the covariances."""
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = linalg.sqrtm(first @ second).real
    apart = np.sum((one.mean(axis=0) - other.mean(axis=0)) ** 2)
    return apart + np.trace(first + second - 2 * root)


def test_moments_are_those_of_numpy():
    # They are taken in parts of 4 times 12 rows.
    for count in (5, 48, 50, 120):
        features = draw((count, 12), shift=100.0)
        found = generative.moments(features)
        assert found.count == count and found.factor.shape == (min(count, 12), 12)
        np.testing.assert_allclose(found.mean, features.mean(axis=0))
        covariance = found.factor.T @ found.factor
        expected = np.cov(features, rowvar=False)
        np.testing.assert_allclose(covariance, expected, rtol=1e-9, atol=1e-12)


def test_frechet_distance_is_the_direct_one():
    one = draw((80, 10)) @ draw((10, 10), 1)
    other = draw((60, 10), 2, shift=0.3) @ draw((10, 10), 3)
    np.testing.assert_allclose(distance(one, other), plain_distance(one, other))


def test_frechet_distance_of_gaussians_has_its_known_value():
    # Of covariances with the same axes it is |m - n|^2 + sum (s - t)^2.
    deviations, others = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.1, 0.5])
    turn, _ = np.linalg.qr(draw((3, 3)))
    means = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5])
    sets = [
        with_moments(mean, turn @ np.diag(values**2) @ turn.T, 40, seed)
        for seed, (mean, values) in enumerate(
            zip(means, (deviations, others), strict=True)
        )
    ]
    expected = 10.0 + np.sum((deviations - others) ** 2)
    np.testing.assert_allclose(distance(*sets), expected, rtol=1e-12)


def test_frechet_distance_is_exact_with_fewer_samples_than_features():
    one, other = draw((20, 300)), draw((30, 300), 1)
    # In the space of all 50 samples the same covariances have hardly a null space.
    basis, _ = np.linalg.qr(np.concatenate([one, other]).T)
    first, second = (np.cov(each @ basis, rowvar=False) for each in (one, other))
    values = np.linalg.eigvals(first @ second).real
    shared = np.sqrt(np.sort(values)[-19:]).sum()
    apart = np.sum((one.mean(axis=0) - other.mean(axis=0)) ** 2)
    expected = apart + np.trace(first) + np.trace(second) - 2 * shared
    np.testing.assert_allclose(distance(one, other), expected, rtol=1e-9)
    assert 0 <= distance(one, one[::-1]) < 1e-9


def test_frechet_distance_takes_float32_in_float64():
    one = draw((60, 5), shift=1e4).astype(np.float32)
    other = one + np.float32(2)
    np.testing.assert_allclose(distance(one, other), 5 * 2.0**2, rtol=1e-6)


def plain_kernel_distance(one, other):
    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def mean_of_pairs(points):
        pairs = [
            kernel(x, y)
            for i, x in enumerate(points)
            for j, y in enumerate(points)
            if i != j
        ]
        return np.mean(pairs)

    between = np.mean([kernel(x, y) for x in one for y in other])
    return mean_of_pairs(one) + mean_of_pairs(other) - 2 * between


def test_kernel_distance_is_that_of_a_double_loop(monkeypatch):
    monkeypatch.setattr(generative, "BLOCK", 4)
    one, other = draw((13, 6)), draw((9, 6), 1, shift=0.5)
    found = generative.kernel_distance(one, other)
    np.testing.assert_allclose(found.value, plain_kernel_distance(one, other))


@pytest.mark.parametrize("shift, low, high", [(0.0, 1.2, 1.8), (1.0, 0.85, 1.15)])
def test_kernel_distance_has_no_bias_and_its_error_is_that_of_draws(shift, low, high):
    found = [
        generative.kernel_distance(
            draw((40, 1), [seed, 0]), draw((30, 1), [seed, 1], shift)
        )
        for seed in range(400)
    ]
    values, errors = np.array(found).T
    # The sum over the powers p of binomial(3, p) (E x^p - E y^p)^2.
    expected = 3 * shift**2 + 3 * shift**4 + (3 * shift + shift**3) ** 2
    assert abs(values.mean() - expected) < 3 * values.std() / np.sqrt(len(values))
    ratio = np.sqrt(np.mean(errors**2)) / values.std()
    assert low < ratio < high


def plain_among(points, centres, neighbours):
    """Returns the share of points in a ball, by plain loops."""
    sizes = []
    for place, centre in enumerate(centres):
        rest = np.delete(centres, place, axis=0)
        sizes.append(np.sort(np.linalg.norm(rest - centre, axis=1))[neighbours - 1])
    inside = [
        any(np.linalg.norm(point - c) <= r for c, r in zip(centres, sizes, strict=True))
        for point in points
    ]
    return np.mean(inside)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall_are_those_of_plain_loops(neighbours):
    real, generated = draw((40, 3)), draw((30, 3), 1, shift=1.0, scale=0.7)
    found = generative.precision_and_recall(real, generated, neighbours)
    expected = (
        plain_among(generated, real, neighbours),
        plain_among(real, generated, neighbours),
    )
    assert found == pytest.approx(expected)
    assert 0 < found[1] < found[0] < 1


def test_precision_and_recall_do_not_depend_on_the_blocks(monkeypatch):
    real, generated = draw((300, 3)), draw((200, 3), 1, scale=0.4)
    whole = generative.precision_and_recall(real, generated)
    monkeypatch.setattr(generative, "BLOCK", 7)
    assert generative.precision_and_recall(real, generated) == whole


def test_lost_and_added_kinds_show_in_recall_and_precision():
    kinds = [draw((50, 4), seed, 30 * seed) for seed in range(2)]
    both, one = np.concatenate(kinds), kinds[0]
    assert generative.precision_and_recall(both, one + 1e-9) == (1.0, 0.5)
    assert generative.precision_and_recall(one, both) == (0.5, 1.0)


def test_class_histograms_and_their_divergence():
    logits = np.eye(4)[[2, 2, 0, 2, 3]]
    counts = generative.class_histogram(logits)
    assert counts.tolist() == [1, 0, 3, 1]
    assert generative.class_histogram(logits[:3]).tolist() == [1, 0, 2, 0]
    shares = np.array([0.2, 0.6, 0.2])
    expected = np.sum(shares * np.log(shares * 4))
    assert generative.divergence(counts) == pytest.approx(expected)
    assert generative.divergence(7 * counts, counts) == pytest.approx(0)
    assert generative.divergence(np.eye(4)[1]) == pytest.approx(np.log(4))
    assert generative.divergence(counts, np.array([1, 5, 1, 0])) == np.inf
    found = generative.class_scores(logits, np.array([2, 0, 6, 2]))
    assert found["class_histogram"] == [1, 0, 3, 1]
    assert found["kl_to_uniform"] == pytest.approx(expected)
    assert found["kl_to_real"] == pytest.approx(0)
    lacking = generative.class_scores(logits, np.array([1, 5, 1, 0]))
    assert lacking["kl_to_real"] is None


def test_scores_bear_the_name_of_their_network():
    real, generated = draw((30, 4)), draw((20, 4), 1)
    found = generative.scores(real, generated, "resnet18_digits")
    assert list(found) == [
        "fd_resnet18_digits",
        "kd_resnet18_digits",
        "kd_resnet18_digits_error",
        "precision",
        "recall",
        "real_samples",
        "generated_samples",
    ]
    assert (found["real_samples"], found["generated_samples"]) == (30, 20)
    assert found["fd_resnet18_digits"] == distance(real, generated)
    assert generative.names(generative.INCEPTION) == ("fid", "kid")


def test_what_cannot_be_measured_is_one_line():
    good = draw((10, 4))
    bad = good.copy()
    bad[3, 2] = np.nan
    with pytest.raises(NonFiniteError, match="not a finite number"):
        generative.scores(good, bad, "x")
    with pytest.raises(DataError, match=r"1 samples are too few .* at least 2"):
        generative.moments(good[:1])
    with pytest.raises(DataError, match=r"3 samples are too few .* at least 4"):
        generative.precision_and_recall(good, good[:3])
    for measure in (distance, generative.kernel_distance):
        with pytest.raises(DataError, match="sets of 4 and of 3 features"):
            measure(good, good[:, :3])
    with pytest.raises(DataError, match="at least one sample"):
        generative.divergence(np.zeros(3, int))
    with pytest.raises(DataError, match="histograms of 3 and 2 classes"):
        generative.divergence(np.ones(3), np.ones(2))
