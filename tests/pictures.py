"""Folders of real images, written for a test: scikit-learn's digits as files."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

ENDINGS = (".jpg", ".png")


def write_digits(
    root: Path,
    counts: dict[str, int],
    classes: tuple[int, ...] = (0, 1, 2),
    size: tuple[int, int] = (24, 24),
) -> Path:
    """Writes counts[split] images of each class to root/split/CLASS/, "" for no split.

    JPEG and PNG take turns; `size` is (width, height). No image is written twice.
    """
    digits = load_digits()
    for label in classes:
        images = iter(digits.images[digits.target == label])
        for split, count in counts.items():
            folder = root / split / f"digit{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                grey = np.round(next(images) * (255 / 16)).astype(np.uint8)
                image = Image.fromarray(grey).convert("RGB").resize(size)
                ending = ENDINGS[number % len(ENDINGS)]
                image.save(folder / f"{number:03d}{ending}")
    return root
