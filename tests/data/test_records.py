"""Records as arrays: the dicts that a list would hold, however they are selected and joined."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from resnext_det.data.coco import filter_empty
from resnext_det.data.records import (
    Records,
    dump_segmentation,
    join_records,
    pack_records,
    pack_segmentations,
    renumber_classes,
)

MASKS: list[Any] = [
    [[1, 2.0, 3.25, 4, 5, 6]],
    None,
    {"size": [9, 7], "counts": "abc"},
    [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 2, 3, 4, 5, 6, 7, 8]],
]


def make_with_masks(seed: int) -> tuple[Records, list[dict[str, Any]]]:
    """Make records with masks of each kind, and the dicts that they stand for."""
    records, dicts = make(seed)
    for number, entry in enumerate(entry for each in dicts for entry in each["annotations"]):
        if (mask := MASKS[(number + seed) % 4]) is not None:
            entry["segmentation"] = mask
    masks = [MASKS[(number + seed) % 4] for number in range(len(records.boxes))]
    packed = pack_segmentations([dump_segmentation(mask) for mask in masks])
    return replace(records, segmentations=packed), dicts


def make(seed: int) -> tuple[Records, list[dict[str, Any]]]:
    """Make records, and the dicts that they stand for."""
    random = np.random.RandomState(seed)
    dicts = []
    for number in range(6):
        boxes = random.uniform(0, 9, (random.randint(0, 4), 4)).round(1).tolist()
        entries = [
            {
                "bbox": [int(v) for v in box] if random.rand() < 0.5 else box,
                "bbox_mode": 1,
                "category_id": int(random.randint(3)),
                "iscrowd": int(random.rand() < 0.5),
            }
            for box in boxes
        ]
        height, width = random.randint(1, 50, 2).tolist()
        record = {"file_name": f"{seed}/{number}.jpg", "height": height, "width": width}
        dicts.append({**record, "image_id": seed * 100 + number, "annotations": entries})
    entries = [entry for record in dicts for entry in record["annotations"]]
    ends = np.cumsum([0, *(len(record["annotations"]) for record in dicts)])
    records = Records(
        file_names=[record["file_name"] for record in dicts],
        image_ids=[record["image_id"] for record in dicts],
        sizes=np.array([[record["height"], record["width"]] for record in dicts]),
        spans=np.stack([ends[:-1], ends[1:]], axis=1),
        boxes=np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4),
        whole=np.array([isinstance(entry["bbox"][0], int) for entry in entries], bool),
        categories=np.array([entry["category_id"] for entry in entries], np.int64),
        crowds=np.array([entry["iscrowd"] for entry in entries], bool),
    )
    return records, dicts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_they_are_the_dicts_with_pythons_own_numbers(seed: int) -> None:
    records, dicts = make(seed)
    assert repr(list(records)) == repr(dicts)  # 3 is not 3.0, and no number is numpy's
    assert records == dicts
    assert repr(records[-1]) == repr(dicts[-1])
    assert repr(records[1:4]) == repr(dicts[1:4])
    assert pickle.loads(pickle.dumps(records)) == dicts
    with pytest.raises(IndexError):
        _ = records[6]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_empty_are_left_out_as_from_a_list(seed: int) -> None:
    records, dicts = make(seed)
    kept = filter_empty(records)
    assert isinstance(kept, Records)
    assert kept == filter_empty(dicts)
    assert 0 < len(kept) < len(records)


def test_joined_they_follow_one_another() -> None:
    (first, of_first), (second, of_second) = make(1), make(2)
    kept = first.select(np.array([4, 1]))
    joined = join_records([kept, second, first])
    assert isinstance(joined, Records)
    assert repr(list(joined)) == repr([of_first[4], of_first[1], *of_second, *of_first])
    assert join_records([first, of_second]) == [*of_first, *of_second]  # as with proposals
    assert join_records([first]) is first
    assert join_records([]) == []


def test_masks_follow_their_annotations() -> None:
    (first, of_first), (second, of_second) = make_with_masks(1), make_with_masks(2)
    assert repr(list(first)) == repr(of_first)  # in a polygon too, 3 is not 3.0
    kept = first.select(np.array([4, 1]))
    joined = join_records([kept, second])
    assert repr(list(joined)) == repr([of_first[4], of_first[1], *of_second])
    assert pickle.loads(pickle.dumps(joined)) == list(joined)
    assert first.segmentations is not None and len(first.segmentations) == len(first.boxes)
    assert repr(list(pack_records(of_first))) == repr(of_first)
    assert repr(list(renumber_classes(first, [0, 1, 2]))) == repr(of_first)
    without, of_without = make(3)
    assert list(join_records([without, make(3)[0]])) == of_without * 2


def test_what_pycocotools_gives_is_packed_as_what_json_has() -> None:
    packed = {"size": np.array([9, 7]), "counts": b"abc"}
    assert dump_segmentation(packed) == b'{"size":[9,7],"counts":"abc"}'
    assert dump_segmentation([np.array([0.5, 1, 2, 3, 4, 5])]) == b"[[0.5,1.0,2.0,3.0,4.0,5.0]]"
    assert dump_segmentation(None) == b"null"


def test_classes_are_renumbered_as_in_a_list() -> None:
    records, dicts = make(1)
    moved = renumber_classes(records, [2, 0, 1])
    assert isinstance(moved, Records)
    assert moved == renumber_classes(dicts, [2, 0, 1]) != dicts
    assert records == dicts
    assert renumber_classes(moved, [1, 2, 0]) == dicts
