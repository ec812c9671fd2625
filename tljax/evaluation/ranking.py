"""ROC-AUC and average precision of one class, for many weightings at once."""

import numpy as np


def auc_and_precision(
    positive: np.ndarray, scores: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the area under the ROC curve and the average precision, [r] each.

    Args:
      positive: which examples are of the class, bool [n].
      scores: of each example for the class [n].
      counts: how often each example is there, in each of r resamples [n, r].

    Both are as scikit-learn computes them from the examples so repeated, ties among
    them, and NaN for a resample without positive or without negative examples.
    """
    order = np.argsort(-scores, kind="stable")
    positive, scores, counts = positive[order], scores[order], counts[order]
    # Only thresholds at which there is a positive example add anything.
    firsts = np.flatnonzero(np.diff(scores, prepend=np.inf))
    ends = np.append(firsts[1:], len(scores))
    hits = np.flatnonzero(np.add.reduceat(positive.astype(int), firsts))
    firsts, ends = firsts[hits], ends[hits]

    zero = np.zeros((1, counts.shape[1]), np.float64)
    total = np.concatenate([zero, np.cumsum(counts, axis=0, dtype=np.float64)])
    right = np.cumsum(counts[positive], axis=0, dtype=np.float64)
    right = np.concatenate([zero, right])
    until = np.cumsum(positive)[ends - 1]  # Positives down to the end of a threshold.
    before = np.concatenate([[0], until[:-1]])

    num_positive, num_all = right[-1], total[-1]
    num_negative = num_all - num_positive
    here = right[until] - right[before]
    wrong_above = total[firsts] - right[before]
    wrong_until = total[ends] - right[until]
    with np.errstate(invalid="ignore", divide="ignore"):
        below = num_negative - (wrong_above + wrong_until) / 2
        auc = np.sum(here * below, axis=0) / (num_positive * num_negative)
        shares = np.where(here > 0, right[until] / total[ends], 0)
        precision = np.sum(here * shares, axis=0) / num_positive
    undefined = (num_positive == 0) | (num_negative == 0)
    return np.where(undefined, np.nan, auc), np.where(undefined, np.nan, precision)
