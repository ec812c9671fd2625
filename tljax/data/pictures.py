"""Pictures of a data set: a grid of images with labels, and bars of its classes."""

import functools
import io
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Pixels: images are enlarged to the first, by whole factors, and reduced to the second.
SMALLEST, LARGEST = 144, 320
COLUMNS = 8
MARGIN, TEXT_SIZE, TITLE_SIZE, LINES = 10, 14, 18, 2
# Shares of a mixed label below that are not named.
LEAST_SHARE = 0.05
# Characters of a share, as " 0.7".
SHARE = 4
# With more classes, only so many of the largest and of the smallest get a bar.
MOST_BARS, NAMED = 60, 20
COLOURS = {"train": "#4477aa", "val": "#ccaa33", "test": "#228855"}
LONGEST_NAME = 32


def describe_target(target: np.ndarray, class_names: tuple[str, ...]) -> list[str]:
    """Returns the lines of a label: its class, or classes with their shares.

    `target` is [num_classes]; shares are sorted, and those below 0.05 are left out.
    """
    order = np.argsort(-target, kind="stable")
    shown = [label for label in order if target[label] >= LEAST_SHARE]
    if len(shown) == 1:
        return [class_names[shown[0]]]
    return [f"{class_names[label]} {target[label]:.1f}" for label in shown]


def draw_grid(images: np.ndarray, labels: list[list[str]], title: str) -> Image.Image:
    """Returns images uint8 [n, h, w, c] side by side, each over the lines of its label.

    `c` is 1 or 3; of other numbers the mean of the channels is shown.
    """
    cells = [fit(image) for image in images]
    columns = min(COLUMNS, len(cells))
    width, height = cells[0].size
    font, bold = font_of(TEXT_SIZE, *labels), font_of(TITLE_SIZE, [title])
    line = TEXT_SIZE + 4
    texts = [
        wrap([printable(text, font) for text in each], font, width) for each in labels
    ]
    lines = max(map(len, texts))
    across, down = width + MARGIN, height + lines * line + MARGIN
    rows = -(-len(cells) // columns)
    size = columns * across + MARGIN, rows * down + TITLE_SIZE + 3 * MARGIN
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    heading = shorten(printable(title, bold), bold, size[0] - 2 * MARGIN)
    draw.text((MARGIN, MARGIN), heading, "black", bold)
    for number, (cell, text) in enumerate(zip(cells, texts, strict=True)):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * across, TITLE_SIZE + 2 * MARGIN + row * down
        page.paste(cell, (left, top))
        draw.rectangle((left - 1, top - 1, left + width, top + height), None, "#bbbbbb")
        place = left, top + height + 3
        draw.multiline_text(place, "\n".join(text), "black", font, spacing=4)
    return page


def fit(image: np.ndarray) -> Image.Image:
    """Returns an image [h, w, c] large enough to be seen, and small enough for a grid.

    Small ones are enlarged by a whole factor, each pixel to a square.
    """
    if image.shape[-1] not in (1, 3):
        image = np.round(image.mean(axis=-1, keepdims=True)).astype(np.uint8)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    shorter, longer = min(picture.size), max(picture.size)
    factor = max(-(-SMALLEST // shorter), 1)
    if factor > 1:
        picture = picture.resize(
            (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
        )
    elif longer > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return picture.convert("RGB")


def wrap(label: list[str], font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Returns the lines of a label, two at most and none wider.

    A class alone takes both where it must; of one with a share, its name is cut.
    """
    if len(label) > 1:
        return [shorten(text, font, width, SHARE) for text in label[:LINES]]
    words = label[0].split(" ")
    fits = [
        place
        for place in range(1, len(words))
        if font.getlength(" ".join(words[:place])) <= width
    ]
    if font.getlength(label[0]) <= width or not fits:
        return [shorten(label[0], font, width)]
    first, rest = " ".join(words[: fits[-1]]), " ".join(words[fits[-1] :])
    return [first, shorten(rest, font, width)]


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int, end: int = 0) -> str:
    """Returns a text that is no wider, without what is too much in its middle.

    The last `end` characters are always kept.
    """
    name, ending = text[: len(text) - end], text[len(text) - end :]
    kept = len(name)
    while kept > 2 and font.getlength(cut_middle(name, kept) + ending) > width:
        kept -= 1
    return cut_middle(name, kept) + ending


def cut_middle(text: str, length: int) -> str:
    """Returns a text of so many characters: its beginning and its end."""
    if len(text) <= length:
        return text
    front = length // 2
    return text[:front] + "…" + text[len(text) - (length - front - 1) :]


def font_of(size: int, *texts: Iterable[str]) -> ImageFont.FreeTypeFont:
    """Returns a font in which these texts can be written."""
    characters = {character for lines in texts for text in lines for character in text}
    path = font_path(frozenset(characters))
    return ImageFont.truetype(path, size)


@functools.cache
def font_path(characters: frozenset[str]) -> str:
    """Returns the font that has most of the characters: DejaVu Sans where it has all.

    The others are those that are installed.
    """
    from matplotlib import font_manager

    default = font_manager.findfont("DejaVu Sans")
    wanted = {ord(character) for character in characters if character.isprintable()}
    best, missing = default, wanted - glyphs(default)
    if missing:
        for font in font_manager.fontManager.ttflist:
            if "last resort" in font.name.lower():  # It draws boxes for all there is.
                continue
            try:
                lacking = wanted - glyphs(font.fname)
            except (OSError, RuntimeError):  # A font that has gone, or is damaged.
                continue
            if len(lacking) < len(missing):
                best, missing = font.fname, lacking
    return best


@functools.cache
def glyphs(path: str) -> frozenset[int]:
    """Returns the characters that a font has."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())


def printable(text: str, font: ImageFont.FreeTypeFont | Path) -> str:
    """Returns a text of which whatever the font lacks is written as an escape."""
    known = glyphs(str(font) if isinstance(font, Path) else font.path)
    return "".join(
        letter
        if letter.isprintable() and ord(letter) in known
        else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
    )


def draw_classes(
    counts: dict[str, np.ndarray], class_names: tuple[str, ...], title: str
) -> Image.Image:
    """Returns a picture with bars of the images of each class, by split.

    `counts` is split -> [num_classes]. Of many classes it shows how all of them go
    down, and names the largest and the smallest of the training images.
    """
    import matplotlib
    from matplotlib.figure import Figure

    many = len(class_names) > MOST_BARS
    chosen = choose_bars(counts["train"])
    font = Path(font_path(frozenset("".join((title, *class_names)))))
    drawn = io.BytesIO()
    # What the user has set for other pictures is left alone, and left out.
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False
        warnings.simplefilter("ignore")
        tall = max(0.24 * len(chosen) + 1.3, 2.2)
        figure = Figure((13, tall + 2.7 * many), dpi=110, layout="constrained")
        figure.suptitle(printable(title, font), font=font, fontsize=13)
        parts = figure.subfigures(2, 1, height_ratios=(2.4, tall)) if many else [figure]
        if many:
            draw_descent(parts[0], counts)
        draw_bars(parts[-1], counts, class_names, chosen, font)
        figure.savefig(drawn, format="png")
    return Image.open(drawn)


def choose_bars(counts: np.ndarray) -> list[int | None]:
    """Returns the labels that get a bar, in their order; of many, the largest, a gap
    (None) and the smallest, by number of images."""
    if len(counts) <= MOST_BARS:
        return list(range(len(counts)))
    order = np.argsort(-counts, kind="stable").tolist()
    return [*order[:NAMED], None, *order[-NAMED:]]


def draw_bars(
    figure, counts, class_names, chosen: list[int | None], font: Path
) -> None:
    """Draws a row of bars for each split, with their numbers."""
    from matplotlib.ticker import MaxNLocator

    places = np.arange(len(chosen))
    axes = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for axis, (split, found) in zip(axes, counts.items(), strict=True):
        values = [0 if label is None else int(found[label]) for label in chosen]
        bars = axis.barh(places, values, color=COLOURS.get(split, "#777777"))
        texts = [
            "" if label is None else f"{value:,}"
            for label, value in zip(chosen, values, strict=True)
        ]
        axis.bar_label(bars, texts, padding=3, fontsize=8)
        axis.set_title(describe_split(split, found), fontsize=10)
        axis.margins(x=0.15, y=0.01)
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("images")
    left = len(class_names) - len(chosen) + 1
    names = [
        f"({left:,} classes between)"
        if label is None
        else cut_middle(printable(class_names[label], font), LONGEST_NAME)
        for label in chosen
    ]
    axes[0].set_yticks(places, names, font=font, fontsize=9)
    axes[0].invert_yaxis()


def draw_descent(figure, counts: dict[str, np.ndarray]) -> None:
    """Draws how many images the classes of each split have, from the largest on."""
    axes = figure.subplots(1, len(counts), squeeze=False)[0]
    for axis, (split, found) in zip(axes, counts.items(), strict=True):
        edges = np.arange(len(found) + 1)
        axis.stairs(np.sort(found)[::-1], edges, fill=True, color=COLOURS.get(split))
        axis.set_title(f"all {len(found):,} classes of {split} by size", fontsize=10)
        axis.set_ylim(bottom=0)
        axis.margins(x=0)
        axis.set_ylabel("images")
        axis.spines[["top", "right"]].set_visible(False)


def describe_split(split: str, counts: np.ndarray) -> str:
    """Returns the title of a split: its images, and how unequal its classes are."""
    largest, smallest = int(counts.max()), int(counts.min())
    if not smallest:
        inequality = f"classes without images: {int(np.sum(counts == 0)):,}"
    else:
        inequality = f"largest / smallest = {largest / smallest:.3g}"
    return f"{split}: {int(counts.sum()):,} images\n{inequality}"
