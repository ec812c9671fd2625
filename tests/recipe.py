"""Weights and images that any program can draw again from a seed, without torch."""

import numpy as np


def draw_state_dict(shapes: dict[str, tuple[int, ...]], seed: int = 0):
    """Returns float32 arrays for torchvision's names, statistics far from 0 and 1."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            continue
        values = rng.random(shape, np.float32)
        if len(shape) > 1:
            # Kaiming's variance, 2 / (fan in), of a uniform distribution.
            bound = np.sqrt(6.0 / np.prod(shape[1:]), dtype=np.float32)
            state[name] = (2 * values - 1) * bound
        elif name.endswith(("running_var", "weight")):
            state[name] = values + np.float32(0.5)
        else:
            state[name] = values - np.float32(0.5)
    return state


def draw_images(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    """Returns float32 images [b, h, w, c] as they are once normalised."""
    rng = np.random.default_rng(seed)
    return 4 * rng.random(shape, np.float32) - 2
