"""Every mode and every damage of an encoded image: its pixels, or a reason."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from tljax.data import decode
from tljax.data.decode import BadImage

CHINA = Image.fromarray(load_sample_image("china.jpg")).resize((40, 30))
MAX_PIXELS = 10**6


def encode(image, kind, **options):
    """Returns an image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(data, channels=3):
    """Returns what `decode` makes of bytes, as an array."""
    return np.asarray(decode.decode(data, channels, MAX_PIXELS))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG", "GIF"])
def test_every_format_gives_pillows_pixels(kind):
    data = encode(CHINA, kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(read(data), expected)
    assert decode.read_size(data, MAX_PIXELS) == (30, 40)
    assert read(data, channels=1).shape == (30, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_colours_or_grey(mode):
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    data = encode(CHINA.convert(mode), kind)
    image = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(read(data), np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(read(data, 1), np.asarray(image.convert("L")))


def test_transparency_is_dropped_and_the_colour_under_it_kept():
    data = encode(CHINA.convert("P"), "PNG", transparency=bytes(range(256)))
    expected = np.asarray(CHINA.convert("P").convert("RGB"))
    np.testing.assert_array_equal(read(data), expected)


def test_of_sixteen_bits_the_upper_eight_are_taken():
    levels = np.arange(0, 65536, 64, np.uint16).reshape(32, 32)
    data = encode(Image.fromarray(levels), "PNG")
    np.testing.assert_array_equal(read(data, 1), levels >> 8)
    np.testing.assert_array_equal(read(data)[..., 2], levels >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_an_image_upright(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(CHINA, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(read(data), np.asarray(expected))
    assert decode.read_size(data, MAX_PIXELS) == np.asarray(expected).shape[:2]


def test_damaged_exif_does_not_spoil_the_pixels():
    data = encode(CHINA, "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(read(data), np.asarray(CHINA))


def test_the_first_frame_of_an_animation_is_taken():
    other = Image.new("RGB", CHINA.size, "red")
    data = encode(CHINA, "GIF", save_all=True, append_images=[other])
    still = encode(CHINA, "GIF")
    np.testing.assert_array_equal(read(data), read(still))


def test_one_pixel_is_an_image():
    assert read(encode(Image.new("RGB", (1, 1), "blue"), "PNG")).tolist() == [
        [[0, 0, 255]]
    ]


def test_arrays_are_taken_as_they_are():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(read(pixels), pixels)
    assert read(pixels[..., :1], channels=1).shape == (4, 4)


BOMB = encode(Image.new("1", (20_000, 20_000)), "PNG")
BROKEN = {
    "empty": (b"", "the file is empty"),
    "text": (b"Not Found" * 99, "not an image of a known format"),
    "truncated": (encode(CHINA, "JPEG")[:-200], "OSError: "),
    "half a PNG": (encode(CHINA, "PNG")[:-2000], "Error: "),
    "header only": (encode(CHINA, "PNG")[:60], "Error: "),
    "20,000 x 20,000": (BOMB, "more than 1 megapixels"),
    "2,000 x 2,000": (
        encode(Image.new("1", (2000, 2000)), "PNG"),
        "2000x2000 is more than 1 megapixels",
    ),
    "32-bit": (encode(Image.new("F", (4, 4)), "TIFF"), "have no known range"),
    "another format": (encode(CHINA, "PPM"), "not an image of a known format"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_used_has_a_reason_in_one_line(name):
    data, reason = BROKEN[name]
    with pytest.raises(BadImage, match=reason) as raised:
        decode.decode(data, 3, MAX_PIXELS)
    assert "\n" not in str(raised.value)


def test_damage_is_a_reason_or_an_image_never_another_error():
    """Bits flipped anywhere, of every format."""
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"):
        whole = encode(CHINA, kind)
        for _ in range(40):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 3):
                data[place] ^= 1 << int(rng.integers(8))
            try:
                assert read(bytes(data)).ndim == 3
                decode.read_size(bytes(data), MAX_PIXELS)
            except BadImage:
                continue
