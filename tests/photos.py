"""Small photographs for tests of what is done to images."""

import functools

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image


@functools.cache
def photos(height: int, width: int) -> np.ndarray:
    """Returns four different photographs, uint8 [4, height, width, 3]."""
    china, flower = (load_sample_image(name) for name in ("china.jpg", "flower.jpg"))
    sources = china[:300, :320], china[120:420, 300:620], flower[:300], flower[100:]
    return np.stack(
        [
            np.asarray(Image.fromarray(source).resize((width, height)))
            for source in sources
        ]
    )
