"""Say what an image, a category and an annotation of a COCO file have to be.

Entries that are right are decoded straight into these types. The checks here are for all others:
they convert what is as good (the id 7.0, numpy's numbers) and refuse the rest, by its id.
"""

from __future__ import annotations

import json
import math
import numbers
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from resnext_det.data.annotations.segmentations import normalize_segmentation
from resnext_det.data.records import dump_segmentation
from resnext_det.files import escape_controls, list_first, show

LARGEST = sys.float_info.max
_LARGEST_INTEGER = 2**63 - 1
_Side = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Number = Annotated[int, msgspec.Meta(ge=-_LARGEST_INTEGER, le=_LARGEST_INTEGER)] | float
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Path = Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
Identity = int | _Text
Box = tuple[Number, Number, Number, Number]

WITH_MASK, TOO_FEW_POINTS = msgspec.Raw(b"null"), msgspec.Raw(b"[[]]")
_IN_NUMBERS = b"0123456789+-.eE, \n\r\t"
_POLYGONS = "write polygons [[x0, y0, x1, y1, ...]] or a run-length encoding, or leave it out"


class Image(msgspec.Struct, gc=False):
    """Hold an image; sizes and names are None where the file does not tell them."""

    id: Identity
    file_name: _Path | None = None
    height: _Side | None = None
    width: _Side | None = None
    coco_url: _Text | None = None


class Category(msgspec.Struct, gc=False):
    """Hold a category."""

    id: Identity
    name: _Text


class Annotation(msgspec.Struct, gc=False):
    """Hold an annotated object, whose segmentation is not decoded."""

    id: int
    image_id: Identity
    category_id: Identity
    bbox: Box
    area: Annotated[float, msgspec.Meta(ge=0)] | None = None
    iscrowd: Literal[0, 1] | bool = 0
    ignore: Literal[0] = 0
    segmentation: msgspec.Raw = WITH_MASK


class Checker:
    """Check entries that are decoded, or not from JSON.

    Args:
        source: begins every message.
        with_masks: keep the segmentations of annotations.
    """

    def __init__(self, source: str, with_masks: bool = False) -> None:
        self.source = source
        self.with_masks = with_masks

    def check_image(self, entry: Mapping[str, Any], index: int) -> Image:
        """Convert an entry of 'images', or raise ValueError."""
        image_id = self._read_id(entry, "id", f"entry {index} of 'images'")
        owner = f"image {image_id}"
        sides: dict[str, int | None] = {}
        for side in ("height", "width"):
            sides[side] = None
            if entry.get(side) is not None:
                sides[side] = number = self._read_integer(entry, side, owner)
                if not 1 <= number < 2**31:
                    raise self.error(f"{owner} has {side} {number}; write its size in pixels")
        name, url = entry.get("file_name"), entry.get("coco_url")
        if name is not None and (not _is_text(name) or "\0" in name or len(name) > 4096):
            raise self.error(
                f"{owner} has the file_name {show(name)}; write a path in the image folder"
            )
        return Image(image_id, name, coco_url=url if _is_text(url) else None, **sides)

    def check_category(self, entry: Mapping[str, Any], index: int) -> Category:
        """Convert an entry of 'categories', or raise ValueError."""
        category, name = (
            self._read_id(entry, "id", f"entry {index} of 'categories'"),
            entry.get("name"),
        )
        if not _is_text(name):
            raise self.error(f"category {category} has the name {show(name)}; write a string")
        return Category(category, str(name))

    def check_annotation(self, entry: Mapping[str, Any], index: int) -> Annotation:
        """Convert an entry of 'annotations', or raise ValueError."""
        if "segments_info" in entry and "bbox" not in entry:
            raise self.error(
                f"entry {index} of 'annotations' is of COCO's panoptic format; give a file of "
                "instances, as panopticapi's panoptic2detection_coco_format.py makes it"
            )
        identity = self._read_integer(entry, "id", f"entry {index} of 'annotations'")
        owner = f"annotation {identity}"
        crowd, area = entry.get("iscrowd", 0), entry.get("area")
        if not isinstance(crowd, numbers.Real | np.bool_) or crowd not in (0, 1):
            raise self.error(f"{owner}: iscrowd is {show(crowd)}; write 0 or 1")
        ignore = entry.get("ignore", 0)
        if not isinstance(ignore, numbers.Real | np.bool_) or ignore != 0:
            raise self.error(
                f"{owner}: 'ignore' is {show(ignore)}, which is not supported; remove the "
                "annotation, or write iscrowd 1 to have it ignored in training and evaluation"
            )
        if area is not None and not (is_number(area) and 0 <= area <= LARGEST):
            raise self.error(
                f"{owner}: area is {show(area)}; write the object's area in square pixels, a "
                "number from 0 up, or leave it out to use its box's"
            )
        box = convert_box(entry.get("bbox"))
        if box is None:
            raise self.error(
                f"{owner}: bbox is {show(entry.get('bbox'))}; write [x, y, width, height], four "
                "numbers in pixels"
            )
        mask = entry.get("segmentation")
        segmentation = WITH_MASK if self._has_mask(mask, owner) else TOO_FEW_POINTS
        if self.with_masks and mask is not None:
            segmentation = self._write_mask(mask, owner)
        return Annotation(
            identity,
            self._read_id(entry, "image_id", owner),
            self._read_id(entry, "category_id", owner),
            box,
            None if area is None else float(area),
            bool(crowd),
            segmentation=segmentation,
        )

    def has_mask(self, annotation: Annotation) -> bool:
        """Tell whether a mask is usable; only polygons of under 3 points are not.

        Raises ValueError where it is no mask.
        """
        text = bytes(annotation.segmentation)
        if text == b"null":
            return True
        if (
            text[:2] == b"[["
            and text[-2:] == b"]]"
            and text.translate(None, _IN_NUMBERS) == b"[[]]"
        ):
            commas = text.count(b",")  # one polygon: decoding it would take ten times as long
            return commas >= 5 and commas % 2 == 1
        try:
            return self._has_mask(json.loads(text), f"annotation {annotation.id}")
        except RecursionError:
            raise self.error(
                f"annotation {annotation.id}: segmentation is nested too deep; {_POLYGONS}"
            ) from None

    def normalize_mask(self, annotation: Annotation, height: int, width: int) -> bytes:
        """Check the mask of an image of that size, see ``normalize_segmentation``."""
        try:
            return normalize_segmentation(bytes(annotation.segmentation), height, width)
        except ValueError as error:
            raise self.error(f"annotation {annotation.id} {error}") from None

    def error(self, text: str) -> ValueError:
        """Make an error of the source."""
        return ValueError(escape_controls(f"{self.source}: {text}"))

    def _has_mask(self, mask: Any, owner: str) -> bool:
        if mask is None or isinstance(mask, Mapping):
            return True
        polygons = mask if isinstance(mask, list | tuple | np.ndarray) else None
        if polygons is None:
            raise self.error(f"{owner}: segmentation is {show(mask)}; {_POLYGONS}")
        if all(map(is_number, polygons)):  # [], or a polygon that is in no list
            return True
        for polygon in polygons:
            is_list = isinstance(polygon, list | tuple | np.ndarray)
            if not is_list or not all(map(is_number, polygon)):
                raise self.error(f"{owner}: segmentation has {show(polygon)}; {_POLYGONS}")
        return any(len(polygon) % 2 == 0 and len(polygon) >= 6 for polygon in polygons)

    def _write_mask(self, mask: Any, owner: str) -> msgspec.Raw:
        """Write a mask as JSON, as the entries that are decoded at once have it."""
        try:
            return msgspec.Raw(dump_segmentation(mask))
        except (TypeError, ValueError, AttributeError, RecursionError, OverflowError):
            raise self.error(f"{owner}: segmentation is {show(mask)}; {_POLYGONS}") from None

    def _read_id(self, entry: Mapping[str, Any], key: str, owner: str) -> int | str:
        value = entry.get(key)
        return str(value) if _is_text(value) else self._read_integer(entry, key, owner)

    def _read_integer(self, entry: Mapping[str, Any], key: str, owner: str) -> int:
        if key not in entry:
            found = list_first(map(str, entry), 10) or "nothing"
            raise self.error(f"{owner} lacks {key!r} (it has {found}); write an integer")
        value = convert_id(entry[key])
        if not isinstance(value, int):
            raise self.error(f"{owner} has the {key} {show(entry[key])}; write an integer")
        return value


def convert_id(value: Any) -> int | str | None:
    """Convert an id: a text, or a whole number of any type; None if it is neither."""
    if _is_text(value):
        return str(value)
    whole = isinstance(value, numbers.Integral)
    if is_number(value) and (whole or (math.isfinite(value) and value == int(value))):
        return int(value)
    return None


def convert_box(value: Any) -> Box | None:
    """Convert a list or array of four numbers, whole ones to int; None if it is none."""
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != 4:
        return None
    if not all(map(is_number, value)) or any(LARGEST < abs(v) < math.inf for v in value):
        return None
    x, y, w, h = (int(v) if isinstance(v, numbers.Integral) else float(v) for v in value)
    return x, y, w, h


def is_number(value: Any) -> bool:
    """Tell whether a value is a real number, of Python or numpy; a truth value is none."""
    plain = type(value) is float or type(value) is int
    return plain or (isinstance(value, numbers.Real) and not isinstance(value, bool))


def _is_text(value: Any) -> bool:
    """Tell whether a value is a string that can be written in UTF-8 and is not empty."""
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
