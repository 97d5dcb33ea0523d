"""Masks in pictures: colored where they are, seen through, and where they belong at any size."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from resnext_det.detection.drawing import LabeledBoxes, draw_detections, draw_truth_beside
from resnext_det.detection.mask_drawing import draw_mask

GREY = np.full((60, 90, 3), 90, np.uint8)
COLOR = (250, 60, 10)


def draw(mask: np.ndarray, canvas: np.ndarray = GREY) -> np.ndarray:
    picture = canvas.copy()
    draw_mask(picture, mask, COLOR, 1)
    return picture


def make_ring() -> np.ndarray:
    mask = cv2.circle(np.zeros((60, 90), np.uint8), (40, 30), 20, 1, -1)
    return cv2.circle(mask, (40, 30), 9, 0, -1).astype(bool)


def test_a_mask_colors_its_pixels_alone() -> None:
    """The edge of a hole lies on the pixels around it, so that nothing in it is covered."""
    mask = make_ring()
    changed = (draw(mask) != GREY).any(-1)
    assert (changed == mask).all()
    ground = draw(mask)[30, 25].astype(int)  # between the color and the gray
    assert ((ground > 90) == (np.array(COLOR) > 90)).all() and (ground != COLOR).all()
    edge = draw(mask)[30, 20].astype(int)
    assert (edge == np.rint(0.7 * np.array(COLOR))).all()


def test_an_empty_mask_draws_nothing() -> None:
    assert (draw(np.zeros((60, 90), bool)) == GREY).all()


@pytest.mark.parametrize("factor", [0.5, 1.7, 3])
def test_in_a_picture_of_another_size_it_lies_on_the_same_part(factor: float) -> None:
    mask = make_ring()
    height, width = round(60 * factor), round(90 * factor)
    canvas = np.full((height, width, 3), 90, np.uint8)
    changed = (draw(mask, canvas) != canvas).any(-1)
    expected = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    assert (changed != (expected > 0.5)).mean() < 0.02
    corner = np.zeros((60, 90), bool)
    corner[50:, 80:] = True
    changed = (draw(corner, canvas) != canvas).any(-1)
    assert changed[-1, -1] and changed.mean() == pytest.approx(100 / 5400, rel=0.25)


def test_masks_lie_below_boxes_and_labels() -> None:
    box = [[19, 9, 62, 52]]
    plain = draw_detections(GREY, box, ["cell"], [0.9])
    masked = draw_detections(GREY, box, ["cell"], [0.9], make_ring()[None])
    lines = (plain != GREY).any(-1)
    assert (masked[lines] == plain[lines]).all()
    inside = make_ring() & ~lines
    assert (masked[inside] != GREY[inside]).any(-1).all()
    both = draw_truth_beside(
        GREY,
        LabeledBoxes(box, ["cell"], kinds=["missed"], masks=make_ring()[None]),
        LabeledBoxes([], [], masks=np.zeros((0, 60, 90), bool)),
    )
    assert (both[-30, 25] != 90).all() and (both[-30, 25 + 98] == 90).all()
    assert draw_detections(GREY, box, ["cell"], None, make_ring()[None], width=45).shape[1] == 45


def test_masks_that_do_not_fit_are_refused() -> None:
    box = [[19, 9, 62, 52]]
    with pytest.raises(ValueError, match="1 boxes for 1 labels and 2 masks; give one per box"):
        draw_detections(GREY, box, ["a"], masks=np.zeros((2, 60, 90), bool))
    with pytest.raises(ValueError, match=r"masks are of \(30, 90\) pixels and the image of \(60,"):
        draw_detections(GREY, box, ["a"], masks=np.zeros((1, 30, 90), bool))


def test_twenty_masks_take_some_milliseconds() -> None:
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 255, (48, 64, 3), np.uint8), (640, 480))
    masks = np.zeros((20, 480, 640), np.uint8)
    for mask in masks:
        x, y, a, b = rng.integers(100, 400), rng.integers(100, 400), *rng.integers(10, 100, 2)
        cv2.ellipse(mask, (int(x), int(y)), (int(a), int(b)), 0, 0, 360, 1, -1)
    canvas = photo.copy()
    started = time.thread_time()
    for mask in masks.astype(bool):
        draw_mask(canvas, mask, COLOR, 2)
    assert time.thread_time() - started < 0.1
