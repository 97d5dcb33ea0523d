"""Draw scenes of textured shapes over cluttered backgrounds, with the masks of what is visible.

While a scene is painted its image is float32 (3, height, width), blue green red, 0 to 255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

Shape = list[np.ndarray]
"""Closed contours of a shape, each float (N, 2) in x, y; a second contour is a hole."""
Box = tuple[float, float, float, float]

SHAPE_CLASSES = ("circle", "cross", "ring", "square", "star", "triangle")
"""Class names in alphabetical order, the order in which a folder of images sorts them."""

MIN_VISIBLE = 0.65
"""The least part of every object that is neither hidden nor outside the image."""


class DrawnObject(NamedTuple):
    """Describe the pixels that show an object.

    Attributes:
        kind: the index of its class.
        box: tight around them: x, y, width, height in pixels.
        area: their number.
        polygons: around them, each x0, y0, x1, y1 ... in pixels, exact but for half a pixel.
    """

    kind: int
    box: Box
    area: float
    polygons: list[list[float]]


# Outlines, of radius about 1 around the origin


def _make_polygon(corners: int, radius: float = 1.0) -> np.ndarray:
    """Make a regular polygon: a square on its side, a triangle and a star with a point on top."""
    angles = 2 * np.pi * (np.arange(corners) + 0.5 * (corners % 4 == 0)) / corners - np.pi / 2
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _make_star(random: Generator) -> Shape:
    points = _make_polygon(10)
    points[1::2] *= random.uniform(0.4, 0.5)
    return [points]


def _make_cross(random: Generator) -> Shape:
    arm = random.uniform(0.26, 0.36)
    corner = np.array([[1, -arm], [1, arm], [arm, arm]])
    turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return [np.concatenate([corner @ turn.T for turn in turns])]


def _make_angle(random: Generator) -> Shape:
    width = random.uniform(0.3, 0.5)
    return [np.array([[0, 0], [2, 0], [2, width], [width, width], [width, 2], [0, 2]]) - 0.7]


OUTLINES: dict[str, Callable[[Generator], Shape]] = {
    "circle": lambda random: [_make_polygon(64)],
    "cross": _make_cross,
    "ring": lambda random: [_make_polygon(64), _make_polygon(64, random.uniform(0.45, 0.65))],
    "square": lambda random: [_make_polygon(4)],
    "star": _make_star,
    "triangle": lambda random: [_make_polygon(3)],
}
DISTRACTORS: tuple[Callable[[Generator], Shape], ...] = (
    lambda random: [
        np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (1.0, random.uniform(0.2, 0.5))
    ],
    lambda random: [
        _make_polygon(64) * (1.0, random.uniform(0.35, 0.6))
    ],  # an ellipse; above, a slab
    lambda random: [_make_polygon(64)[:33]],  # a half disc
    _make_angle,
)


def _place(random: Generator, outline: Shape, radius: float, height: int, width: int) -> Shape:
    """Place the outline at random, turned and slightly stretched, in pixels."""
    turn, stretch = random.uniform(-0.4, 0.4), random.uniform(0.93, 1.07)
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = radius * np.array([[cos, -sin], [sin, cos]]) @ np.diag([stretch, 1 / stretch])
    center = random.uniform((0, 0), (width, height))
    return [contour @ matrix.T + center for contour in outline]


def _compute_area(shape: Shape) -> float:
    areas = [cv2.contourArea(contour.astype(np.float32)) for contour in shape]
    return areas[0] - sum(areas[1:])


def _rasterize(shape: Shape, height: int, width: int) -> np.ndarray:
    """Compute how much of each pixel a shape covers: uint8 (height, width), anti-aliased."""
    canvas = np.zeros((height, width), np.uint8)
    low = np.clip(np.floor(shape[0].min(0)), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(shape[0].max(0)), 0, (width, height)).astype(int)
    if (high > low).all():
        fine = np.zeros((4 * (high - low))[::-1], np.uint8)
        # Pixel (0, 0) has its center at 0 in OpenCV, here at one half; four bits are fraction.
        contours = [np.rint((4 * (contour - low) - 0.5) * 16).astype(np.int32) for contour in shape]
        cv2.fillPoly(fine, contours, 255, shift=4)
        mean = cv2.resize(fine, (high - low).tolist(), interpolation=cv2.INTER_AREA)
        canvas[low[1] : high[1], low[0] : high[0]] = mean
    return canvas


# Paint


def _draw_pattern(random: Generator, height: int, width: int) -> np.ndarray:
    """Draw a gradient, stripes, a checker or soft noise: float32 (height, width), 0 to 1."""
    kind = random.choice(("noise", "gradient", "stripes", "checker"))
    if kind == "noise":
        cell = random.uniform(4, 40)
        grid = random.random((int(height / cell) + 2, int(width / cell) + 2), dtype=np.float32)
        return np.clip(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    turn, phase = random.uniform(0, 2 * np.pi, 2)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    along = cos * x + sin * y
    if kind == "gradient":
        return (along - along.min()) / max(float(np.ptp(along)), 1.0)
    frequency = np.float32(2 * np.pi / random.uniform(7, 32))
    wave = np.sin(frequency * along + np.float32(phase))
    if kind == "checker":
        wave *= np.sin(frequency * (cos * y - sin * x))
    return np.clip(0.5 + np.float32(random.uniform(0.7, 3)) * wave, 0, 1)


def _draw_colors(random: Generator, number: int) -> np.ndarray:
    """Draw colors of mixed saturation: float32 (number, 3, 1, 1)."""
    vivid = random.uniform(0, 255, (number, 3))
    gray = vivid.mean(1, keepdims=True)
    colors = gray + (vivid - gray) * random.uniform(0.3, 1.0, (number, 1))
    return colors.astype(np.float32)[..., None, None]


def _blend(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return first + (second - first) * weight


def _draw_background(random: Generator, height: int, width: int) -> np.ndarray:
    first, second, third = _draw_colors(random, 3)
    second = _blend(first, second, np.asarray(random.uniform(0.05, 0.3), np.float32))
    image = _blend(first, second, _draw_pattern(random, height, width))
    return _blend(
        image, third, _draw_pattern(random, height, width) * np.float32(random.uniform(0, 0.12))
    )


def _paint(random: Generator, image: np.ndarray, coverage: np.ndarray) -> None:
    """Fill what is covered, in place, with two shades of a color unlike what lies beneath."""
    x, y, width, height = cv2.boundingRect(coverage)
    patch = image[:, y : y + height, x : x + width]
    alpha = coverage[y : y + height, x : x + width].astype(np.float32) / np.float32(255)
    beneath = (patch * alpha).sum((1, 2), keepdims=True) / alpha.sum()
    colors = _draw_colors(random, 24)
    distances = np.sqrt(((colors - beneath) ** 2).sum((1, 2, 3)))
    color = colors[np.argmax(distances > random.uniform(100, 170))]
    shade = color + random.uniform(-30, 30, (3, 1, 1)).astype(np.float32) * random.integers(0, 2)
    filling = _blend(color, shade, _draw_pattern(random, height, width))
    if random.random() < 0.3:  # a rim, lighter or darker
        kernel = np.ones((5, 5) if random.random() < 0.5 else (3, 3), np.uint8)
        inner = cv2.erode(alpha, kernel, borderValue=1.0)
        filling = _blend(filling + np.float32(random.choice((-60, 60))), filling, inner)
    patch[:] = _blend(patch, filling, alpha)


def _cast_shadow(random: Generator, image: np.ndarray, coverage: np.ndarray) -> None:
    """Darken what lies a few pixels beside the shape; in place."""
    shift = np.array([[1, 0, random.uniform(-5, 5)], [0, 1, random.uniform(-5, 5)]])
    shadow = cv2.warpAffine(coverage, shift, coverage.shape[::-1])
    x, y, width, height = cv2.boundingRect(shadow)
    rows, columns = slice(max(y - 6, 0), y + height + 6), slice(max(x - 6, 0), x + width + 6)
    soft = cv2.blur(shadow[rows, columns], (7, 7)).astype(np.float32)
    image[:, rows, columns] *= 1 - soft * np.float32(random.uniform(0.2, 0.6) / 255)


def _draw_lines(random: Generator, image: np.ndarray, number: int) -> None:
    height, width = image.shape[1:]
    for color in _draw_colors(random, number):
        canvas = np.zeros((height, width), np.uint8)
        start, end = random.integers((-10, -10), (width + 10, height + 10), (2, 2)).tolist()
        cv2.line(canvas, start, end, 255, int(random.integers(1, 3)), cv2.LINE_AA)
        x, y, w, h = cv2.boundingRect(canvas)
        alpha = canvas[y : y + h, x : x + w].astype(np.float32) / np.float32(255)
        patch = image[:, y : y + h, x : x + w]
        patch[:] = _blend(patch, color, alpha)


def _finish(random: Generator, image: np.ndarray) -> np.ndarray:
    """Light unevenly, blur a little, add sensor noise; uint8 (height, width, 3)."""
    height, width = image.shape[1:]
    image = image * (
        1 + np.float32(random.uniform(-0.2, 0.2)) * (_draw_pattern(random, height, width) - 0.5)
    )
    image = np.ascontiguousarray(image.transpose(1, 2, 0))
    if random.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.4, 1.1))
    noise = random.standard_normal(image.shape, dtype=np.float32)
    noise *= np.float32(random.uniform(1, 5))
    image += noise
    return cv2.convertScaleAbs(np.maximum(image, 0, out=image))  # rounded, at most 255


# Scenes


def _find_place(
    random: Generator, name: str, radius: float, masks: Sequence[np.ndarray], areas: Sequence[float]
) -> tuple[np.ndarray, float] | None:
    """Find a place that leaves all objects, this one too, visible enough, or None.

    Returns:
        The object's coverage and its whole area.
    """
    height, width = masks[0].shape
    for _ in range(12):
        shape = _place(random, OUTLINES[name](random), radius, height, width)
        coverage, area = _rasterize(shape, height, width), _compute_area(shape)
        mask = coverage >= 128
        remaining = [*(before & ~mask for before in masks[1:]), mask]
        needed = [MIN_VISIBLE * whole for whole in (*areas, area)]
        if all(
            np.count_nonzero(left) >= need for left, need in zip(remaining, needed, strict=True)
        ):
            return coverage, area
    return None


def _trace(mask: np.ndarray) -> list[list[float]]:
    """Trace the outlines of a mask, bool (height, width).

    COCO's polygons have no holes: here an outline goes to its hole, around that and back, and what
    is enclosed twice is outside.
    """
    # Corners of pixels are pixels of an image twice as large, whose outlines thus lie between the
    # centers of pixels inside and outside.
    fine = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    found, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    lines = [cv2.approxPolyDP(contour, 1.0, closed=True).reshape(-1, 2) for contour in found]
    outer = {i: line for i, line in enumerate(lines) if tree[0, i, 3] < 0 and len(line) >= 3}
    for i, hole in enumerate(lines):
        owner = int(tree[0, i, 3])
        if owner in outer and len(hole) >= 3:
            line = outer[owner]
            nearest = int(((hole - line[-1]) ** 2).sum(axis=1).argmin())
            around = np.roll(hole, -nearest, axis=0)
            outer[owner] = np.concatenate([line, around, around[:1], line[-1:]])
    return [((line + 0.5) / 2).reshape(-1).tolist() for line in outer.values()]


def draw_objects(
    random: Generator,
    height: int,
    width: int,
    *,
    classes: Sequence[int],
    radii: Sequence[float],
    clutter: int,
) -> tuple[np.ndarray, list[DrawnObject]]:
    """Draw objects of these classes and radii, in pixels, over ``clutter`` distractors.

    Returns what ``draw_scene`` returns. An object for which no fit place was found is left out.
    """
    image = _draw_background(random, height, width)
    for _ in range(clutter):
        outline = DISTRACTORS[random.integers(len(DISTRACTORS))](random)
        size = random.uniform(0.04, 0.2) * min(height, width)
        coverage = _rasterize(_place(random, outline, size, height, width), height, width)
        if coverage.any():
            _paint(random, image, coverage)
    _draw_lines(random, image, int(random.integers(0, 4)))
    drawn: list[int] = []
    areas: list[float] = []
    masks = [
        np.zeros((height, width), bool)
    ]  # the first is nobody's, so that the list is never empty
    for index, radius in zip(classes, radii, strict=True):
        if (place := _find_place(random, SHAPE_CLASSES[index], radius, masks, areas)) is None:
            continue
        coverage, area = place
        if random.random() < 0.4:
            _cast_shadow(random, image, coverage)
        _paint(random, image, coverage)
        masks = [*(before & (coverage < 128) for before in masks), coverage >= 128]
        drawn.append(index)
        areas.append(area)
    _draw_lines(random, image, int(random.integers(0, 2)))
    objects = []
    for index, mask in zip(drawn, masks[1:], strict=True):
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        box = (float(x), float(y), float(w), float(h))
        objects.append(DrawnObject(index, box, float(np.count_nonzero(mask)), _trace(mask)))
    return _finish(random, image), objects


def draw_scene(random: Generator, height: int, width: int) -> tuple[np.ndarray, list[DrawnObject]]:
    """Draw a scene of three to twelve objects.

    Returns:
        The image, BGR uint8 (height, width, 3), and the objects. At least ``MIN_VISIBLE`` of every
        object is visible.
    """
    number = int(random.integers(3, 13))
    classes = random.integers(len(SHAPE_CLASSES), size=number).tolist()
    radii = np.exp(random.uniform(np.log(11), np.log(0.26 * min(height, width)), number)).tolist()
    return draw_objects(
        random, height, width, classes=classes, radii=radii, clutter=int(random.integers(0, 5))
    )
