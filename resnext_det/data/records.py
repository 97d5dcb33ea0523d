"""Hold the records of a dataset as arrays, which loading processes share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import msgspec
import numpy as np

Record = dict[str, Any]

XYWH_ABS = 1  # detectron2's BoxMode.XYWH_ABS
SMALLEST_SIDE = 1e-5  # training leaves out boxes with a side up to this, as detectron2 does


@dataclass(frozen=True, eq=False)
class Segmentations:
    """Hold the segmentations of N annotations as texts, each decoded when it is asked for.

    Polygons as lists of Python's numbers take five times the memory, and as an array they would
    lose which numbers are integers, by which detectron2 rounds.

    ``texts`` is uint8, all texts in JSON, as ``dump_segmentation`` writes them; ``spans`` (N, 2)
    say where each begins and ends. An annotation without a segmentation has "null".
    """

    texts: np.ndarray
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> list[list[float]] | dict[str, Any] | None:
        """Return polygons, a run-length encoding, or None."""
        decoded: list[list[float]] | dict[str, Any] | None = msgspec.json.decode(self.text(index))
        return decoded

    def text(self, index: int) -> memoryview:
        """Return the text of one annotation, in JSON."""
        begin, end = self.spans[index].tolist()
        return self.texts[begin:end].data

    def select(self, indices: np.ndarray) -> Segmentations:
        """Select annotations; the texts are shared."""
        return Segmentations(self.texts, self.spans[indices])

    def find_kinds(self) -> np.ndarray:
        """Find the first character of each text: uint8 (N,), of "[", "{" or "n" for none."""
        return self.texts[self.spans[:, 0]]


def pack_segmentations(texts: Sequence[bytes]) -> Segmentations:
    """Pack texts in JSON, one for each annotation."""
    ends = np.cumsum([0, *map(len, texts)])
    buffer = np.frombuffer(b"".join(texts), np.uint8)
    return Segmentations(buffer, np.stack([ends[:-1], ends[1:]], axis=1))


def dump_segmentation(segmentation: Any) -> bytes:
    """Write polygons, or an encoding of pycocotools, as JSON without spaces; None as "null"."""
    if isinstance(segmentation, Mapping) and isinstance(segmentation.get("counts"), bytes):
        segmentation = {
            "size": segmentation.get("size"),
            "counts": segmentation["counts"].decode(),
        }
    return msgspec.json.encode(segmentation, enc_hook=lambda value: value.tolist())


@dataclass(frozen=True, eq=False)
class Records(Sequence[Record]):
    """Give detectron2's standard dicts, each made when it is asked for.

    A list of dicts of COCO's size takes ten times the memory, and every loading process that reads
    it ends up with a copy.

    Of the M images there are ``file_names`` and ``image_ids``, ``sizes`` (M, 2) as height and
    width, and ``spans`` (M, 2), the first annotation and the one after the last. Of the N
    annotations there are ``boxes`` (N, 4), float64 as x, y, width, height in pixels; ``whole``
    (N,), whether the file gives a box by four integers; ``categories`` (N,), from 0; ``crowds``
    (N,); and, where masks were asked for, ``segmentations``.
    """

    file_names: Sequence[str]
    image_ids: Sequence[int | str]
    sizes: np.ndarray
    spans: np.ndarray
    boxes: np.ndarray
    whole: np.ndarray
    categories: np.ndarray
    crowds: np.ndarray
    segmentations: Segmentations | None = None

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
        annotations: list[dict[str, Any]] = [
            {
                "bbox": list(map(int, box)) if whole else box,
                "bbox_mode": XYWH_ABS,
                "category_id": category,
                "iscrowd": int(crowd),
            }
            for box, whole, category, crowd in rows
        ]
        if self.segmentations is not None:
            for number, annotation in enumerate(annotations, begin):
                if (segmentation := self.segmentations[number]) is not None:
                    annotation["segmentation"] = segmentation
        return {
            "file_name": self.file_names[index],
            "height": height,
            "width": width,
            "image_id": self.image_ids[index],
            "annotations": annotations,
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
    """Pack detectron2's standard dicts into arrays; what these have no place for is left out."""
    if isinstance(records, Records):
        return records
    every = [annotation for record in records for annotation in record["annotations"]]
    ends = np.cumsum([0, *(len(record["annotations"]) for record in records)])
    boxes = [annotation["bbox"] for annotation in every]
    segmentations = None
    if any("segmentation" in annotation for annotation in every):
        segmentations = pack_segmentations(
            [dump_segmentation(annotation.get("segmentation")) for annotation in every]
        )
    return Records(
        file_names=[record["file_name"] for record in records],
        image_ids=[record["image_id"] for record in records],
        sizes=np.array([(r["height"], r["width"]) for r in records], np.int64).reshape(-1, 2),
        spans=np.stack([ends[:-1], ends[1:]], axis=1),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        whole=np.array([all(type(value) is int for value in box) for box in boxes], bool),
        categories=np.array([annotation["category_id"] for annotation in every], np.int64),
        crowds=np.array([annotation.get("iscrowd", 0) for annotation in every], bool),
        segmentations=segmentations,
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
        segmentations=_join_segmentations([part.segmentations for part in arrays]),
        file_names=[name for part in arrays for name in part.file_names],
        image_ids=[identity for part in arrays for identity in part.image_ids],
        spans=np.concatenate([part.spans + shift for part, shift in zip(arrays, shifts)]),
        **{name: stack(name) for name in ("sizes", "boxes", "whole", "categories", "crowds")},
    )


def _join_segmentations(parts: Sequence[Segmentations | None]) -> Segmentations | None:
    """Join the segmentations of datasets: of all, or there are none."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    shifts = np.cumsum([0, *(len(part.texts) for part in known[:-1])])
    return Segmentations(
        np.concatenate([part.texts for part in known]),
        np.concatenate([part.spans + shift for part, shift in zip(known, shifts)]),
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
