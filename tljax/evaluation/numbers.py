"""The metrics of labels and log-probabilities; reports are scikit-learn's."""

from typing import Any

import numpy as np
from sklearn import metrics

from tljax.evaluation import calibration, probabilities

AVERAGES = ("macro", "micro", "weighted")
REPORTED = ("precision", "recall", "f1")
RANKED = ("roc_auc", "average_precision")
# All that has an interval, in the order in which it is shown.
SCALARS = (
    "accuracy",
    "top5",
    *(f"{name}_{average}" for average in AVERAGES for name in REPORTED),
    *RANKED,
    "log_loss",
    "brier",
    "ece",
    "ece_calibrated",
    "temperature",
)


def scalars(
    labels: np.ndarray, log_probabilities: np.ndarray, temperature: float
) -> dict[str, float]:
    """Returns the metrics of a split that are one number each, NaN for what has none.

    Args:
      labels: int [n].
      log_probabilities: [n, classes], normalised.
      temperature: that `ece_calibrated` is the calibration error at.

    Macro averages are those of the classes that occur among labels or predictions, 0
    standing for a ratio without denominator; those of ROC-AUC and average precision are
    of the classes that have both positive and negative examples.
    """
    predictions = log_probabilities.argmax(axis=1)
    found = {
        "accuracy": metrics.accuracy_score(labels, predictions),
        "top5": top5(labels, log_probabilities),
    }
    for average in AVERAGES:
        report = metrics.precision_recall_fscore_support(
            labels, predictions, average=average, zero_division=0
        )
        for name, value in zip(REPORTED, report, strict=False):
            found[f"{name}_{average}"] = value
    for name, values in ranked(labels, log_probabilities).items():
        defined = values[~np.isnan(values)]
        found[name] = defined.mean() if len(defined) else np.nan
    cooled = probabilities.at_temperature(log_probabilities, temperature)
    found |= {
        "log_loss": -probabilities.of_labels(labels, log_probabilities).mean(),
        "brier": probabilities.brier(labels, log_probabilities).mean(),
        "ece": calibration.reliability(labels, log_probabilities).error(),
        "ece_calibrated": calibration.reliability(labels, cooled).error(),
    }
    return {name: float(value) for name, value in found.items()}


def top5(labels: np.ndarray, log_probabilities: np.ndarray) -> float:
    """Returns the share of labels among the 5 most probable classes."""
    num_classes = log_probabilities.shape[1]
    if num_classes <= probabilities.TOP:
        return 1.0
    return metrics.top_k_accuracy_score(
        labels,
        np.exp(log_probabilities),
        k=probabilities.TOP,
        labels=np.arange(num_classes),
    )


def ranked(labels: np.ndarray, log_probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Returns ROC-AUC and average precision of each class against all others.

    NaN for a class without positive or without negative examples.
    """
    found = {name: np.full(log_probabilities.shape[1], np.nan) for name in RANKED}
    for label in np.unique(labels):
        positive = labels == label
        if positive.all():
            continue
        scores = np.exp(log_probabilities[:, label])
        found["roc_auc"][label] = metrics.roc_auc_score(positive, scores)
        found["average_precision"][label] = metrics.average_precision_score(
            positive, scores
        )
    return found


def per_class(
    labels: np.ndarray, log_probabilities: np.ndarray, class_names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Returns a row for each class; NaN for ROC-AUC and precision that it has not."""
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels,
        log_probabilities.argmax(axis=1),
        labels=np.arange(len(class_names)),
        zero_division=0,
    )
    columns = {
        "support": support,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        **ranked(labels, log_probabilities),
    }
    return [
        {"class": name} | {key: values[label].item() for key, values in columns.items()}
        for label, name in enumerate(class_names)
    ]


def confusion(labels: np.ndarray, log_probabilities: np.ndarray) -> np.ndarray:
    """Returns counts [classes, classes]: row the label, column the prediction."""
    number = log_probabilities.shape[1]
    cells = labels * number + log_probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=number**2).reshape(number, number)


def without_nan(value: Any) -> Any:
    """Returns a value as JSON can hold it: None for each NaN in it."""
    if isinstance(value, dict):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value
