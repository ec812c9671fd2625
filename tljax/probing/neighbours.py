"""k nearest neighbours among features, by cosine similarity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tljax.probing.features import Features

# Numbers of neighbours that are tried.
COUNTS = (1, 5, 10, 20, 50, 100)
# A neighbour votes with exp(similarity / TEMPERATURE), as in Wu et al. 2018
# (arXiv 1805.01978).
TEMPERATURE = 0.07
# Bytes of the similarities that are held at once.
AT_ONCE = 2**26


def counts_for(number: int) -> tuple[int, ...]:
    """Returns the numbers of neighbours that can be found among so many features."""
    return tuple(count for count in COUNTS if count <= number)


def predict(
    bank: Features, queries: np.ndarray, counts: tuple[int, ...], num_classes: int
) -> np.ndarray:
    """Returns the class of each query by its neighbours in the bank, int32 [k, n].

    A row for each number of neighbours in `counts`. The class of most votes is chosen,
    the first of equal ones. Queries are compared in blocks, so that the similarities
    of all with all are never held at once.
    """
    block = max(AT_ONCE // (4 * len(bank.values)), 1)
    found = predict_blocks(
        bank.values, bank.labels, queries, counts, num_classes, min(block, len(queries))
    )
    return np.asarray(found).T


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def predict_blocks(
    bank: jax.Array,
    labels: jax.Array,
    queries: jax.Array,
    counts: tuple[int, ...],
    num_classes: int,
    block: int,
) -> jax.Array:
    """Returns what `predict` does, [n, k]."""
    bank = of_length_one(bank)

    def classify(query):
        similarities = jnp.matmul(bank, query, precision=jax.lax.Precision.HIGHEST)
        nearest, places = jax.lax.top_k(similarities, max(counts))
        # As exp(similarity / TEMPERATURE), in numbers that cannot grow too large.
        votes = jnp.exp((nearest - 1) / TEMPERATURE)
        sums = [
            jnp.zeros(num_classes).at[labels[places[:count]]].add(votes[:count])
            for count in counts
        ]
        return jnp.argmax(jnp.stack(sums), axis=1)

    return jax.lax.map(classify, of_length_one(queries), batch_size=block)


def of_length_one(features: jax.Array) -> jax.Array:
    """Returns features [n, d] divided by their lengths."""
    lengths = jnp.linalg.norm(features, axis=1, keepdims=True)
    return features / jnp.maximum(lengths, jnp.finfo(features.dtype).tiny)
