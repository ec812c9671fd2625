"""One encoded image as pixels: what is read, what is refused, how modes are treated."""

import io
import warnings

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

# EXIF tag 274: how the camera was held, and what turns the picture upright.
ORIENTATION = 274
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow knows these formats only then, and threads must not do it side by side.
Image.init()
# `decode` has a limit of its own, far below the size at which Pillow raises.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadImage(Exception):
    """An image that cannot be used; the text is the reason, in one line."""


def read_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Returns the (height, width) that an upright image will have; decodes no pixel.

    `data` may end behind the header. Raises BadImage where that cannot be read or says
    that there are too many pixels.
    """
    with open_image(data, max_pixels) as image:
        width, height = image.size
        turned = orientation(image) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def decode(data: bytes | np.ndarray, channels: int, max_pixels: int) -> Image.Image:
    """Returns an image upright, in RGB or, for one channel, in grey levels.

    `data` is an encoded image, or pixels uint8 [h, w, c] that are taken as they are.
    Raises BadImage for whatever cannot be decoded whole, has more than `max_pixels`, or
    holds numbers without a known range.
    """
    if isinstance(data, np.ndarray):
        pixels = data[..., 0] if data.shape[-1] == 1 else data
        return with_channels(Image.fromarray(pixels), channels)
    with open_image(data, max_pixels) as image:
        try:
            image.load()
            return with_channels(image, channels)
        except BadImage:
            raise
        # Damaged files raise whatever the decoder happens to trip over.
        except Exception as error:
            raise BadImage(describe(error)) from None


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Returns an image of which the header is read; raises BadImage."""
    if not data:
        raise BadImage("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise BadImage("not an image of a known format") from None
    except Image.DecompressionBombError:
        raise BadImage(too_large("it", max_pixels)) from None
    except Exception as error:
        raise BadImage(describe(error)) from None
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(too_large(f"{width}x{height}", max_pixels))
    return image


def too_large(what: str, max_pixels: int) -> str:
    """Returns why an image of too many pixels is not decoded."""
    limit = f"{max_pixels / 1e6:g} megapixels (config.data.max_megapixels)"
    return f"{what} is more than {limit}"


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Returns an image upright, as RGB for three channels, as grey levels for one.

    Colours of a palette are looked up, transparency is dropped with the colours under
    it kept, CMYK and the rest are converted by Pillow's formulas, of 16 bits the upper
    8 are taken. Raises BadImage for 32-bit numbers, whose range nobody knows.
    """
    turn = UPRIGHT.get(orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint16) >> 8
        image = Image.fromarray(levels.astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise BadImage(f"pixels of mode {image.mode!r} have no known range")
    elif image.mode == "P":
        # Not at once: Pillow warns of a palette with transparency.
        image = image.convert("RGBA")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 (upright) where there is none to be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    # EXIF is an unchecked block of bytes; damage in it does not spoil the pixels.
    except Exception:
        return 1


def describe(error: Exception) -> str:
    """Returns an error of the decoder in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
