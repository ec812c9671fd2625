"""What each single example says, from its label and its log-probabilities."""

import numpy as np

# Labels among so many most probable classes count for top-5.
TOP = 5


def normalize(log_probabilities: np.ndarray) -> np.ndarray:
    """Returns float64 [n, classes] whose probabilities add up to 1 to the last digits.

    Float32 ones miss it by 1e-7. Neither the order of classes nor ties change.
    """
    values = np.asarray(log_probabilities, np.float64)
    highest = values.max(axis=1, keepdims=True)
    total = np.exp(values - highest).sum(axis=1, keepdims=True)
    return values - highest - np.log(total)


def at_temperature(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns log-probabilities of the logits divided by a temperature."""
    return normalize(log_probabilities / temperature)


def of_labels(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the value of the label of each example [n], of values [n, classes]."""
    return values[np.arange(len(labels)), labels]


def in_top(labels: np.ndarray, log_probabilities: np.ndarray) -> np.ndarray:
    """Returns whether each label is among the TOP most probable classes, bool [n].

    Among equal probabilities the later class comes first, as in scikit-learn's
    `top_k_accuracy_score`. With TOP classes or fewer every label is among them.
    """
    values = np.exp(log_probabilities)
    own = of_labels(labels, values)[:, None]
    later = np.arange(values.shape[1]) > labels[:, None]
    above = (values > own) | ((values == own) & later)
    return above.sum(axis=1) < TOP


def brier(labels: np.ndarray, log_probabilities: np.ndarray) -> np.ndarray:
    """Returns the squared distance of probabilities and truth [n], from 0 to 2.

    It is Brier's sum over all classes (1950), for two classes too, where scikit-learn
    halves it.
    """
    squares = np.exp(2 * log_probabilities).sum(axis=1)
    return squares + 1 - 2 * np.exp(of_labels(labels, log_probabilities))
