"""Draws boxes with labels, and sheets of pictures, with OpenCV. Images are BGR, uint8, (height, width, 3)."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

Colour = tuple[int, int, int]
"""Blue, green, red, 0 to 255."""

FONT = cv2.FONT_HERSHEY_SIMPLEX


def class_colours(names: Sequence[str]) -> dict[str, Colour]:
    """A colour for every class name, as far from those of its neighbours in the list as the golden angle."""
    return {name: _colour(position) for position, name in enumerate(names)}


def draw_detections(
    image: np.ndarray,
    boxes: Any,
    labels: Sequence[str],
    scores: Any = None,
    *,
    colours: Mapping[str, Colour] | None = None,
) -> np.ndarray:
    """Draw labelled boxes on a copy of the image; lines and letters grow with the image.

    Args:
        image: BGR uint8 (height, width, 3).
        boxes: (N, 4), x0, y0, x1, y1 in pixels, array or tensor on the CPU; they may reach out of the image.
        labels: the class name of every box.
        scores: the score of every box, 0 to 1, shown in percent; the best box is drawn last, on top.
        colours: a colour for every label, such as ``class_colours(names)``. Without it a label has a colour
            that follows from its name, the same in every image.

    Raises:
        ValueError: the image is not BGR uint8, or the numbers of boxes, labels and scores differ.
    """
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    values = None if scores is None else np.asarray(scores, np.float64).reshape(-1)
    _check(image, corners, labels, values)
    canvas = np.ascontiguousarray(image).copy()
    limits = np.array([*canvas.shape[1::-1]] * 2) - 1
    inside = np.clip(np.rint(corners), 0, limits).astype(int).tolist()
    order = range(len(inside)) if values is None else np.argsort(values, kind="stable").tolist()
    chosen = [
        colours[label] if colours and label in colours else _colour(zlib.crc32(label.encode()))
        for label in labels
    ]
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


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int,
    *,
    cell: tuple[int, int] | None = None,
    gap: int = 8,
    background: Colour = (255, 255, 255),
) -> np.ndarray:
    """Images side by side in rows, each centred in its cell and, where it is larger, made smaller to fit.

    Args:
        images: BGR uint8, of any sizes; at least one.
        columns: images in a row.
        cell: (height, width) in pixels of a cell; without it the largest height and width of the images.
        gap: pixels between cells and around them.
    """
    if not images or columns < 1:
        raise ValueError(
            f"there are {len(images)} images in {columns} columns; give at least one of each"
        )
    height, width = cell or (
        max(image.shape[0] for image in images),
        max(image.shape[1] for image in images),
    )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.empty((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), np.uint8)
    sheet[:] = background
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        fitted = _fit(image, height, width)
        top = gap + row * (height + gap) + (height - fitted.shape[0]) // 2
        left = gap + column * (width + gap) + (width - fitted.shape[1]) // 2
        sheet[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return sheet


def _check(
    image: np.ndarray, boxes: np.ndarray, labels: Sequence[str], scores: np.ndarray | None
) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        given = f"{image.dtype} of shape {image.shape}"
        raise ValueError(f"the image is {given}; give BGR, uint8 of shape (height, width, 3)")
    if len(labels) != len(boxes) or (scores is not None and len(scores) != len(boxes)):
        scored = "" if scores is None else f" and {len(scores)} scores"
        raise ValueError(
            f"there are {len(boxes)} boxes for {len(labels)} labels{scored}; give one a box"
        )


def _colour(position: int) -> Colour:
    """The colour at a position in an endless row: hues a golden angle apart, in three brightnesses."""
    hue = (0.6 + position * 0.6180339887) % 1.0
    saturation, value = ((0.80, 0.95), (0.60, 1.0), (0.90, 0.72))[position % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * blue), round(255 * green), round(255 * red)


def _draw_label(canvas: np.ndarray, text: str, left: int, bottom: int, colour: Colour) -> None:
    """Text on a filled ground above a box's upper left corner, moved as far as it needs to stay inside."""
    height, width = canvas.shape[:2]
    size = min(height, width)
    scale, weight = max(0.38, size / 1100), max(1, round(size / 700))
    (text_width, text_height), baseline = cv2.getTextSize(text, FONT, scale, weight)
    pad = max(2, round(text_height / 4))
    label_width, label_height = text_width + 2 * pad, text_height + baseline + pad
    left = max(0, min(left, width - label_width))
    top = max(0, min(bottom - label_height, height - label_height))
    end = (left + label_width - 1, top + label_height - 1)
    cv2.rectangle(canvas, (left, top), end, colour, cv2.FILLED)
    blue, green, red = colour
    ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 130 else (255, 255, 255)
    origin = (left + pad, top + pad // 2 + text_height)
    cv2.putText(canvas, text, origin, FONT, scale, ink, weight, cv2.LINE_AA)


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    factor = min(height / image.shape[0], width / image.shape[1])
    if factor >= 1:
        return image
    size = max(1, int(image.shape[1] * factor)), max(1, int(image.shape[0] * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
