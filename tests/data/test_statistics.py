"""Compare the statistics of a set with a loop over single images, and with values by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from resnext_det.data.anchor_fit import AnchorGrid
from resnext_det.data.geometry import InterpolatedResize, Resize
from resnext_det.data.records import Record
from resnext_det.data.statistics import ModelView, find_near_copies, summarize_boxes
from resnext_det.data.transforms import ResizeShortestEdge, Stretch, transform_boxes

VIEW = ModelView(ResizeShortestEdge((80,), 130), AnchorGrid([[16]], [[1.0]], (8,)))


def make_record(number: int, size: tuple[int, int], boxes: list[Any], crowd: int = 0) -> Record:
    """Make a record whose boxes are of class 0, 1, 0, 1 ...; the last one may be a crowd."""
    return {
        "file_name": f"{number}.png",
        "image_id": number,
        "height": size[0],
        "width": size[1],
        "annotations": [
            {
                "bbox": box,
                "bbox_mode": 1,
                "category_id": index % 2,
                "iscrowd": int(crowd and index == len(boxes) - 1),
            }
            for index, box in enumerate(boxes)
        ],
    }


def draw_boxes(random: np.random.RandomState, size: tuple[int, int], count: int) -> list[Any]:
    low = random.uniform(-0.1, 0.9, (count, 2)) * size[::-1]
    boxes = np.hstack([low, random.uniform(0.05, 0.5, (count, 2)) * size[::-1]])
    return [*boxes[::2].round(2).tolist(), *boxes[1::2].astype(int).tolist()]


def test_boxes_are_those_that_a_training_computes() -> None:
    random = np.random.RandomState(0)
    sizes = [(100, 163), (200, 90), (80, 80), (40, 300)]
    records = [make_record(i, size, draw_boxes(random, size, 8)) for i, size in enumerate(sizes)]
    found = summarize_boxes(records, ["a", "b"], VIEW)
    for index, record in enumerate(records):
        new = VIEW.resize.compute_size(record["height"], record["width"], 80)
        boxes = [entry["bbox"] for entry in record["annotations"]]
        boxes = [box for box in boxes if min(box[2:]) > 0]
        expected = transform_boxes(boxes, new, [Resize(record["height"], record["width"], *new)])
        np.testing.assert_array_equal(found.boxes[found.owners == index], expected)
        assert tuple(found.view_sizes[index]) == new
    stretched = summarize_boxes(records, ["a", "b"], ModelView(Stretch(60, 90)))
    for index, record in enumerate(records):
        step = InterpolatedResize(record["height"], record["width"], 60, 90)
        boxes = [entry["bbox"] for entry in record["annotations"] if min(entry["bbox"][2:]) > 0]
        expected = transform_boxes(boxes, (60, 90), [step])
        np.testing.assert_array_equal(stretched.boxes[stretched.owners == index], expected)
    assert (stretched.view_sizes == [60, 90]).all()
    whole = summarize_boxes(records, ["a", "b"], ModelView(ResizeShortestEdge((0,), 130)))
    np.testing.assert_array_equal(whole.view_sizes, sizes)
    assert whole.anchor_ious is None and np.isnan(whole.compute_anchor_recall(0.5))


def test_counts_are_those_of_the_set() -> None:
    records = [
        make_record(1, (160, 320), [[0, 0, 160, 160], [20.0, 30.0, 32.0, 8.0], [0, 0, 9, 0]]),
        make_record(2, (160, 160), []),
        make_record(3, (160, 160), [[10, 10, 1, 40], [0, 0, 16, 16], [5, 5, 90, 90]], crowd=1),
    ]
    found = summarize_boxes(records, ["a", "b", "never"], VIEW)
    assert (found.num_images, found.num_objects, found.crowds, found.flat_boxes) == (3, 4, 1, 1)
    assert found.count_objects().tolist() == [2, 2, 0]
    assert found.count_images().tolist() == [2, 2, 0]
    assert found.count_per_image().tolist() == [2, 0, 2]
    # The first image is as wide as MAX_SIZE allows, 130 pixels; the others are halved.
    np.testing.assert_array_equal(found.view_sizes, [(65, 130), (80, 80), (80, 80)])
    np.testing.assert_allclose(found.measure_scales(), [130 / 320, 0.5, 0.5])
    assert found.find_vanished().tolist() == [False, False, True, False]  # 5.5 is truncated to 5
    np.testing.assert_allclose(found.measure_sizes(), [65, 6.5, 0, 8], rtol=1e-6)
    np.testing.assert_allclose(found.measure_aspect_ratios(), [1, 0.25, 1], rtol=1e-6)
    assert found.areas.tolist() == [25600, 256, 40, 256]
    assert found.find_slips().tolist() == [False, False, True, False]
    assert found.anchor_ious is not None and found.anchor_ious[2] == 0
    assert found.compute_anchor_recall(0.2) == np.mean(found.anchor_ious >= 0.2)
    assert found.near_copies.tolist() == []


def test_no_annotations_are_a_set_too() -> None:
    for records in ([], [make_record(1, (60, 80), [])]):
        found = summarize_boxes(records, ["a"], VIEW)
        assert found.count_objects().tolist() == found.count_images().tolist() == [0]
        assert found.num_images == len(records) and not found.find_vanished().any()
        assert np.isnan(found.compute_anchor_recall(0.5)) and len(found.match_classes()) == 0


def test_near_copies_are_the_pairs_of_a_plain_loop() -> None:
    random = np.random.RandomState(0)
    low = random.uniform(0, 50, (40, 2))
    boxes = np.hstack([low, random.uniform(5, 40, (40, 2))])
    boxes = np.concatenate([boxes, boxes[:20] + random.uniform(-1.5, 1.5, (20, 4)), boxes[:3]])
    owners = random.randint(0, 3, len(boxes))
    owners[40:] = np.concatenate([owners[:20], owners[:3]])
    corners = torch.from_numpy(np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]))
    ious = box_iou(corners, corners).numpy()
    expected = [
        [i, j]
        for i in range(len(boxes))
        for j in range(i + 1, len(boxes))
        if owners[i] == owners[j] and ious[i, j] >= 0.8
    ]
    assert find_near_copies(boxes, owners, iou=0.8).tolist() == expected
    assert 5 < len(expected) < 60


def test_near_copies_tell_whether_the_classes_agree() -> None:
    box, near = [10.0, 10.0, 40.0, 40.0], [10.0, 10.0, 41.0, 40.0]
    records = [make_record(1, (80, 80), [box, near, [50, 50, 9, 9], [10, 10, 40, 41]])]
    found = summarize_boxes(records, ["a", "b"], VIEW)
    assert found.near_copies.tolist() == [[0, 1], [0, 3], [1, 3]]
    assert found.match_classes().tolist() == [False, False, True]
