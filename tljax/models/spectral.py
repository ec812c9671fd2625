"""Spectral normalisation: kernels divided by their largest singular value.

Miyato et al. 2018 (arXiv 1802.05957). Pure functions of a tree of parameters: the
modules know nothing of it. A kernel [h, w, cin, cout] is the matrix [h * w * cin,
cout], the transpose of torch's; an embedding [classes, features] is one as it is.
Beside the parameters go the vectors u, one for each matrix, estimates of its right
singular vector that follow it by one power iteration a step.

Flax's `SpectralNorm` iterates at every call of a layer, of which a step has several,
and has names with "/" in them, which paths cannot tell from modules.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

# torch's: added to no norm, but the least that one is divided by.
EPS = 1e-12


def create_vectors(
    key: jax.Array, params: Any, skip: tuple[str, ...] = (), iterations: int = 15
) -> dict[str, Any]:
    """Returns a vector [cout] for each matrix of a tree, in the places of the matrices.

    Random ones after so many power iterations, as many as torch begins with. Modules
    named in `skip` have none. A tree without a matrix gives {}.
    """
    vectors = {}
    for place, (path, kernel) in enumerate(sorted(flatten(params).items())):
        if kernel.ndim > 1 and not set(path) & set(skip):
            place_key = jax.random.fold_in(key, place)
            vectors[path] = unit(
                jax.random.normal(place_key, kernel.shape[-1:], kernel.dtype)
            )
    vectors = traverse_util.unflatten_dict(vectors)
    return jax.lax.fori_loop(
        0, iterations, lambda _, vectors: iterate(params, vectors), vectors
    )


def iterate(params: Any, vectors: Any) -> Any:
    """Returns the vectors after one power iteration; nothing is differentiated."""
    kernels = flatten(params)
    moved = {}
    for path, u in flatten(vectors).items():
        matrix = jax.lax.stop_gradient(as_matrix(kernels[path]))
        moved[path] = unit(product(unit(product(matrix, u)), matrix))
    return traverse_util.unflatten_dict(moved)


def normalize(params: Any, vectors: Any) -> Any:
    """Returns the tree with each matrix that has a vector divided by its norm.

    The norm is v^T W u with v = W u / |W u|, both held fixed: its gradient is v u^T,
    as torch has it.
    """
    kernels = flatten(params)
    for path, u in flatten(vectors).items():
        matrix = as_matrix(kernels[path])
        # A moving average of vectors is a little shorter than 1.
        u = unit(jax.lax.stop_gradient(u))
        v = unit(jax.lax.stop_gradient(product(matrix, u)))
        norm = jnp.maximum(product(product(v, matrix), u), EPS)
        kernels[path] = kernels[path] / norm
    return traverse_util.unflatten_dict(kernels)


def flatten(tree: Any) -> dict[tuple[str, ...], jax.Array]:
    """Returns path -> leaf."""
    return traverse_util.flatten_dict(tree)


def as_matrix(kernel: jax.Array) -> jax.Array:
    """Returns a kernel [..., cout] as [n, cout]."""
    return kernel.reshape(-1, kernel.shape[-1])


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a @ b with all digits, of which accelerators keep 8 to 10 bits."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def unit(vector: jax.Array) -> jax.Array:
    """Returns a vector of length 1 in the direction of `vector`, 0 for 0."""
    return vector / jnp.maximum(jnp.linalg.norm(vector), EPS)
