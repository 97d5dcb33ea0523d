"""Masks of a set that cannot be trained on, and such that are not where their boxes are."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnext_det.data.coco import CocoDataset
from resnext_det.data.inspection.datasets import warn_of_differences
from resnext_det.data.inspection.masks import find_mask_faults, warn_of_masks
from resnext_det.data.records import Records, pack_records
from resnext_det.evaluation.coco_files import read_ground_truth

TRIANGLE = [[10, 5, 40.5, 5, 40.5, 12]]
ENCODING = {"size": [30, 60], "counts": [300, 5, 1495]}


def make_records(*masks: Any, crowds: tuple[int, ...] = ()) -> Records:
    """Make an image of 60 x 30 for every mask."""
    return pack_records(
        [
            {
                "file_name": f"{number}.jpg",
                "image_id": number,
                "height": 30,
                "width": 60,
                "annotations": [
                    {
                        "bbox": [10, 5, 30.5, 7],
                        "bbox_mode": 1,
                        "category_id": 0,
                        "iscrowd": int(number in crowds),
                        "segmentation": mask,
                    }
                ],
            }
            for number, mask in enumerate(masks)
        ]
    )


def test_objects_without_masks_or_with_those_of_another_format_are_counted() -> None:
    records = make_records(TRIANGLE, ENCODING, None, None, ENCODING, None, crowds=(3, 4))
    (missing,) = find_mask_faults(records, "bitmask")
    assert missing == (
        "2 of 4 objects have no segmentation, on which MODEL.MASK_ON = True trains, the first is "
        "in image 2 (2.jpg, 60 x 30); write polygons or a run-length encoding for each, or "
        "MODEL.MASK_ON False"
    )
    again, encoded = find_mask_faults(records, "polygon")
    assert again == missing
    assert encoded.startswith("1 of 4 objects have run-length encodings, which INPUT.MASK_FORMAT")
    assert "image 1 (1.jpg" in encoded and encoded.endswith("write INPUT.MASK_FORMAT bitmask")
    assert not find_mask_faults(make_records(TRIANGLE, None, crowds=(1,)), "polygon")


@pytest.mark.parametrize("everything", [False, True])
def test_masks_beside_their_boxes_are_told(
    everything: bool, caplog: pytest.LogCaptureFixture
) -> None:
    swapped = [[5, 10, 5, 40.5, 12, 40.5]]
    packed = {"size": [30, 60], "counts": "\\95g^1"}
    with caplog.at_level(logging.WARNING):
        warn_of_masks(make_records(TRIANGLE, None), "set", everything=everything)
        assert not caplog.records
        warn_of_masks(make_records(TRIANGLE, swapped, packed, swapped, crowds=(3,)), "set")
    (text,) = [record.getMessage() for record in caplog.records]
    assert text.startswith("set: 2 of 3 masks that were looked at are not where their boxes are")
    assert "image 1 (1.jpg, 60 x 30), with the box [10.0, 5.0, 30.5, 7.0]" in text
    assert "and a mask whose box is [5.0, 10.0, 7.0, 30.5] (x, y, width, height)" in text


def test_test_sets_that_lack_masks_are_told_before_as_by_the_evaluation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An evaluation leaves masks out where one is missing, be it that of a crowd."""
    records = make_records(TRIANGLE, None, ENCODING, None, crowds=(1,))
    dataset = CocoDataset("mine", Path("mine.json"), Path(), ("thing",), (0,), records)
    content = {
        "images": [{"id": each["image_id"], "height": 30, "width": 60} for each in records],
        "categories": [{"id": 0, "name": "thing"}],
        "annotations": [
            {**entry, "id": 1 + each["image_id"], "image_id": each["image_id"]}
            for each in records
            for entry in each["annotations"]
        ],
    }
    assert read_ground_truth(content, with_masks=True).masks is None
    assert "2 of 4 annotations have no segmentation" in caplog.text
    caplog.clear()
    warn_of_differences([], [dataset, dataset])
    (text,) = [record.getMessage() for record in caplog.records]
    assert text == (
        "test set 'mine' (mine.json): 2 of 4 annotations have no segmentation, so that its "
        "evaluations are of boxes alone; write one for each to have the AP of masks"
    )
    caplog.clear()
    warn_of_differences([], [replace(dataset, records=make_records(TRIANGLE, ENCODING))])
    assert not caplog.records
