"""Samples of a GAN, and pictures of them."""

from typing import Any

import jax
import jax.numpy as jnp

from tljax.data import augment
from tljax.data.transforms import Transform
from tljax.models.gan import GAN
from tljax.tasks import gan_networks

# A picture is a grid of so many columns; so many rows of samples, of interpolations.
COLUMNS, SAMPLE_ROWS, LINES = 10, 8, 5


def sample(
    variables: Any, key: jax.Array, labels: jax.Array, *, model: GAN
) -> jax.Array:
    """Returns images float32 [n, h, w, c] in [0, 1], one for each of the labels [n].

    Where the GAN is not conditional, only their number matters. BatchNorm normalises
    with running statistics: an image depends on its own latent alone.
    """
    z = jax.random.normal(key, (len(labels), model.latent))
    return sample_at(variables, z, labels, model)


def sample_at(variables, z: jax.Array, labels: jax.Array, model: GAN) -> jax.Array:
    """Returns images [n, h, w, c] in [0, 1] of latents [n, latent]."""
    images, _ = gan_networks.run(variables, "generator", model, z, labels, train=False)
    return (images + 1) / 2


def draw(
    variables: Any,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    model: GAN,
    transform: Transform,
    config,
) -> dict[str, jax.Array]:
    """Returns pictures by name, grids uint8 [rows, COLUMNS, h, w, c].

    "samples" has a class in each column where the GAN is conditional: the first ten, or
    all of them in turn. In each row of "interpolation" the latent goes from one sample
    to another, of one class. The same key gives the same latents.
    """
    sample_key, ends_key = jax.random.split(key)
    columns = jnp.arange(COLUMNS) % model.num_classes
    samples = sample(variables, sample_key, jnp.tile(columns, SAMPLE_ROWS), model=model)
    ends = jax.random.normal(ends_key, (2, LINES, model.latent))
    z = interpolate(*ends, COLUMNS).reshape(LINES * COLUMNS, model.latent)
    rows = jnp.repeat(jnp.arange(LINES) % model.num_classes, COLUMNS)
    lines = sample_at(variables, z, rows, model)
    pictures = {"samples": samples, "interpolation": lines}
    return {
        name: in_rows(augment.as_bytes(images), COLUMNS)
        for name, images in pictures.items()
    }


def in_rows(images: jax.Array, columns: int) -> jax.Array:
    """Returns images [rows * columns, h, w, c] as [rows, columns, h, w, c]."""
    return images.reshape(-1, columns, *images.shape[1:])


def interpolate(start: jax.Array, end: jax.Array, number: int) -> jax.Array:
    """Returns `number` points [n, number, d] on arcs from start to end [n, d].

    Spherical, White 2016 (arXiv 1609.04468): on a straight line the points between
    would be shorter than any that the generator has been trained on.
    """
    cosine = jnp.sum(start * end, -1, keepdims=True) / (
        jnp.linalg.norm(start, axis=-1, keepdims=True)
        * jnp.linalg.norm(end, axis=-1, keepdims=True)
    )
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))[:, None, :]
    share = jnp.linspace(0, 1, number).reshape(1, number, 1)
    weights = [jnp.sin(part * angle) / jnp.sin(angle) for part in (1 - share, share)]
    # No arc is there between latents that point the same way, or opposite ones.
    on_arc = jnp.sin(angle) > 1e-3
    first = jnp.where(on_arc, weights[0], 1 - share)
    second = jnp.where(on_arc, weights[1], share)
    return first * start[:, None, :] + second * end[:, None, :]
