"""Masks on files: encoded beside the boxes, and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from resnext_det.data.pixels import AnyImage
from resnext_det.detection.pictures import detect_on_files
from resnext_det.detection.results import ImageDetections
from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.rle import decode_masks
from tests.detection.test_video import film
from tests.detection.test_video import read as read_video

SIZE = (330, 400)


class Masked:
    """Find two objects in every image."""

    image_format = "BGR"
    lowest_score = 0.0

    def __init__(self, masks: np.ndarray | None) -> None:
        self.masks = masks

    def detect(self, image: AnyImage) -> ImageDetections:
        boxes = np.array([[20, 30, 120, 130], [200, 100, 360, 300]], np.float32)
        scores, classes = np.array([0.9, 0.6], np.float32), np.array([1, 0])
        return ImageDetections(SIZE, boxes, scores, classes, self.masks)


@pytest.fixture
def masks() -> np.ndarray:
    found = np.zeros((2, *SIZE), bool)
    found[0, 31:129, 21:119] = True
    found[1, 110:290, 210:350] = True
    return found


def test_masks_are_written_and_drawn(tmp_path: Path, masks: np.ndarray) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((*SIZE, 3), 90, np.uint8))
    pictures = []
    for name, given in (("boxes", None), ("masks", masks)):
        detect_on_files(
            *(Masked(given), [path], ["a", "b"]),
            output_dir=tmp_path / name,
            score=0.5,
            contact_sheet=True,
        )
        names = ("a.png", "contact_sheet_1.jpg")
        pictures.append([cv2.imread(str(tmp_path / name / each)) for each in names])
    (plain, small), (drawn, small_drawn) = pictures
    assert (plain[200, 250] == 90).all() and (drawn[200, 250] != 90).any()
    assert np.abs(small.astype(int) - small_drawn).max() > 50
    rows = json.loads((tmp_path / "masks" / "detections.json").read_text())
    counts = [row["segmentation"]["counts"] for row in rows]
    assert (decode_masks(counts, SIZE) == masks).all()
    assert rows[0]["segmentation"]["size"] == list(SIZE) and rows[0]["category"] == "b"
    table = json.loads((tmp_path / "masks" / "images.json").read_text())
    table["annotations"] = [
        {**row, "id": number, "area": 9000, "iscrowd": 0} for number, row in enumerate(rows, 1)
    ]
    metrics = evaluate_coco(table, tmp_path / "masks" / "detections.json")
    assert metrics.segm is not None and metrics.segm.AP == metrics.AP > 99


def test_those_of_low_scores_are_left_out(masks: np.ndarray) -> None:
    chosen = Masked(masks).detect("").select(0.7)
    assert chosen.masks is not None and (chosen.masks == masks[:1]).all()


def test_masks_are_written_and_drawn_in_every_frame_of_a_video(
    tmp_path: Path, masks: np.ndarray
) -> None:
    """Frames get ever brighter; where a mask lies its color is laid over them."""
    clip = film(tmp_path / "clip.mp4", count=3, height=SIZE[0], width=SIZE[1])
    frames = []
    for name, given in (("boxes", None), ("masks", masks)):
        detect_on_files(Masked(given), [clip], ["a", "b"], output_dir=tmp_path / name)
        frames.append(read_video(tmp_path / name / "clip.mp4")[1])
    rows = json.loads((tmp_path / "masks" / "detections.json").read_text())
    assert [row["frame"] for row in rows] == [0, 0, 1, 1, 2, 2]
    for number, (plain, drawn) in enumerate(zip(*frames, strict=True)):
        changed = np.abs(plain.astype(int) - drawn).max(axis=2) > 30
        assert changed[120:280, 220:340].mean() > 0.99 and changed[250:, :180].mean() < 0.01
        counts = [row["segmentation"]["counts"] for row in rows if row["frame"] == number]
        assert (decode_masks(counts, SIZE) == masks).all()
