"""Copies are found, what is not one is not, and thousands of them take no time."""

import io
import time

import numpy as np
import photos
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits, load_sample_image

from tljax.data import duplicates


def tiles() -> list[Image.Image]:
    """Returns 32 different photographs: two whole ones and tiles of them."""
    found = []
    for name in ("china.jpg", "flower.jpg"):
        pixels = load_sample_image(name)
        found.append(Image.fromarray(pixels))
        found += [
            Image.fromarray(pixels[top : top + 128, left : left + 128])
            for top in range(0, 300, 128)
            for left in range(0, 600 - 88, 128)
        ]
    return found


def jpeg(quality):
    """Returns a function: an image -> the same as JPEG."""

    def save(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return save


def trim(share):
    """Returns a function: an image -> the same with a share cut off each side."""

    def cut(image):
        width, height = image.size
        across, down = round(width * share), round(height * share)
        return image.crop((across, down, width - across, height - down))

    return cut


def resized(image):
    return image.resize((image.width // 2, image.height // 2))


def print_of(image: Image.Image) -> duplicates.Print:
    """Returns the print of an image on a canvas with a shorter side of 96."""
    factor = 96 / min(image.size)
    size = [round(extent * factor) for extent in image.size]
    return duplicates.take_print(np.asarray(image.resize(size, Image.BILINEAR)))


@pytest.mark.parametrize(
    "change, least",
    [
        (jpeg(90), 0.95),
        (jpeg(70), 0.93),
        (jpeg(50), 0.9),
        (resized, 0.97),
        (lambda image: jpeg(50)(resized(image)), 0.93),
        (trim(0.01), 0.97),
        (trim(0.02), 0.7),
        (lambda image: ImageEnhance.Brightness(image).enhance(0.7), 0.97),
        (lambda image: ImageEnhance.Brightness(image).enhance(1.3), 0.8),
    ],
    ids=range(9),
)
def test_altered_photographs_are_near_copies_and_different_ones_are_not(change, least):
    originals = tiles()
    prints = [print_of(image) for image in originals]
    changed = [print_of(change(image)) for image in originals]
    number = len(originals)
    groups = duplicates.find(prints + changed).near
    paired = [group for group in groups if len({i % number for i in group}) == 1]
    assert len(paired) >= least * number
    assert len(groups) - len(paired) <= 1  # Sky that became white altogether.


def test_different_photographs_and_digits_are_no_copies():
    prints = [print_of(image) for image in tiles()]
    assert duplicates.find(prints) == ([], [], pytest.approx([]))
    digits = load_digits().images.astype(np.uint8)[..., None] * 15
    found = duplicates.find([duplicates.take_print(digit) for digit in digits])
    assert (found.exact, found.near, len(found.blank)) == ([], [], 0)


def test_exact_copies_have_the_same_pixels_and_shape():
    some, others = photos.photos(24, 32)[:2]
    one_more = some.copy()
    one_more[3, 4] ^= 1
    images = [some, others, some.copy(), one_more, some.reshape(32, 24, 3)]
    found = duplicates.find([duplicates.take_print(image) for image in images])
    assert [group.tolist() for group in found.exact] == [[0, 2]]
    assert [group.tolist() for group in found.near] == [[0, 2, 3]]


def test_mirrored_images_are_no_copies():
    image = photos.photos(64, 64)[0]
    found = duplicates.find(
        [duplicates.take_print(pixels) for pixels in (image, image[:, ::-1])]
    )
    assert found.exact == found.near == []


def random_prints(number: int, copies: int, seed: int = 0) -> list[duplicates.Print]:
    """Returns prints of images, low frequencies stronger, the first ones again."""
    rng = np.random.default_rng(seed)
    falling = 20 / np.maximum(np.add.outer(np.arange(8), np.arange(8)).ravel(), 1)
    patterns = rng.normal(size=(number, 64)) * falling[None, :]
    again = patterns[:copies] + rng.normal(size=(copies, 64)) * 0.1
    patterns = np.concatenate([patterns, again])
    patterns[:, 0] = 0
    return [
        duplicates.Print(place, pattern)
        for place, pattern in enumerate(patterns.astype(np.float16))
    ]


def test_no_pair_within_the_distance_is_missed():
    number = 3000
    found = duplicates.find(random_prints(number, 300)).near
    assert [group.tolist() for group in found] == [[i, number + i] for i in range(300)]


@pytest.mark.parametrize("distance", range(9))
def test_pairs_of_every_distance_up_to_the_largest(distance):
    rng = np.random.default_rng(distance)
    some = rng.integers(0, 2**63, 200, np.uint64)
    flips = [rng.choice(64, distance, replace=False) for _ in some]
    masks = np.array([sum(1 << int(bit) for bit in bits) for bits in flips], np.uint64)
    hashed = np.concatenate([some, some ^ masks])
    pairs = set()
    for part in range(4):
        for one, other in duplicates.near_hashes(duplicates.interleave(hashed, part)):
            pairs |= set(zip(one.tolist(), other.tolist(), strict=True))
    expected = {(i, i + 200) for i in range(200)} if distance <= 7 else set()
    assert pairs == expected


def test_thousands_of_blank_or_equal_looking_images_take_no_time():
    start = time.perf_counter()
    blank = [
        duplicates.take_print(np.full((8, 8, 1), level, np.uint8))
        for level in (0, 255)
        for _ in range(10_000)
    ]
    found = duplicates.find(blank)
    assert [len(group) for group in found.exact] == [10_000, 10_000]
    assert found.near == [] and len(found.blank) == 20_000
    pattern = random_prints(1, 0)[0].pattern
    brighter = [
        duplicates.Print(place, (pattern * level).astype(np.float16))
        for place, level in enumerate(np.linspace(1, 2, 20_000))
    ]
    assert [len(group) for group in duplicates.find(brighter).near] == [20_000]
    assert time.perf_counter() - start < 10


def test_no_images_and_one_image():
    assert duplicates.find([]).exact == duplicates.find([]).near == []
    (print_,) = random_prints(1, 0)
    assert duplicates.find([print_]).near == []
