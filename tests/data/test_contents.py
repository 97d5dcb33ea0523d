"""Test what tells the contents of training sets apart."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from resnext_det.data.contents import Contents, describe_images, describe_records
from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.storage import ArraySource
from resnext_det.data.records import Record, pack_records


def make_records(folder: str) -> list[Record]:
    def box(x: float, category: int) -> dict[str, Any]:
        entry: dict[str, Any] = {"bbox": [x, 1.0, 2.0, 3.5], "bbox_mode": 1, "iscrowd": 0}
        return entry | {"category_id": category}

    boxes = [[box(0.0, 0), box(1.5, 1)], [], [box(4.0, 0)]]
    return [
        {
            "file_name": f"{folder}/sub/{index}.jpg",
            "image_id": index,
            "height": 20,
            "width": 30 + index,
            "annotations": annotations,
        }
        for index, annotations in enumerate(boxes)
    ]


def test_each_change_of_a_detection_set_is_named() -> None:
    records = make_records("/one")
    described = describe_records(records, Path("/one"))
    assert (described["images"], described["boxes"]) == (3, 3)
    assert describe_records(make_records("/two"), Path("/two")) == described
    assert describe_records(pack_records(records), Path("/one")) == described

    def find_changes(path: tuple[Any, ...], value: Any) -> set[str]:
        changed = copy.deepcopy(records)
        holder: Any = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
        now = describe_records(changed, Path("/one"))
        return {name for name in now if now[name] != described[name]}

    assert find_changes((1, "image_id"), 7) == {"image ids"}
    assert find_changes((1, "image_id"), "1") == {"image ids"}
    assert find_changes((1, "file_name"), "/one/1.jpg") == {"file names"}
    assert find_changes((2, "width"), 33) == {"image sizes"}
    assert find_changes((0, "annotations", 1, "bbox"), [1.5, 1, 2, 3]) == {"coordinates of boxes"}
    assert find_changes((2, "annotations", 0, "iscrowd"), 1) == {"coordinates of boxes"}
    assert find_changes((2, "annotations", 0, "category_id"), 1) == {"classes of boxes"}
    more = {"boxes", "coordinates of boxes", "classes of boxes"}
    assert find_changes((0, "annotations"), []) == more


def test_other_masks_are_named() -> None:
    def describe(masks: list[Any]) -> Contents:
        records = make_records("/one")
        entries = [entry for record in records for entry in record["annotations"]]
        for entry, mask in zip(entries, masks, strict=True):
            entry["segmentation"] = mask
        return describe_records(records, Path("/one"))

    triangle = [[1, 2.5, 3, 4, 5, 6]]
    described = describe([triangle, {"size": [20, 30], "counts": "abc"}, triangle])
    assert described.keys() - describe_records(make_records("/one"), Path("/one")) == {"masks"}
    for masks in (
        [triangle, {"size": [20, 30], "counts": "abd"}, triangle],
        [triangle, triangle, {"size": [20, 30], "counts": "abc"}],
        [triangle, None, triangle],
    ):
        now = describe(masks)
        assert {name for name in now if now[name] != described[name]} == {"masks"}


def test_each_change_of_a_classification_set_is_named() -> None:
    source = ArraySource(np.zeros((4, 2, 2, 3), np.uint8), ("a", "b"))
    images = ImageSet("set", ("x", "y"), np.array([0, 1, 1, 0]), source)
    described = describe_images(images)
    labels = ImageSet("set", ("x", "y"), np.array([0, 1, 0, 1]), source)
    names = ImageSet("set", ("x", "y"), images.labels, ArraySource(source.pixels, ("a", "c")))
    for changed, fact in ((labels, "labels"), (names, "file names")):
        now = describe_images(changed)
        assert {name for name in now if now[name] != described[name]} == {fact}
