"""A COCO annotations file to detectron2's standard dicts, with every contradiction in it named."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

Record = dict[str, Any]

XYWH_ABS = 1  # detectron2's BoxMode.XYWH_ABS
SMALLEST_SIDE = (
    1e-5  # training leaves out boxes with a side no longer than this, as detectron2 does
)


def read_coco_json(path: Path, image_dir: Path, name: str) -> tuple[dict[int, str], list[Record]]:
    """Read and validate an annotations file.

    Args:
        path: the file.
        image_dir: the folder that its file names are relative to; not looked at.
        name: the dataset's name, for messages.

    Returns:
        {category id: class name} in ascending order of id, and the records in ascending order of image id.

    Raises:
        ValueError: see ``load_coco``.
    """
    reader = _Reader(f"dataset {name!r} ({path})", tolerant="minival" in str(path))
    content = reader.parse(path)
    names = reader.categories(content)
    records = reader.images(content, str(image_dir))
    reader.annotations(content, records, {category: index for index, category in enumerate(names)})
    return names, list(records.values())


class _Reader:
    """The steps of reading one file.

    Args:
        source: what messages begin with.
        tolerant: COCO 2014's minival and valminusminival are known to repeat annotation ids; detectron2 lets
            them.
    """

    def __init__(self, source: str, tolerant: bool) -> None:
        self._source = source
        self._tolerant = tolerant

    def parse(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_bytes(), object_hook=_without_masks)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self._source} is not JSON: {error.msg} at line {error.lineno} column {error.colno}; "
                f"correct it, or copy or download it again"
            ) from None
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self._source} is not text in UTF-8: {error}; save it as JSON in UTF-8"
            ) from None
        if not isinstance(content, dict):
            raise self._error(
                f"it holds a {type(content).__name__}, not an object",
                "give a file in COCO's format",
            )
        return content

    def categories(self, content: dict[str, Any]) -> dict[int, str]:
        names: dict[int, str] = {}
        for entry in self._table(content, "categories"):
            category = self._integer(entry, "id", "a category")
            if not isinstance(entry.get("name"), str):
                raise self._error(
                    f"category {category} has the name {entry.get('name')!r}", "write a string"
                )
            if category in names:
                raise self._error(
                    f"category id {category} occurs twice", "give each category its own id"
                )
            names[category] = entry["name"]
        if not names:
            raise self._error("'categories' is empty", "list the classes in it")
        return dict(sorted(names.items()))

    def images(self, content: dict[str, Any], image_dir: str) -> dict[int, Record]:
        records: dict[int, Record] = {}
        for entry in self._table(content, "images"):
            image_id = self._integer(entry, "id", "an image")
            if image_id in records:
                raise self._error(f"image id {image_id} occurs twice", "give each image its own id")
            size = [self._integer(entry, key, f"image {image_id}") for key in ("height", "width")]
            if min(size) < 1:
                raise self._error(
                    f"image {image_id} has height {size[0]} and width {size[1]}",
                    "write its size in pixels",
                )
            file_name = entry.get("file_name")
            if file_name is None and isinstance(
                entry.get("coco_url"), str
            ):  # LVIS v1: split folder and file
                file_name = "/".join(entry["coco_url"].split("/")[-2:])
            if not isinstance(file_name, str):
                raise self._error(
                    f"image {image_id} has the file_name {file_name!r}",
                    "write a path in the image folder",
                )
            records[image_id] = {
                "file_name": os.path.join(image_dir, file_name),
                "height": size[0],
                "width": size[1],
                "image_id": image_id,
                "annotations": [],
            }
        if not records:
            raise self._error("'images' is empty", "list the images in it")
        return dict(sorted(records.items()))

    def annotations(
        self, content: dict[str, Any], records: dict[int, Record], contiguous: dict[int, int]
    ) -> None:
        """Put every annotation into its image's record."""
        seen: set[int] = set()
        placed: list[tuple[int, Record]] = []
        boxes: list[list[float]] = []
        repeated = homeless = without_mask = 0
        for entry in self._table(content, "annotations"):
            identity = self._integer(entry, "id", "an annotation")
            repeated += identity in seen
            seen.add(identity)
            record = records.get(self._integer(entry, "image_id", f"annotation {identity}"))
            if record is None:
                homeless += 1
            if (repeated or homeless) and not self._tolerant:
                wrong = (
                    "its id occurs twice"
                    if record is not None
                    else f"image_id {entry['image_id']} is no image's id"
                )
                raise self._error(
                    f"annotation {identity}: {wrong}",
                    "give each annotation its own id and an image listed",
                )
            if record is None:
                continue
            annotation = self._annotation(entry, identity, contiguous)
            if not entry.get("segmentation", True):
                without_mask += 1
                continue
            record["annotations"].append(annotation)
            placed.append((identity, record))
            boxes.append(annotation["bbox"])
        self._warn(repeated, "annotations repeat an id; they are kept")
        self._warn(homeless, "annotations belong to no listed image; they are left out")
        self._warn(
            without_mask,
            "annotations have polygons of under 3 points only; they are left out, as by detectron2",
        )
        if boxes:
            self._check_boxes(np.array(boxes, dtype=np.float64), placed)

    def _annotation(
        self, entry: dict[str, Any], identity: int, contiguous: dict[int, int]
    ) -> Record:
        category = self._integer(entry, "category_id", f"annotation {identity}")
        if category not in contiguous:
            raise self._error(
                f"annotation {identity}: category_id {category} is no category's id",
                f"add it to 'categories' (now {_few(list(contiguous))}) or correct it",
            )
        box = entry.get("bbox")
        if (
            not isinstance(box, list)
            or len(box) != 4
            or any(type(value) not in (int, float) for value in box)
        ):
            raise self._error(
                f"annotation {identity}: bbox is {box!r}",
                "write [x, y, width, height], four numbers in pixels",
            )
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise self._error(f"annotation {identity}: iscrowd is {crowd!r}", "write 0 or 1")
        if entry.get("ignore", 0) != 0:
            raise self._error(
                f"annotation {identity}: 'ignore' is {entry['ignore']!r}, which is not supported",
                "remove the annotation, or write iscrowd 1 to have it ignored in training and evaluation",
            )
        return {
            "bbox": box,
            "bbox_mode": XYWH_ABS,
            "category_id": contiguous[category],
            "iscrowd": int(crowd),
        }

    def _check_boxes(self, boxes: np.ndarray, placed: list[tuple[int, Record]]) -> None:
        """Boxes (N, 4): x, y, width, height; ``placed`` says which annotation and image each belongs to."""
        size = np.array(
            [[record["width"], record["height"]] for _, record in placed], dtype=np.float64
        )
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        faults = {
            "is not finite": ~np.isfinite(boxes).all(axis=1),
            "has a negative side": (boxes[:, 2:] < 0).any(axis=1),
            "lies wholly outside": ((low > size) | (high < 0)).any(axis=1),
        }
        for fault, where in faults.items():
            if where.any():
                first = int(where.argmax())
                identity, record = placed[first]
                others = f" (and so do {where.sum() - 1} others)" if where.sum() > 1 else ""
                raise self._error(
                    f"annotation {identity}: bbox {boxes[first].tolist()} {fault}{others}; its image "
                    f"{record['image_id']} ({record['file_name']}) is {record['width']} x {record['height']}",
                    "boxes are [x, y, width, height] in pixels: correct it or remove the annotation",
                )
        inside = np.minimum(high, size) - np.maximum(low, 0)
        empty = (inside <= SMALLEST_SIDE).any(axis=1)
        if empty.any():
            identity, record = placed[int(empty.argmax())]
            self._warn(
                int(empty.sum()),
                f"boxes have no area, the first is annotation {identity} of image {record['image_id']}; "
                "training leaves them out",
            )

    def _table(self, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
        table = content.get(key)
        if not isinstance(table, list) or any(not isinstance(entry, dict) for entry in table):
            found = (
                f"it has {_few(list(content))}"
                if key not in content
                else f"'{key}' is no list of objects"
            )
            raise self._error(
                f"it is not in COCO's format: {found}",
                "give lists named 'images', 'annotations' and 'categories'",
            )
        return table

    def _integer(self, entry: dict[str, Any], key: str, owner: str) -> int:
        value = entry.get(key)
        if type(value) is int:
            return value
        if type(value) is float and value.is_integer():
            return int(value)
        raise self._error(f"{owner} has the {key} {value!r}", "write an integer")

    def _error(self, wrong: str, remedy: str) -> ValueError:
        return ValueError(f"{self._source}: {wrong}; {remedy}")

    def _warn(self, count: int, message: str) -> None:
        if count:
            logger.warning("%s: %d %s", self._source, count, message)


def _without_masks(entry: dict[str, Any]) -> dict[str, Any]:
    """Keep of a mask whether it is usable, so that a large file's polygons are freed while it is read."""
    if "segmentation" in entry:
        mask = entry["segmentation"]
        polygons = mask if isinstance(mask, list) and mask and isinstance(mask[0], list) else None
        entry["segmentation"] = polygons is None or any(
            len(p) % 2 == 0 and len(p) >= 6 for p in polygons
        )
    return entry


def _few(values: list[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:20])
    return f"{shown}, ... ({len(values)} in all)" if len(values) > 20 else shown or "nothing"
