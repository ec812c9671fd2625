"""Photographs for benchmarks: pieces of scikit-learn's two, as JPEG files."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

CLASSES = 10


def write_photographs(root: Path, count: int, size: tuple[int, int]) -> None:
    """Writes so many of (width, height) to root/train/CLASS/, quality 90."""
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(image) for image in load_sample_images().images]
    for number in range(count):
        folder = root / "train" / f"class{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        source = sources[number % len(sources)]
        left, top = (int(rng.integers(extent // 4)) for extent in source.size)
        box = (left, top, left + source.width * 3 // 4, top + source.height * 3 // 4)
        source.resize(size, box=box).save(folder / f"{number:05d}.jpg", quality=90)
