"""Draw masks and boxes with labels, with OpenCV. Images are BGR, uint8, (height, width, 3)."""

from __future__ import annotations

import colorsys
import logging
import math
import unicodedata
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from resnext_det.detection.labels import Color, is_drawable, place_labels, render_label
from resnext_det.detection.mask_drawing import draw_mask

logger = logging.getLogger(__name__)

# Two of Okabe and Ito's colors, which can be told apart without color vision, and a gray.
_RIGHT: Color = (115, 158, 0)
_WRONG: Color = (0, 94, 213)
_IGNORED: Color = (150, 150, 150)
_RIGHT_KINDS = ("", "correct", "found")
_IGNORED_KINDS = ("ignored", "crowd")
_GAP = 8  # pixels between ground truth and detections
_SMALLEST_TEXT = 11  # pixels of the font
_LABELED_PART = 0.25  # of the picture, at most
_TALLEST, _HIGHEST_SHAPE = 4000, 8  # pixels of what is resized, or so many times its width


@dataclass(frozen=True, eq=False)
class LabeledBoxes:
    """Hold what is drawn on an image: N boxes with labels.

    Attributes:
        boxes: (N, 4), x0, y0, x1, y1 in pixels of the image, array or tensor on the CPU; they may
            reach out of the image.
        labels: the class name of every box.
        scores: the score of every box, 0 to 1, shown in percent; the best box is drawn last, on
            top, and its label is placed first.
        kinds: what became of every box, as ``ImageFindings`` says it: "correct" and "found" of
            what is right, "ignored" and "crowd" of what does not count, else what is wrong, such
            as "missed" or "duplicate". With them colors are for right, wrong and neither, not for
            classes, and what is not right has broken lines and its kind on the label.
        masks: the mask of every box, bool (N, height, width) of the image, drawn below all boxes.
    """

    boxes: Any
    labels: Sequence[str]
    scores: Any = None
    kinds: Sequence[str] | None = None
    masks: Any = None


def choose_colors(names: Sequence[str]) -> dict[str, Color]:
    """Choose a color for every class name, far from those of its neighbors in the list."""
    return {name: _compute_color(position) for position, name in enumerate(names)}


def choose_labels(names: Sequence[str]) -> list[str]:
    """Choose what pictures call every class: its name, or "class 3" where no font has its letters.

    A warning lists such names.
    """
    normal = [unicodedata.normalize("NFC", name) for name in names]
    lacking = [name for name in normal if not is_drawable(name)]
    if lacking:
        logger.warning(
            "no installed font can draw %d of %d class names, such as %s; pictures have the "
            "class's number, and the JSON files the name: install a font that has the letters, "
            "such as Noto Sans CJK for Chinese, Japanese and Korean",
            *(len(lacking), len(names), ascii(lacking[0])),
        )
    return [f"class {i}" if name in lacking else name for i, name in enumerate(normal)]


def draw_detections(
    image: np.ndarray,
    boxes: Any,
    labels: Sequence[str],
    scores: Any = None,
    masks: Any = None,
    *,
    colors: Mapping[str, Color] | None = None,
    width: int | None = None,
    show_labels: bool = True,
) -> np.ndarray:
    """Draw labeled boxes on a copy of the image; lines and letters fit the picture's size.

    No label hides another, and together they hide a quarter of the picture at most: what finds no
    place at its box is left out, that of the lowest score first.

    Args:
        image: BGR uint8 (height, width, 3).
        boxes, labels, scores, masks: see ``LabeledBoxes``.
        colors: a color for every label, such as ``choose_colors(names)``. Without it a label has a
            color that follows from its name, the same in every image.
        width: of the picture in pixels, for thumbnails, and to enlarge tiny images: the image is
            resized before anything is drawn on it. By default the picture has the image's size.
            An image like a thread becomes narrower: a picture is at most eight times as high as
            this, or 4,000 pixels.
        show_labels: False leaves the colors to tell the classes.

    Raises:
        ValueError: the image is not BGR uint8; the numbers of boxes, labels, scores and masks
            differ; the masks are of another size than the image.
    """
    shown = LabeledBoxes(boxes, labels, scores, masks=masks)
    return _draw(image, shown, colors, width, show_labels)


def draw_truth_beside(
    image: np.ndarray,
    truth: LabeledBoxes,
    found: LabeledBoxes,
    *,
    colors: Mapping[str, Color] | None = None,
    width: int | None = None,
) -> np.ndarray:
    """Draw the ground truth on the image, and beside it, on the right, what a detector found.

    A line above each of the two counts its boxes and, where there are ``kinds``, those of every
    kind.

    Args:
        image: BGR uint8 (height, width, 3).
        truth: the annotated boxes; their kinds are "missed" of objects that were not found.
        found: the detections; their kinds say why one is wrong.
        colors: see ``draw_detections``; without effect where there are kinds.
        width: of both together in pixels, with the 8 between them, see ``draw_detections``.

    Raises:
        ValueError: see ``draw_detections``.
    """
    panels = {"ground truth": truth, "detections": found}
    return draw_beside(image, panels, colors=colors, width=width)


def draw_beside(
    image: np.ndarray,
    panels: Mapping[str, LabeledBoxes],
    *,
    colors: Mapping[str, Color] | None = None,
    width: int | None = None,
) -> np.ndarray:
    """Draw an image several times side by side, each with other boxes and a title above.

    Args:
        panels: what is drawn, by title, from the left.
        image, colors, width: see ``draw_truth_beside``.

    Raises:
        ValueError: see ``draw_detections``.
    """
    number = len(panels)
    panel = None if width is None else (width - _GAP * (number - 1)) // number
    parts: list[np.ndarray] = []
    for title, shown in panels.items():
        picture = _draw(image, shown, colors, panel)
        side = np.concatenate([_draw_title(picture, title, shown), picture])
        if parts:
            parts.append(np.full((len(side), _GAP, 3), 255, np.uint8))
        parts.append(side)
    return np.concatenate(parts, 1)


def _draw(
    image: np.ndarray,
    shown: LabeledBoxes,
    colors: Mapping[str, Color] | None,
    width: int | None,
    show_labels: bool = True,
) -> np.ndarray:
    corners = np.asarray(shown.boxes, np.float64).reshape(-1, 4)
    scores = None if shown.scores is None else np.asarray(shown.scores, np.float64).reshape(-1)
    _check_inputs(image, corners, shown, scores)
    canvas, corners = _resize(image, corners, width)
    limits = np.array([*canvas.shape[1::-1]] * 2) - 1
    boxes = np.clip(np.rint(corners), 0, limits).astype(int)
    order = _sort_by_weight(scores, shown.kinds, len(boxes))
    chosen = _choose_box_colors(shown, colors or {})
    thickness = _choose_thickness(boxes, canvas)
    wrong = [kind not in _RIGHT_KINDS for kind in shown.kinds or [""] * len(boxes)]
    for index in reversed(order if shown.masks is not None else []):
        draw_mask(canvas, np.asarray(shown.masks[index]), chosen[index], thickness)
    for index in reversed(order):
        _draw_box(canvas, boxes[index].tolist(), chosen[index], thickness, wrong[index])
    if show_labels:
        _draw_labels(canvas, boxes, _list_texts(shown, scores), order, chosen, thickness)
    return canvas


def _check_inputs(
    image: np.ndarray, boxes: np.ndarray, shown: LabeledBoxes, scores: np.ndarray | None
) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        given = f"{image.dtype} of shape {image.shape}"
        raise ValueError(f"the image is {given}; give BGR, uint8 of shape (height, width, 3)")
    counts = {"labels": shown.labels, "scores": scores, "kinds": shown.kinds}
    counts["masks"] = shown.masks
    sizes = {name: len(values) for name, values in counts.items() if values is not None}
    if any(size != len(boxes) for size in sizes.values()):
        told = " and ".join(f"{size} {name}" for name, size in sizes.items())
        raise ValueError(f"there are {len(boxes)} boxes for {told}; give one per box")
    size = image.shape[:2] if shown.masks is None else tuple(np.shape(shown.masks)[1:])
    if len(boxes) and size != image.shape[:2]:
        raise ValueError(
            f"the masks are of {size} pixels and the image of {image.shape[:2]}; give masks of the "
            "image's height and width"
        )


def _resize(
    image: np.ndarray, corners: np.ndarray, width: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Copy the image, in another width where one is given, with the boxes in its pixels."""
    old_height, old_width = image.shape[:2]
    if width is None or width == old_width:
        return np.ascontiguousarray(image).copy(), corners
    tallest = max(_TALLEST, _HIGHEST_SHAPE * width)
    width = max(1, min(width, round(old_width * tallest / old_height)))
    height = max(1, min(tallest, round(old_height * width / old_width)))
    way = cv2.INTER_AREA if width < old_width else cv2.INTER_CUBIC
    resized = cv2.resize(image, (width, height), interpolation=way)
    return resized, corners * ([width / old_width, height / old_height] * 2)


def _sort_by_weight(
    scores: np.ndarray | None, kinds: Sequence[str] | None, count: int
) -> list[int]:
    """Sort the boxes' positions: what is wrong, then by score; the others in the order given."""
    right = np.array([kind in _RIGHT_KINDS for kind in kinds or [""] * count], bool)
    falling = np.zeros(count) if scores is None else -scores
    return np.lexsort((falling, right)).tolist()


def _choose_box_colors(shown: LabeledBoxes, known: Mapping[str, Color]) -> list[Color]:
    if shown.kinds is None:
        names = shown.labels
        return [known.get(name) or _compute_color(zlib.crc32(name.encode())) for name in names]
    colors = {**dict.fromkeys(_RIGHT_KINDS, _RIGHT), **dict.fromkeys(_IGNORED_KINDS, _IGNORED)}
    return [colors.get(kind, _WRONG) for kind in shown.kinds]


def _compute_color(position: int) -> Color:
    """Compute a color of an endless row: hues a golden angle apart, in three brightnesses."""
    hue = (0.6 + position * 0.6180339887) % 1.0
    saturation, value = ((0.80, 0.95), (0.60, 1.0), (0.90, 0.72))[position % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * blue), round(255 * green), round(255 * red)


def _list_texts(shown: LabeledBoxes, scores: np.ndarray | None) -> list[tuple[str, str]]:
    """List the name on every label, which may be shortened, and what follows it."""
    count = len(shown.labels)
    percents = [""] * count if scores is None else [f"{score:.0%}" for score in scores]
    kinds = [f" {kind}" if kind not in _RIGHT_KINDS else "" for kind in shown.kinds or [""] * count]
    endings = ("".join(pair).strip() for pair in zip(percents, kinds, strict=True))
    return list(zip(shown.labels, endings, strict=True))


def _choose_thickness(boxes: np.ndarray, canvas: np.ndarray) -> int:
    """Choose the lines' thickness in pixels: by the picture's size, thinner for small boxes."""
    of_picture = round(1 + min(canvas.shape[:2]) / 350)
    return max(1, min(of_picture, round(_find_typical_side(boxes) / 12)))


def _find_typical_side(boxes: np.ndarray) -> float:
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    return float(np.median(sides)) if len(sides) else 0.0


def _choose_text_size(boxes: np.ndarray, canvas: np.ndarray) -> int:
    """Choose the font's size in pixels: by the picture's size, smaller for small boxes."""
    side = math.sqrt(canvas.shape[0] * canvas.shape[1])
    fitting = min(max(_find_typical_side(boxes) / 4, side / 90), side / 45)
    return max(_SMALLEST_TEXT, round(fitting))


def _draw_box(
    canvas: np.ndarray, box: Sequence[int], color: Color, thickness: int, broken: bool
) -> None:
    x0, y0, x1, y1 = box
    if not broken:
        cv2.rectangle(canvas, (x0, y0), (x1, y1), color, thickness, cv2.LINE_8)
        return
    dash = 3 * thickness + 3
    for x in range(x0, x1 + 1, 2 * dash):
        for y in (y0, y1):
            cv2.line(canvas, (x, y), (min(x + dash, x1), y), color, thickness)
    for y in range(y0, y1 + 1, 2 * dash):
        for x in (x0, x1):
            cv2.line(canvas, (x, y), (x, min(y + dash, y1)), color, thickness)


def _draw_labels(
    canvas: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[tuple[str, str]],
    order: Sequence[int],
    colors: Sequence[Color],
    thickness: int,
) -> None:
    """Draw the labels after the boxes, so that no line crosses one."""
    height, width = canvas.shape[:2]
    labels = _render_labels(texts, colors, _choose_text_size(boxes, canvas), width)
    sizes = np.array([label.shape[1::-1] for label in labels]).reshape(-1, 2)
    crowded = sizes.prod(1).sum() / (_LABELED_PART * height * width)
    if crowded > 1:
        size = _choose_text_size(boxes, canvas) / math.sqrt(crowded)
        labels = _render_labels(texts, colors, max(_SMALLEST_TEXT, round(size)), width)
        sizes = np.array([label.shape[1::-1] for label in labels]).reshape(-1, 2)
    areas = sizes.prod(1)[list(order)].cumsum()
    order = order[: np.searchsorted(areas, _LABELED_PART * height * width, "right")]
    around = boxes + np.array([-1, -1, 1, 1]) * (thickness // 2) + [0, 0, 1, 1]
    places = place_labels(sizes, around, order, (width, height))
    for label, place in zip(labels, places, strict=True):
        if place is not None:
            left, top = place
            canvas[top : top + label.shape[0], left : left + label.shape[1]] = label


def _render_labels(
    texts: Sequence[tuple[str, str]], colors: Sequence[Color], size: int, width: int
) -> list[np.ndarray]:
    room = min(width, max(width // 2, 10 * size))
    return [
        render_label(name, ending, size, color, room)
        for (name, ending), color in zip(texts, colors, strict=True)
    ]


def _draw_title(picture: np.ndarray, title: str, shown: LabeledBoxes) -> np.ndarray:
    """Draw the line above a picture: what it shows, and how many boxes of every kind."""
    height, width = picture.shape[:2]
    size = max(_SMALLEST_TEXT, round(math.sqrt(height * width) / 40))
    kinds = Counter(kind for kind in shown.kinds or () if kind not in _RIGHT_KINDS)
    text = ", ".join([f"{title}: {len(shown.labels)}", *(f"{n} {k}" for k, n in kinds.items())])
    strip = np.full((2 * size, width, 3), 255, np.uint8)
    label = render_label(text, "", size, (255, 255, 255), width)
    if label.size:
        top = (len(strip) - len(label)) // 2
        strip[top : top + len(label), : label.shape[1]] = label
    return strip
