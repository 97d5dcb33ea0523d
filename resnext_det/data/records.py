"""Hold the records of a dataset as arrays, which loading processes share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

Record = dict[str, Any]

XYWH_ABS = 1  # detectron2's BoxMode.XYWH_ABS
SMALLEST_SIDE = 1e-5  # training leaves out boxes with a side up to this, as detectron2 does


@dataclass(frozen=True, eq=False)
class Records(Sequence[Record]):
    """Give detectron2's standard dicts, each made when it is asked for.

    A list of dicts of COCO's size takes ten times the memory, and every loading process that reads
    it ends up with a copy.

    Of the M images there are ``file_names`` and ``image_ids``, ``sizes`` (M, 2) as height and
    width, and ``spans`` (M, 2), the first annotation and the one after the last. Of the N
    annotations there are ``boxes`` (N, 4), float64 as x, y, width, height in pixels; ``whole``
    (N,), whether the file gives a box by four integers; ``categories`` (N,), from 0; and ``crowds``
    (N,).
    """

    file_names: Sequence[str]
    image_ids: Sequence[int | str]
    sizes: np.ndarray
    spans: np.ndarray
    boxes: np.ndarray
    whole: np.ndarray
    categories: np.ndarray
    crowds: np.ndarray

    def __len__(self) -> int:
        return len(self.file_names)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        height, width = self.sizes[index].tolist()
        begin, end = self.spans[index].tolist()
        boxes = self.boxes[begin:end].tolist()
        columns = (self.whole, self.categories, self.crowds)
        rows = zip(boxes, *(column[begin:end].tolist() for column in columns), strict=True)
        return {
            "file_name": self.file_names[index],
            "height": height,
            "width": width,
            "image_id": self.image_ids[index],
            "annotations": [
                {
                    "bbox": list(map(int, box)) if whole else box,
                    "bbox_mode": XYWH_ABS,
                    "category_id": category,
                    "iscrowd": int(crowd),
                }
                for box, whole, category, crowd in rows
            ],
        }

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def select(self, indices: np.ndarray) -> Records:
        """Select images, in the order of ``indices``; the annotations are shared."""
        return replace(
            self,
            file_names=[self.file_names[i] for i in indices.tolist()],
            image_ids=[self.image_ids[i] for i in indices.tolist()],
            sizes=self.sizes[indices],
            spans=self.spans[indices],
        )

    def count_objects(self) -> np.ndarray:
        """Count the annotations of every image that are no crowds: int64, (M,)."""
        total = np.concatenate([[0], np.cumsum(~self.crowds)])
        return total[self.spans[:, 1]] - total[self.spans[:, 0]]


def pack_records(records: Sequence[Record]) -> Records:
    """Pack detectron2's standard dicts into arrays; what else they hold is left out."""
    if isinstance(records, Records):
        return records
    every = [annotation for record in records for annotation in record["annotations"]]
    ends = np.cumsum([0, *(len(record["annotations"]) for record in records)])
    boxes = [annotation["bbox"] for annotation in every]
    return Records(
        file_names=[record["file_name"] for record in records],
        image_ids=[record["image_id"] for record in records],
        sizes=np.array([(r["height"], r["width"]) for r in records], np.int64).reshape(-1, 2),
        spans=np.stack([ends[:-1], ends[1:]], axis=1),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        whole=np.array([all(type(value) is int for value in box) for box in boxes], bool),
        categories=np.array([annotation["category_id"] for annotation in every], np.int64),
        crowds=np.array([annotation.get("iscrowd", 0) for annotation in every], bool),
    )


def join_records(parts: Sequence[Sequence[Record]]) -> Sequence[Record]:
    """Join the records of datasets, one after another: as arrays where all of them are."""
    arrays = [part for part in parts if isinstance(part, Records)]
    if len(arrays) < len(parts) or not arrays:
        return [record for part in parts for record in part]
    if len(arrays) == 1:
        return arrays[0]
    shifts = np.cumsum([0, *(len(part.boxes) for part in arrays[:-1])])

    def stack(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in arrays])

    return Records(
        file_names=[name for part in arrays for name in part.file_names],
        image_ids=[identity for part in arrays for identity in part.image_ids],
        spans=np.concatenate([part.spans + shift for part, shift in zip(arrays, shifts)]),
        **{name: stack(name) for name in ("sizes", "boxes", "whole", "categories", "crowds")},
    )


def renumber_classes(records: Sequence[Record], numbers: Sequence[int]) -> Sequence[Record]:
    """Give class i the number ``numbers[i]``; the records that are given stay as they are."""
    if isinstance(records, Records):
        return replace(records, categories=np.asarray(numbers, np.int64)[records.categories])
    return [
        {
            **record,
            "annotations": [
                {**entry, "category_id": numbers[entry["category_id"]]}
                for entry in record["annotations"]
            ],
        }
        for record in records
    ]
