"""How near generated images come to real ones, from features of both.

Features are [n, d] of any network, the pooled ones of a classifier or of Inception.
All is computed in float64. All but the kernel distance depend on how many samples there
are: only measures of equal numbers, and of the same network, can be compared.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.metrics.pairwise import euclidean_distances, polynomial_kernel
from sklearn.utils import gen_batches
from threadpoolctl import ThreadpoolController

from tljax.errors import DataError, NonFiniteError

# Rows of features that a thread looks at together: 256 x 10,000 float64 take 20 MB.
BLOCK, THREADS = 256, 4
# Threads of BLAS wait for each other: on busy CPUs many take 15 times as long as one.
BLAS = ThreadpoolController()
NEIGHBOURS = 3
# The network of the weight file pt_inception-2015-12-05-6726825d.pth.
INCEPTION = "inception-2015-12-05"


class Moments(NamedTuple):
    """The Gaussian that a Frechet distance takes for a set of features.

    Attributes:
      count: samples it was computed from.
      mean: [d].
      factor: [min(count, d), d]; `factor.T @ factor` is the covariance, of divisor
        count - 1. A covariance itself has lost half of the digits of its small roots.
    """

    count: int
    mean: np.ndarray
    factor: np.ndarray


class Estimate(NamedTuple):
    """A kernel distance and the standard error of it."""

    value: float
    error: float


def scores(
    real: np.ndarray, generated: np.ndarray, network: str
) -> dict[str, float | int]:
    """Returns all measures of two sets of features [n, d] and [m, d], by name.

    `fd_NETWORK` and `kd_NETWORK` with its standard error `kd_NETWORK_error`; they are
    called `fid` and `kid` with the network INCEPTION alone. `precision`, `recall`, and
    the numbers of samples, `real_samples` and `generated_samples`.

    Raises:
      DataError: there are too few samples, or the sets have other numbers of features.
      NonFiniteError: a feature is not a finite number.
    """
    frechet, kernel = names(network)
    distance = kernel_distance(real, generated)
    precision, recall = precision_and_recall(real, generated)
    return {
        frechet: frechet_distance(moments(real), moments(generated)),
        kernel: distance.value,
        f"{kernel}_error": distance.error,
        "precision": precision,
        "recall": recall,
        "real_samples": len(real),
        "generated_samples": len(generated),
    }


def names(network: str) -> tuple[str, str]:
    """Returns the names of the Frechet and of the kernel distance in a network."""
    if network == INCEPTION:
        return "fid", "kid"
    return f"fd_{network}", f"kd_{network}"


def moments(features: np.ndarray) -> Moments:
    """Returns the mean and a factor of the covariance of features [n, d].

    Raises DataError for fewer than two, which have no covariance.
    """
    features = checked(features, at_least=2)
    mean = features.mean(axis=0)
    factor = np.zeros((0, features.shape[1]))
    with BLAS.limit(limits=1, user_api="blas"):
        # With fewer rows than columns, most work would go into the factor again.
        for rows in blocks(features, 4 * features.shape[1]):
            factor = np.linalg.qr(np.concatenate([factor, rows - mean]), mode="r")
    return Moments(len(features), mean, factor / np.sqrt(len(features) - 1))


def frechet_distance(one: Moments, other: Moments) -> float:
    """Returns |m - n|^2 + tr(S + T - 2 (S T)^(1/2)) of two Gaussians, 0 or more.

    Heusel et al. 2017 (arXiv 1706.08500); in features of Inception it is the FID. The
    roots of the eigenvalues of S T are the singular values of the product of their
    factors, which are as exact where there are fewer samples than features. It falls
    with the number of samples, to that of the distributions (Chong and Forsyth 2020,
    arXiv 1911.07023).
    """
    check_width(len(one.mean), len(other.mean))
    apart = np.sum((one.mean - other.mean) ** 2)
    spread = np.sum(one.factor**2) + np.sum(other.factor**2)
    with BLAS.limit(limits=1, user_api="blas"):
        product = one.factor @ other.factor.T
        shared = np.linalg.svd(product, compute_uv=False).sum()
    return max(float(apart + spread - 2 * shared), 0.0)


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> Estimate:
    """Returns the squared maximum mean discrepancy under (x.y / d + 1)^3, unbiased.

    Binkowski et al. 2018 (arXiv 1801.01401); in features of Inception it is the KID.
    All pairs count, where others take the mean of random subsets. It is 0 in the mean
    for equal distributions, and so often below 0. The standard error comes from the
    variance of what each sample adds; for equal distributions, where that vanishes to
    first order, it is too large by a factor of about sqrt(2).
    """
    real, generated = checked(real, at_least=2), checked(generated, at_least=2)
    check_width(real.shape[1], generated.shape[1])
    n, m = len(real), len(generated)
    to_generated = kernel_sums(real, generated) / m
    to_real = kernel_sums(generated, real) / n
    among_real = (kernel_sums(real, real) - kernel_of_itself(real)) / (n - 1)
    among_generated = kernel_sums(generated, generated) - kernel_of_itself(generated)
    among_generated /= m - 1
    ours, theirs = among_real - to_generated, among_generated - to_real
    variance = 4 * (np.var(ours, ddof=1) / n + np.var(theirs, ddof=1) / m)
    return Estimate(float(ours.mean() + theirs.mean()), float(np.sqrt(variance)))


def kernel_sums(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the sum of the kernel of each of `points` [n, d] with all others [n]."""

    def sums(rows: np.ndarray) -> np.ndarray:
        return polynomial_kernel(rows, others, degree=3, coef0=1).sum(axis=1)

    return over_blocks(sums, points)


def kernel_of_itself(points: np.ndarray) -> np.ndarray:
    """Returns the kernel of each point [n, d] with itself [n]."""
    return (np.mean(points**2, axis=1) + 1) ** 3


def precision_and_recall(
    real: np.ndarray, generated: np.ndarray, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Returns the share of generated samples among the real ones, and the reverse.

    Kynkaanniemi et al. 2019 (arXiv 1904.06991). A sample is among others where its
    distance to one of them is at most the distance of that one to its third nearest
    neighbour (`neighbours`) within its own set. Precision falls with unreal images,
    recall with kinds of images that are not generated.
    """
    least = neighbours + 1
    real, generated = checked(real, least), checked(generated, least)
    check_width(real.shape[1], generated.shape[1])
    precision = among(generated, real, radii(real, neighbours)).mean()
    recall = among(real, generated, radii(generated, neighbours)).mean()
    return float(precision), float(recall)


def radii(points: np.ndarray, neighbours: int) -> np.ndarray:
    """Returns the distance of each point [n, d] to its nearest but so many [n]."""

    def kth_smallest(rows: np.ndarray) -> np.ndarray:
        distances = euclidean_distances(rows, points)
        distances.partition(neighbours, axis=1)
        # The smallest is that to itself. A view would keep all distances.
        return distances[:, neighbours].copy()

    return over_blocks(kth_smallest, points)


def among(points: np.ndarray, centres: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns whether each point [n, d] lies in one of the balls, bool [n].

    They are given by their centres [m, d] and radii [m].
    """

    def any_within(rows: np.ndarray) -> np.ndarray:
        return np.any(euclidean_distances(rows, centres) <= sizes, axis=1)

    return over_blocks(any_within, points)


def class_histogram(log_probabilities: np.ndarray) -> np.ndarray:
    """Returns how many samples a classifier takes for each class, int [classes].

    `log_probabilities` are [n, classes]; logits do as well.
    """
    predictions = log_probabilities.argmax(axis=1)
    return np.bincount(predictions, minlength=log_probabilities.shape[1])


def class_scores(
    log_probabilities: np.ndarray, real_counts: np.ndarray
) -> dict[str, list[int] | float | None]:
    """Returns the class histogram of generated samples and how unequal it is.

    `log_probabilities` are a classifier's [n, classes], `real_counts` [classes] the
    real images of each class. `class_histogram`, and its divergence from equal shares,
    `kl_to_uniform`, and from the real ones, `kl_to_real`: None where it is infinite.
    """
    counts = class_histogram(log_probabilities)
    to_real = divergence(counts, real_counts)
    return {
        "class_histogram": counts.tolist(),
        "kl_to_uniform": divergence(counts),
        "kl_to_real": to_real if np.isfinite(to_real) else None,
    }


def divergence(counts: np.ndarray, reference: np.ndarray | None = None) -> float:
    """Returns Kullback and Leibler's divergence of a histogram from another, in nats.

    `counts` and `reference` are [classes], None for equal shares. 0 where the shares
    are the same, log(classes) where all samples are of one class and the reference is
    equal, infinite where a class occurs that the reference lacks. That of n samples is
    too large by about (classes - 1) / (2 n). Raises DataError for empty histograms.
    """
    reference = np.ones(len(counts)) if reference is None else reference
    if len(counts) != len(reference):
        raise DataError(
            f"histograms of {len(counts)} and {len(reference)} classes are not alike"
        )
    if not np.sum(counts) or not np.sum(reference):
        raise DataError("a class histogram needs at least one sample")
    return float(stats.entropy(counts, reference))


def over_blocks(
    function: Callable[[np.ndarray], np.ndarray], points: np.ndarray
) -> np.ndarray:
    """Returns [n, ...], what a function says of each part of the points [n, d].

    Parts are worked on by threads of ours, BLAS has one in each.
    """
    alone = BLAS.limit(limits=1, user_api="blas")
    with alone, ThreadPoolExecutor(THREADS) as threads:
        return np.concatenate(list(threads.map(function, blocks(points, BLOCK))))


def blocks(features: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yields features [n, d] in parts of at most `size` rows."""
    return (features[rows] for rows in gen_batches(len(features), size))


def checked(features: np.ndarray, at_least: int) -> np.ndarray:
    """Returns features [n, d] in float64; raises where they cannot be measured."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2:
        raise ValueError(f"features {features.shape} must be [samples, features]")
    if len(features) < at_least:
        raise DataError(
            f"{len(features)} samples are too few to measure; at least {at_least}"
        )
    if not np.isfinite(features).all():
        raise NonFiniteError("a feature of the samples is not a finite number")
    return features


def check_width(one: int, other: int) -> None:
    """Raises DataError where two sets have other numbers of features."""
    if one != other:
        raise DataError(f"sets of {one} and of {other} features cannot be compared")
