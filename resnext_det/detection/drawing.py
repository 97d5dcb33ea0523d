"""Draw boxes with labels on images, with OpenCV. Images are BGR, uint8, (height, width, 3)."""

from __future__ import annotations

import colorsys
import logging
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

logger = logging.getLogger(__name__)

Color = tuple[int, int, int]
"""Blue, green, red, 0 to 255."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def choose_colors(names: Sequence[str]) -> dict[str, Color]:
    """Choose a color for every class name, far from those of its neighbors in the list."""
    return {name: _compute_color(position) for position, name in enumerate(names)}


def choose_labels(names: Sequence[str]) -> list[str]:
    """Choose what pictures call every class: its name, or "class 3" where it cannot be drawn.

    OpenCV draws a question mark for letters that its font lacks, in version 4 for all but ASCII,
    and letters that run from right to left the other way round. A warning lists such names.
    """
    normal = [unicodedata.normalize("NFC", name) for name in names]
    lacking = [name for name in normal if not _is_drawable(name)]
    if lacking:
        logger.warning(
            "OpenCV %s cannot draw %d of %d class names, such as %s; pictures have the class's "
            "number, and the JSON files the name",
            *(cv2.__version__, len(lacking), len(names), ascii(lacking[0])),
        )
    return [f"class {i}" if name in lacking else name for i, name in enumerate(normal)]


def _is_drawable(text: str) -> bool:
    return text.isprintable() and all(
        letter.isascii()
        or (unicodedata.bidirectional(letter) not in ("R", "AL") and _has_letter(letter))
        for letter in text
    )


def _has_letter(letter: str) -> bool:
    """Tell whether OpenCV's font has a letter: whether it looks unlike question marks."""
    drawn = _draw_text(letter)
    return not any(np.array_equal(drawn, _draw_text("?" * count)) for count in range(1, 5))


def _draw_text(text: str) -> np.ndarray:
    return cv2.putText(np.zeros((48, 160), np.uint8), text, (8, 32), _FONT, 1, (255,))


def draw_detections(
    image: np.ndarray,
    boxes: Any,
    labels: Sequence[str],
    scores: Any = None,
    *,
    colors: Mapping[str, Color] | None = None,
) -> np.ndarray:
    """Draw labeled boxes on a copy of the image; lines and letters grow with the image.

    Args:
        image: BGR uint8 (height, width, 3).
        boxes: (N, 4), x0, y0, x1, y1 in pixels, array or tensor on the CPU; they may reach out of
            the image.
        labels: the class name of every box.
        scores: the score of every box, 0 to 1, shown in percent; the best box is drawn last, on
            top.
        colors: a color for every label, such as ``choose_colors(names)``. Without it a label has a
            color that follows from its name, the same in every image.

    Raises:
        ValueError: the image is not BGR uint8, or the numbers of boxes, labels and scores differ.
    """
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    values = None if scores is None else np.asarray(scores, np.float64).reshape(-1)
    _check_inputs(image, corners, labels, values)
    canvas = np.ascontiguousarray(image).copy()
    limits = np.array([*canvas.shape[1::-1]] * 2) - 1
    inside = np.clip(np.rint(corners), 0, limits).astype(int).tolist()
    order = range(len(inside)) if values is None else np.argsort(values, kind="stable").tolist()
    known = colors or {}
    chosen = [known.get(label) or _compute_color(zlib.crc32(label.encode())) for label in labels]
    thickness = round(1 + min(canvas.shape[:2]) / 350)
    for index in order:
        x0, y0, x1, y1 = inside[index]
        cv2.rectangle(canvas, (x0, y0), (x1, y1), chosen[index], thickness, cv2.LINE_8)
    for index in order:  # after the boxes, so that no line crosses a label
        text = labels[index] if values is None else f"{labels[index]} {values[index]:.0%}"
        if text:
            x0, y0, *_ = inside[index]
            _draw_label(canvas, text, x0 - thickness // 2, y0 - thickness // 2, chosen[index])
    return canvas


def _check_inputs(
    image: np.ndarray, boxes: np.ndarray, labels: Sequence[str], scores: np.ndarray | None
) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        given = f"{image.dtype} of shape {image.shape}"
        raise ValueError(f"the image is {given}; give BGR, uint8 of shape (height, width, 3)")
    if len(labels) != len(boxes) or (scores is not None and len(scores) != len(boxes)):
        scored = "" if scores is None else f" and {len(scores)} scores"
        raise ValueError(
            f"there are {len(boxes)} boxes for {len(labels)} labels{scored}; give one per box"
        )


def _compute_color(position: int) -> Color:
    """Compute a color of an endless row: hues a golden angle apart, in three brightnesses."""
    hue = (0.6 + position * 0.6180339887) % 1.0
    saturation, value = ((0.80, 0.95), (0.60, 1.0), (0.90, 0.72))[position % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * blue), round(255 * green), round(255 * red)


def _draw_label(canvas: np.ndarray, text: str, left: int, bottom: int, color: Color) -> None:
    """Draw text on a filled ground above a box's upper left corner, moved to stay in the image."""
    height, width = canvas.shape[:2]
    size = min(height, width)
    scale, weight = max(0.38, size / 1100), max(1, round(size / 700))
    (text_width, text_height), baseline = cv2.getTextSize(text, _FONT, scale, weight)
    pad = max(2, round(text_height / 4))
    label_width, label_height = text_width + 2 * pad, text_height + baseline + pad
    left = max(0, min(left, width - label_width))
    top = max(0, min(bottom - label_height, height - label_height))
    end = (left + label_width - 1, top + label_height - 1)
    cv2.rectangle(canvas, (left, top), end, color, cv2.FILLED)
    blue, green, red = color
    ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 130 else (255, 255, 255)
    origin = (left + pad, top + pad // 2 + text_height)
    cv2.putText(canvas, text, origin, _FONT, scale, ink, weight, cv2.LINE_AA)
