"""How far reconstructions are from their images: losses, and measures for people."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tljax.data.transforms import Transform
from tljax.models.decoder import Reconstruction

# Wang et al. 2004 (IEEE Transactions on Image Processing 13).
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
# A PSNR of 100, where there is no error: JSON has no infinity.
LEAST_MSE = 1e-10


def tied_loss(
    params: Any, reconstructions: jax.Array, images: jax.Array, weight_penalty: float
) -> jax.Array:
    """Returns 1/2 sum_i ||x_i - W^T f(x_i)||^2 + lambda sum_k ||w_k||^2.

    The sum over i is of the images; w_k is what a unit weighs its inputs by, of all
    layers. Biases have no penalty.
    """
    errors = 0.5 * jnp.sum(jnp.square(images - reconstructions))
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    return errors + weight_penalty * sum(jnp.sum(jnp.square(w)) for w in kernels)


def image_losses(
    found: Reconstruction,
    images: jax.Array,
    visible: jax.Array | None,
    params: Any,
    config,
) -> jax.Array:
    """Returns the loss of each image [b]; training minimises their mean.

    Of tied weights, it is the formula of `tied_loss` for the image alone, so that the
    mean has all of the penalty for a batch of any size. Of others, the squared error a
    pixel in normalised units, of hidden patches where there are any, plus kl_weight
    times the divergence from the prior over the number of values in an image. With
    kl_weight = 2 s^2 that is, but for constants and scale, the negative evidence lower
    bound of values with the deviation s.
    """
    settings = config.autoencoder
    if config.model.name == "tied_autoencoder":

        def alone(reconstruction, image):
            pair = reconstruction[None], image[None]
            return tied_loss(params, *pair, settings.weight_penalty)

        return jax.vmap(alone)(found.images, images)
    losses = mean_squares(found.images, images, visible)
    if found.log_variance is not None:
        divergence = kl_divergence(found.mean, found.log_variance)
        losses += settings.kl_weight * divergence / images[0].size
    return losses


def mean_squares(
    reconstructions: jax.Array, images: jax.Array, visible: jax.Array | None = None
) -> jax.Array:
    """Returns the mean squared error of each image [b], of its hidden part if any."""
    squares = jnp.mean(jnp.square(reconstructions - images), axis=-1, keepdims=True)
    if visible is None:
        return jnp.mean(squares, axis=(1, 2, 3))
    hidden = 1 - visible
    return jnp.sum(squares * hidden, axis=(1, 2, 3)) / jnp.sum(hidden, axis=(1, 2, 3))


def kl_divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Returns the divergence in nats [b] of normals [b, latent] from the standard one.

    Kingma and Welling 2013 (arXiv 1312.6114), appendix B.
    """
    terms = jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance
    return 0.5 * jnp.sum(terms, axis=-1)


def measures(
    reconstructions: jax.Array,
    images: jax.Array,
    visible: jax.Array | None,
    transform: Transform,
) -> dict[str, jax.Array]:
    """Returns mse and ssim of each image [b], of levels in [0, 1].

    What a reconstruction has beyond black and white is cut off, as when it is shown.
    Of images with hidden patches, `mse` is that of the patches, and `ssim` that of the
    image with the patches filled in.
    """
    pixels, target = (
        jnp.clip(to_pixels(each, transform), 0, 1) for each in (reconstructions, images)
    )
    return {
        "mse": mean_squares(pixels, target, visible),
        "ssim": ssim(whole(pixels, target, visible), target),
    }


def whole(
    reconstructions: jax.Array, images: jax.Array, visible: jax.Array | None
) -> jax.Array:
    """Returns reconstructions, with what was visible of the images in its place."""
    if visible is None:
        return reconstructions
    return jnp.where(visible > 0, images, reconstructions)


def ssim(images: jax.Array, others: jax.Array) -> jax.Array:
    """Returns the structural similarity [b] of images with levels in [0, 1].

    The mean over channels and over the places where a window fits; the window has 11
    pixels a side, or the largest odd number that an image has.
    """
    import dm_pix  # Here, so that a step without it runs where it is not installed.

    smaller = min(images.shape[1:3])
    size = min(SSIM_WINDOW, smaller - 1 + smaller % 2)
    rows, columns = (window_matrix(side, size) for side in images.shape[1:3])

    # As two products of matrices four times as fast as dm_pix's own, on a CPU.
    def blur(x):
        return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns, precision="highest")

    return dm_pix.ssim(images, others, filter_fn=blur)


def window_matrix(side: int, size: int) -> np.ndarray:
    """Returns float32 [side - size + 1, side]: the Gaussian window at each place."""
    offsets = np.arange(size) - (size - 1) / 2
    window = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    window /= window.sum()
    places = range(side - size + 1)
    rows = [np.pad(window, (place, side - size - place)) for place in places]
    return np.stack(rows).astype(np.float32)


def psnr(mse: float) -> float:
    """Returns the peak signal-to-noise ratio in dB of levels in [0, 1], at most 100."""
    return float(-10 * np.log10(max(mse, LEAST_MSE)))


def to_pixels(images: jax.Array, transform: Transform) -> jax.Array:
    """Returns normalised images [b, h, w, c] as levels, 0 black and 1 white."""
    mean, std = spread(transform, images.shape[-1])
    return images * std + mean


def from_pixels(pixels: jax.Array, transform: Transform) -> jax.Array:
    """Returns levels [b, h, w, c] as normalised images."""
    mean, std = spread(transform, pixels.shape[-1])
    return (pixels - mean) / std


def spread(transform: Transform, channels: int) -> tuple[jax.Array, jax.Array]:
    """Returns mean and deviation of the channels, each [1, 1, 1, c]."""
    mean, std = (
        jnp.broadcast_to(jnp.asarray(values, float), (channels,))
        for values in (transform.mean, transform.std)
    )
    return mean[None, None, None], std[None, None, None]
