"""The convolution and the extents that generators and discriminators share."""

import jax.numpy as jnp
from flax import linen as nn

from tljax.models import layers

SIZES = (8, 16, 32, 64, 128)


def convolution(
    features: int,
    kernel_size: int,
    stride: int = 1,
    *,
    use_bias: bool = True,
    dtype: jnp.dtype | None,
    name: str,
) -> layers.Convolution:
    """Returns a convolution whose output has 1/stride of the extent of its input.

    For kernels of 1, 3, and 4 at stride 2.
    """
    padding = (kernel_size - 1) // 2
    return layers.Convolution(
        features,
        kernel_size,
        stride,
        padding,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=nn.initializers.he_normal(),
        name=name,
    )


def widths(image_shape: tuple[int, ...], width: int) -> list[int]:
    """Returns the channels at each extent from that of the image down to 4 px.

    `width` at the image and at half of it, then twice as many each time: of 64 px
    width * (1, 1, 2, 4, 8). Raises ValueError for other sizes than SIZES.
    """
    size = image_shape[0]
    if image_shape[1] != size or size not in SIZES:
        below = max((fit for fit in SIZES if fit < size), default=None)
        above = min((fit for fit in SIZES if fit > size), default=None)
        near = " and ".join(str(fit) for fit in (below, above) if fit)
        raise ValueError(
            f"a GAN's images are squares of {', '.join(map(str, SIZES))} px, not "
            f"{size}x{image_shape[1]}; the nearest sizes are {near}"
        )
    halvings = SIZES.index(size) + 1
    return [width] + [width * 2**number for number in range(halvings)]


def mirrored(image_shape: tuple[int, ...], width: int) -> list[int]:
    """Returns the channels at each extent from 4 px up to that of the image.

    Those of a ResNet in reverse: 8 * width, halved each time down to `width`. Raises as
    `widths`.
    """
    doublings = len(widths(image_shape, width)) - 1
    return [max(8 * width // 2**number, width) for number in range(doublings + 1)]
