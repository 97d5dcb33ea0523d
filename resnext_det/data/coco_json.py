"""Read a COCO annotations file into detectron2's standard dicts, and name every contradiction."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from resnext_det.files import list_first

logger = logging.getLogger(__name__)

Record = dict[str, Any]

XYWH_ABS = 1  # detectron2's BoxMode.XYWH_ABS
SMALLEST_SIDE = 1e-5  # training leaves out boxes with a side up to this, as detectron2 does


def read_coco_json(path: Path, image_dir: Path, name: str) -> tuple[dict[int, str], list[Record]]:
    """Read and validate an annotations file.

    Args:
        path: the file.
        image_dir: the folder that its file names are relative to; not looked at.
        name: the dataset's name, for messages.

    Returns:
        {category id: class name} in ascending order of id, and the records in ascending order of
        image id.

    Raises:
        ValueError: see ``load_coco``.
    """
    reader = _Reader(f"dataset {name!r} ({path})", tolerant="minival" in str(path))
    content = reader.parse(path)
    names = reader.read_categories(content)
    records = reader.read_images(content, str(image_dir))
    contiguous = {category: index for index, category in enumerate(names)}
    reader.read_annotations(content, records, contiguous)
    return names, list(records.values())


class _Reader:
    """Read one file, step by step.

    Args:
        source: begins every message.
        tolerant: let annotation ids repeat, as detectron2 does; COCO 2014's minival and
            valminusminival are known for it.
    """

    def __init__(self, source: str, tolerant: bool) -> None:
        self._source = source
        self._tolerant = tolerant

    def parse(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_bytes(), object_hook=_drop_mask)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self._source} is not JSON: {error.msg} at line {error.lineno} column "
                f"{error.colno}; correct it, or copy or download it again"
            ) from None
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self._source} is not text in UTF-8: {error}; save it as JSON in UTF-8"
            ) from None
        if not isinstance(content, dict):
            kind = type(content).__name__
            raise self._error(f"it holds a {kind}, not an object; give a file in COCO's format")
        return content

    def read_categories(self, content: dict[str, Any]) -> dict[int, str]:
        names: dict[int, str] = {}
        for entry in self._read_table(content, "categories"):
            category, name = self._read_integer(entry, "id", "a category"), entry.get("name")
            if not isinstance(name, str):
                raise self._error(f"category {category} has the name {name!r}; write a string")
            if category in names:
                raise self._error(
                    f"category id {category} occurs twice; give each category its own id"
                )
            names[category] = name
        return dict(sorted(names.items()))

    def read_images(self, content: dict[str, Any], image_dir: str) -> dict[int, Record]:
        records: dict[int, Record] = {}
        for entry in self._read_table(content, "images"):
            image_id = self._read_integer(entry, "id", "an image")
            owner = f"image {image_id}"
            if image_id in records:
                raise self._error(f"image id {image_id} occurs twice; give each image its own id")
            height, width = (self._read_integer(entry, key, owner) for key in ("height", "width"))
            if min(height, width) < 1:
                size = f"height {height} and width {width}"
                raise self._error(f"{owner} has {size}; write its size in pixels")
            name = entry.get("file_name")
            if name is None and isinstance(entry.get("coco_url"), str):
                name = "/".join(entry["coco_url"].split("/")[-2:])  # LVIS v1: folder and file
            if not isinstance(name, str):
                raise self._error(
                    f"{owner} has the file_name {name!r}; write a path in the image folder"
                )
            records[image_id] = {
                "file_name": os.path.join(image_dir, name),
                "height": height,
                "width": width,
                "image_id": image_id,
                "annotations": [],
            }
        return dict(sorted(records.items()))

    def read_annotations(
        self, content: dict[str, Any], records: dict[int, Record], contiguous: dict[int, int]
    ) -> None:
        """Put every annotation into its image's record."""
        seen: set[int] = set()
        placed: list[tuple[int, Record, list[float]]] = []
        repeated = homeless = without_mask = 0
        for entry in self._read_table(content, "annotations", may_be_empty=True):
            identity = self._read_integer(entry, "id", "an annotation")
            repeated += identity in seen
            seen.add(identity)
            record = records.get(self._read_integer(entry, "image_id", f"annotation {identity}"))
            homeless += record is None
            if (repeated or homeless) and not self._tolerant:
                wrong = "its id occurs twice"
                if record is None:
                    wrong = f"image_id {entry['image_id']} is no image's id"
                raise self._error(
                    f"annotation {identity}: {wrong}; give each its own id and a listed image"
                )
            if record is None:
                continue
            annotation = self._read_annotation(entry, f"annotation {identity}", contiguous)
            if not entry.get("segmentation", True):
                without_mask += 1
                continue
            record["annotations"].append(annotation)
            placed.append((identity, record, annotation["bbox"]))
        self._warn(repeated, "annotations repeat an id; they are kept")
        self._warn(homeless, "annotations belong to no listed image; they are left out")
        self._warn(
            without_mask,
            "annotations have polygons of under 3 points only; they are left out, as by detectron2",
        )
        if placed:
            self._check_boxes(placed)

    def _read_annotation(
        self, entry: dict[str, Any], owner: str, contiguous: dict[int, int]
    ) -> Record:
        category = self._read_integer(entry, "category_id", owner)
        if category not in contiguous:
            known = list_first(map(str, contiguous), 20)
            raise self._error(
                f"{owner}: category_id {category} is no category's id; add it to 'categories' (now "
                f"{known}) or correct it"
            )
        box: Any = entry.get("bbox")
        is_list = isinstance(box, list) and len(box) == 4
        if not is_list or any(type(value) not in (int, float) for value in box):
            raise self._error(
                f"{owner}: bbox is {box!r}; write [x, y, width, height], four numbers in pixels"
            )
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise self._error(f"{owner}: iscrowd is {crowd!r}; write 0 or 1")
        if entry.get("ignore", 0) != 0:
            raise self._error(
                f"{owner}: 'ignore' is {entry['ignore']!r}, which is not supported; remove the "
                "annotation, or write iscrowd 1 to have it ignored in training and evaluation"
            )
        return {
            "bbox": box,
            "bbox_mode": XYWH_ABS,
            "category_id": contiguous[category],
            "iscrowd": int(crowd),
        }

    def _check_boxes(self, placed: list[tuple[int, Record, list[float]]]) -> None:
        """Check boxes [x, y, width, height], with the annotation's id and the image's record."""
        boxes = np.array([box for _, _, box in placed], dtype=np.float64)
        sizes = [[record["width"], record["height"]] for _, record, _ in placed]
        size = np.array(sizes, dtype=np.float64)
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        faults = {
            "is not finite": ~np.isfinite(boxes).all(axis=1),
            "has a negative side": (boxes[:, 2:] < 0).any(axis=1),
            "lies wholly outside": ((low > size) | (high < 0)).any(axis=1),
        }
        for fault, where in faults.items():
            if where.any():
                first = int(where.argmax())
                identity, record, _ = placed[first]
                others = f" (and so do {where.sum() - 1} others)" if where.sum() > 1 else ""
                raise self._error(
                    f"annotation {identity}: bbox {boxes[first].tolist()} {fault}{others}; its "
                    f"image {record['image_id']} ({record['file_name']}) is {record['width']} x "
                    f"{record['height']}; boxes are [x, y, width, height] in pixels: correct it or "
                    "remove the annotation"
                )
        inside = np.minimum(high, size) - np.maximum(low, 0)
        empty = (inside <= SMALLEST_SIDE).any(axis=1)
        if empty.any():
            identity, record, _ = placed[int(empty.argmax())]
            self._warn(
                int(empty.sum()),
                f"boxes have no area, the first is annotation {identity} of image "
                f"{record['image_id']}; training leaves them out",
            )

    def _read_table(
        self, content: dict[str, Any], key: str, *, may_be_empty: bool = False
    ) -> list[dict[str, Any]]:
        table = content.get(key)
        if not isinstance(table, list) or any(not isinstance(entry, dict) for entry in table):
            found = f"'{key}' is no list of objects"
            if key not in content:
                found = f"it has {list_first(content, 20) or 'nothing'}"
            raise self._error(
                f"it is not in COCO's format: {found}; give lists named 'images', 'annotations' "
                "and 'categories'"
            )
        if not table and not may_be_empty:
            raise self._error(f"'{key}' is empty; list the {key} in it")
        return table

    def _read_integer(self, entry: dict[str, Any], key: str, owner: str) -> int:
        value = entry.get(key)
        if type(value) is int:
            return value
        if type(value) is float and value.is_integer():
            return int(value)
        raise self._error(f"{owner} has the {key} {value!r}; write an integer")

    def _error(self, text: str) -> ValueError:
        return ValueError(f"{self._source}: {text}")

    def _warn(self, count: int, message: str) -> None:
        if count:
            logger.warning("%s: %d %s", self._source, count, message)


def _drop_mask(entry: dict[str, Any]) -> dict[str, Any]:
    """Replace a mask by whether it is usable, so that a large file's polygons are freed early."""
    if "segmentation" in entry:
        mask = entry["segmentation"]
        polygons = mask if isinstance(mask, list) and mask and isinstance(mask[0], list) else None
        entry["segmentation"] = polygons is None or any(
            len(p) % 2 == 0 and len(p) >= 6 for p in polygons
        )
    return entry
