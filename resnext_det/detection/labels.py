"""Write the labels of boxes: fonts of any script, texts that fit, places that hide nothing.

Letters are rendered by Pillow with DejaVu Sans, which comes with matplotlib, or with an installed
font that has the letters; where there is none, by OpenCV, whose version 5 has Chinese letters too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from resnext_det.evaluation.lettering import find_font

Color = tuple[int, int, int]
"""Blue, green, red, 0 to 255."""

_OPENCV_FONT = cv2.FONT_HERSHEY_SIMPLEX


def is_drawable(text: str) -> bool:
    """Tell whether there is a font with the letters of a text, and they are put in order."""
    if not text.isprintable() or (_needs_shaping(text) and not features.check("raqm")):
        return False
    return text.isascii() or _load_font(text, 16) is not None or _has_letters(text)


def _needs_shaping(text: str) -> bool:
    """Tell scripts that a plain row of letters gets wrong, such as Arabic, Hebrew and Hindi."""
    return any(
        unicodedata.bidirectional(letter) in ("R", "AL")
        or unicodedata.category(letter) in ("Mn", "Mc")
        for letter in text
    )


def _has_letters(text: str) -> bool:
    """Tell whether OpenCV's font has the letters: whether none looks like question marks."""

    def draw(text: str) -> np.ndarray:
        return cv2.putText(np.zeros((48, 160), np.uint8), text, (8, 32), _OPENCV_FONT, 1, (255,))

    unknown = [draw("?" * count) for count in range(1, 5)]
    return not _needs_shaping(text) and not any(
        np.array_equal(draw(letter), mask) for letter in text if letter != "?" for mask in unknown
    )


@lru_cache(maxsize=4096)
def render_label(name: str, ending: str, size: int, color: Color, room: int) -> np.ndarray:
    """Render a label: black or white letters on a ground of a color.

    Args:
        name: the middle is left out where it is too long, all where not even four letters fit.
        ending: kept whole after the name, such as "87%".
        size: of the font in pixels.
        color: of the ground.
        room: the largest width in pixels.

    Returns:
        BGR uint8 (height, width, 3), not to be changed; without pixels where nothing fits.
    """
    pad = max(2, size // 5)
    room -= 2 * pad
    last = [_render_text(ending, size)] if ending else []
    space = round(0.3 * size)
    shortened = _shorten(name, size, room - sum(mask.shape[1] + space for mask, _ in last))
    masks = ([_render_text(shortened, size)] if shortened else []) + last
    width = sum(mask.shape[1] for mask, _ in masks) + space * (len(masks) - 1)
    if not masks or width > room:
        return np.zeros((0, 0, 3), np.uint8)
    above = max(baseline for _, baseline in masks)
    below = max(len(mask) - baseline for mask, baseline in masks)
    levels = _list_levels(color)
    label = np.empty((above + below + 2 * (pad // 2), width + 2 * pad, 3), np.uint8)
    label[:] = color
    left = pad
    for mask, baseline in masks:
        top = pad // 2 + above - baseline
        label[top : top + len(mask), left : left + mask.shape[1]] = _color_in(mask, levels)
        left += mask.shape[1] + space
    return label


def _list_levels(color: Color) -> np.ndarray:
    """List the colors from the ground's to black or white, whichever stands out: (256, 3)."""
    blue, green, red = color
    ink = 0 if 0.114 * blue + 0.587 * green + 0.299 * red > 130 else 255
    part = np.arange(256)[:, None] / 255
    return np.rint(part * ink + (1 - part) * color).astype(np.uint8)


def _color_in(mask: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return cv2.LUT(cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR), levels[None])


def _shorten(name: str, size: int, room: int) -> str:
    """Leave out as much of the middle of a name as it takes to fit: "hemat..lyzer", for one."""
    texts = [name]
    for kept in range(min(len(name) - 1, 5 * room // size), 3, -1):
        texts.append(f"{name[: (kept + 1) // 2]}..{name[len(name) - kept // 2 :]}")
    return next((t for t in texts if t and _render_text(t, size)[0].shape[1] <= room), "")


@lru_cache(maxsize=4096)
def _render_text(text: str, size: int) -> tuple[np.ndarray, int]:
    """Render a line of text.

    Args:
        text: printable; letters that no font has become question marks or empty boxes.
        size: of the font in pixels; capitals are 0.73 of it.

    Returns:
        uint8 (height, width), 255 where ink is, not to be changed; and how many rows are above the
        baseline. Both heights are the same for all texts of Latin letters.
    """
    font = _load_font("" if text.isascii() else "".join(sorted(set(text))), size)
    if font is None:
        return _render_by_opencv(text, size)
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    above, below = max(round(0.78 * size), round(-top)), max(round(0.24 * size), round(bottom))
    image = Image.new("L", (max(1, round(right - left)), above + below))
    ImageDraw.Draw(image).text((-left, above), text, fill=255, font=font, anchor="ls")
    return np.asarray(image), above


def _render_by_opencv(text: str, size: int) -> tuple[np.ndarray, int]:
    scale, weight = size / 30, max(1, round(size / 14))
    (width, height), below = cv2.getTextSize(text, _OPENCV_FONT, scale, weight)
    mask = np.zeros((height + below, max(1, width)), np.uint8)
    cv2.putText(mask, text, (0, height), _OPENCV_FONT, scale, (255,), weight, cv2.LINE_AA)
    return mask, height


@lru_cache(maxsize=256)
def _load_font(letters: str, size: int) -> ImageFont.FreeTypeFont | None:
    """Load a font that has all the letters; None where there is none that Pillow can draw.

    DejaVu Sans has those of ASCII, for which no letters are given.
    """
    try:
        path = find_font(letters)
        # Raqm orders and joins letters of other scripts, and takes ten times as long.
        way = None if letters else ImageFont.Layout.BASIC
        font = None if path is None else ImageFont.truetype(str(path), size, layout_engine=way)
        if font is not None:
            font.getmask(letters)  # fonts of colored bitmaps have one size alone
        return font
    except (ImportError, OSError):  # no matplotlib, a Pillow without FreeType, a damaged font
        return None


def place_labels(
    sizes: np.ndarray, boxes: np.ndarray, order: Sequence[int], extent: tuple[int, int]
) -> list[tuple[int, int] | None]:
    """Place a label at every box so that no label hides another.

    Each takes, of the places above, below, beside and inside its box, the one that hides least of
    the boxes; the first of them where several hide as much.

    Args:
        sizes: (N, 2), width and height of the labels in pixels; a label of width 0 has no place.
        boxes: (N, 4), x0, y0, x1, y1, with the lines around them.
        order: the boxes' positions, the most important first: it has all places to choose from.
        extent: width and height of the picture, in which the labels stay.

    Returns:
        left and top of every label; None where all its places are taken, or it is larger than the
        picture.
    """
    places: list[tuple[int, int] | None] = [None] * len(boxes)
    share = 1 / np.maximum(boxes[:, 2:] - boxes[:, :2], 1).prod(1)  # of a box that a pixel is
    taken, count = np.zeros((len(boxes), 4)), 0
    for index in order:
        width, height = sizes[index].tolist()
        if not width or width > extent[0] or height > extent[1]:
            continue
        corners = _list_places(boxes[index], width, height)
        corners = np.minimum(np.maximum(corners, 0), (extent[0] - width, extent[1] - height))
        spots = np.concatenate([corners, corners + (width, height)], 1)
        hidden = _intersect(spots, boxes) @ share + _PREFERENCE
        hidden[_intersect(spots, taken[:count]).any(1)] = np.inf
        best = int(hidden.argmin())
        if np.isfinite(hidden[best]):
            places[index] = (int(corners[best, 0]), int(corners[best, 1]))
            taken[count] = spots[best]
            count += 1
    return places


# What being later in the list of places costs, as a part of a box that is hidden.
_PREFERENCE = np.arange(14) * 0.02


def _list_places(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """List left and top of a label above, below, inside, and beside a box: (14, 2)."""
    x0, y0, x1, y1 = box.tolist()
    above, below, middle = y0 - height, y1, (x0 + x1 - width) // 2
    return np.array(
        [
            *((x0, above), (x1 - width, above), (middle, above)),
            *((x0, below), (x1 - width, below), (middle, below)),
            *((x0, y0), (x1 - width, y0), (x0, y1 - height), (x1 - width, y1 - height)),
            *((x1, y0), (x1, y1 - height), (x0 - width, y0), (x0 - width, y1 - height)),
        ]
    )


def _intersect(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the areas that boxes have in common: (M, 4) and (N, 4) give (M, N)."""
    (x0, y0, x1, y1), (left, top, right, bottom) = first.T[:, :, None], second.T
    width = np.minimum(x1, right) - np.maximum(x0, left)
    height = np.minimum(y1, bottom) - np.maximum(y0, top)
    return np.maximum(width, 0) * np.maximum(height, 0)
