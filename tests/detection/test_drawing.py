"""Drawings: boxes where they belong, labels inside the image, colors that stay."""

from __future__ import annotations

import colorsys
import itertools
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from resnext_det.detection.drawing import (
    LabeledBoxes,
    choose_colors,
    draw_detections,
    draw_truth_beside,
)

GREY = np.full((200, 300, 3), 90, np.uint8)


def changed(image: np.ndarray, original: np.ndarray = GREY) -> np.ndarray:
    return (image != original).any(-1)


def test_the_image_given_stays_as_it_was() -> None:
    image = GREY.copy()
    drawn = draw_detections(image, [[50, 60, 150, 160]], ["cell"], [0.5])
    assert (image == GREY).all()
    assert changed(drawn).any()


def test_without_boxes_the_image_comes_back() -> None:
    for boxes in ([], np.zeros((0, 4)), torch.zeros(0, 4)):
        drawn = draw_detections(GREY, boxes, [], [])
        assert not changed(drawn).any()
        assert drawn is not GREY


def test_a_box_changes_its_edges_and_nothing_inside_or_far_off() -> None:
    drawn = changed(draw_detections(GREY, [[50.4, 59.6, 150.2, 160.0]], [""]))
    assert drawn[60:161, 50].all()
    assert drawn[60:161, 150].all()
    assert drawn[60, 50:151].all()
    assert drawn[160, 50:151].all()
    assert not drawn[64:156, 54:146].any()
    drawn[56:165, 46:155] = False
    assert not drawn.any()


def test_a_label_lies_above_its_box_on_the_color_of_its_class() -> None:
    color = choose_colors(["cell"])["cell"]
    drawn = draw_detections(GREY, [[50, 60, 150, 160]], ["cell"], [0.87], colors={"cell": color})
    above = drawn[40:58, 50:80].reshape(-1, 3)
    assert (above == color).all(-1).mean() > 0.3
    assert changed(drawn)[40:58, 50:80].mean() > 0.6
    assert np.abs(above.astype(int) - color).sum(-1).max() > 250  # letters that stand out


CORNERS = [
    [-20, -20, 40, 40],
    [270, -5, 320, 30],
    [280, 180, 330, 230],
    [-9, 190, 20, 240],
    [-50, -50, 400, 400],
]


@pytest.mark.parametrize("box", CORNERS, ids=str)
def test_at_the_border_the_whole_label_stays_inside(box: list[float]) -> None:
    """Its black letters have as many dark pixels at the border as in the middle."""
    colors = {"platelet": (10, 240, 30)}  # bright, so that the letters are black
    inside = draw_detections(GREY, [[100, 90, 130, 140]], ["platelet"], [0.5], colors=colors)
    border = draw_detections(GREY, [box], ["platelet"], [0.5], colors=colors)
    ink = (border < 80).all(-1).sum()  # OpenCV 4 smooths them, OpenCV 5 does not
    assert ink == (inside < 80).all(-1).sum() > 0


def test_the_best_score_is_drawn_last() -> None:
    colors = {"a": (0, 0, 255), "b": (0, 255, 0)}
    boxes = [[50, 60, 150, 160], [50, 60, 150, 160]]
    for scores, best in (([0.9, 0.2], "a"), ([0.2, 0.9], "b")):
        drawn = draw_detections(GREY, boxes, ["a", "b"], scores, colors=colors)
        assert tuple(drawn[150, 150]) == colors[best]


def test_lines_grow_with_the_image() -> None:
    def width(size: int) -> int:
        image = np.full((size, size, 3), 90, np.uint8)
        drawn = changed(
            draw_detections(image, [[size // 4, size // 4, size // 2, size // 2]], [""]), image
        )
        return int(drawn[size * 3 // 8, : size * 3 // 8].sum())

    assert width(64) == 1
    assert width(64) < width(400) < width(1200)


def test_colors_are_stable_and_can_be_told_apart() -> None:
    names = [f"class {i}" for i in range(10)]
    colors = choose_colors(names)
    assert choose_colors(names[:4]) == {name: colors[name] for name in names[:4]}
    hues = sorted(
        colorsys.rgb_to_hsv(*(c / 255 for c in color[::-1]))[0] for color in colors.values()
    )
    assert min(b - a for a, b in itertools.pairwise(hues)) > 0.03
    assert len(set(choose_colors([str(i) for i in range(80)]).values())) == 80
    first = draw_detections(GREY, [[50, 60, 150, 160]], ["cell"])
    second = draw_detections(GREY, [[9, 9, 20, 20], [50, 60, 150, 160]], ["other", "cell"])
    assert tuple(first[160, 150]) == tuple(second[160, 150])


def test_tensors_and_arrays_draw_the_same() -> None:
    boxes = [[50.0, 60.0, 150.0, 160.0]]
    drawn = [
        draw_detections(GREY, make(boxes), ["x"], make([0.5]))
        for make in (list, np.array, torch.tensor)
    ]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] == drawn[2]).all()


@pytest.mark.parametrize(
    ("image", "boxes", "labels", "scores", "message"),
    [
        (GREY[..., 0], [], [], None, r"the image is uint8 of shape \(200, 300\); give BGR, uint8"),
        (GREY / 255, [], [], None, r"the image is float64 of shape"),
        (GREY, [[0, 0, 9, 9]], [], None, "there are 1 boxes for 0 labels; give one per box"),
        (GREY, [[0, 0, 9, 9]], ["a"], [0.1, 0.2], "1 labels and 2 scores; give one per box"),
    ],
)
def test_what_does_not_fit_is_refused(
    image: np.ndarray,
    boxes: list[list[float]],
    labels: list[str],
    scores: list[float] | None,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_detections(image, boxes, labels, scores)


def test_a_width_resizes_the_image_and_not_the_lines() -> None:
    """A box in a thumbnail lies where it lies in the image, and is as thick as in a small image."""
    large = np.full((800, 1200, 3), 90, np.uint8)
    thumbnail = draw_detections(large, [[200, 240, 600, 640]], [""], width=300)
    assert (thumbnail == draw_detections(GREY, [[50, 60, 150, 160]], [""])).all()
    enlarged = draw_detections(GREY[:50, :60], [[10, 20, 30, 40]], [""], width=600)
    assert enlarged.shape == (500, 600, 3)
    assert changed(enlarged, np.full_like(enlarged, 90))[200:401, 100].all()


def test_an_image_like_a_thread_fills_no_memory() -> None:
    for height, shape in ((3000, (3000, 1)), (60, (4000, 67))):
        thread = np.full((height, 1, 3), 90, np.uint8)
        picture = draw_detections(thread, [[0, 9, 1, 40]], ["a"], width=460)
        assert picture.shape == (*shape, 3)


TRUTH = LabeledBoxes([[20, 30, 60, 70], [150, 90, 210, 160]], ["cell", "cell"])
FOUND = LabeledBoxes([[20, 30, 60, 72]], ["cell"], [0.9])


def test_ground_truth_stands_beside_detections() -> None:
    both = draw_truth_beside(GREY, TRUTH, FOUND)
    left = draw_detections(GREY, TRUTH.boxes, TRUTH.labels)
    right = draw_detections(GREY, FOUND.boxes, FOUND.labels, FOUND.scores)
    titles = len(both) - len(GREY)
    assert both.shape[1] == 2 * 300 + 8
    assert (both[titles:, :300] == left).all()
    assert (both[titles:, 308:] == right).all()
    assert 10 < titles < 40 and changed(both[:titles], np.full_like(both[:titles], 255)).any()


def test_what_is_wrong_has_another_color_and_broken_lines() -> None:
    """A color alone would tell nothing to some."""
    marked = replace(TRUTH, kinds=("found", "missed"), labels=["", "cell"])
    left = draw_truth_beside(GREY, marked, FOUND)[:, :300][-200:]
    found, missed = left[30:71, 20], left[90:161, 150]
    assert len(np.unique(found, axis=0)) == 1 and (found[0] != 90).any()
    assert 0.3 < (missed == 90).all(-1).mean() < 0.7
    assert not (missed[0] == found[0]).all()
    crowd = replace(TRUTH, kinds=("", "crowd"))
    other = draw_truth_beside(GREY, crowd, FOUND)[:, :300][-200:]
    assert other[90, 150].tolist() == [150, 150, 150]
    with pytest.raises(ValueError, match="2 boxes for 2 labels and 1 kinds; give one per box"):
        draw_truth_beside(GREY, replace(TRUTH, kinds=["missed"]), FOUND)


def test_a_thousand_pictures_take_a_minute() -> None:
    """Draw and encode pictures of COCO's size with 20 boxes, in a sixtieth of a second each."""
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 255, (48, 64, 3), np.uint8), (640, 480))
    corners = rng.uniform(0, 400, (12, 20, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 200, (12, 20, 2))], -1)
    scores, labels = rng.uniform(0.5, 1, (12, 20)), [f"class {i % 8}" for i in range(20)]
    started = time.thread_time()
    for each, values in zip(boxes, scores):
        cv2.imencode(".jpg", draw_detections(photo, each, labels, values))
    assert (time.thread_time() - started) / 12 < 0.06
