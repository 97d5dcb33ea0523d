"""Check the segmentations of a COCO file, and write them as detectron2 takes them."""

from __future__ import annotations

import json

import msgspec

from resnext_det.files import show
from resnext_det.rle import FORMS, encode_segmentation, read_polygon

NOTHING, TOO_FEW_POINTS = b"null", b"[]"
"""The texts of an annotation without a segmentation, and with polygons of under 3 points only."""

_NEAR = 1e5  # coordinates times pixels; a polygon of less needs no closer look

_polygons = msgspec.json.Decoder(list[list[int | float]])


def normalize_segmentation(text: bytes, height: int, width: int) -> bytes:
    """Check a segmentation, and write it as detectron2 takes it.

    Polygons of an odd number of coordinates or of under 3 points are left out, and the counts of a
    run-length encoding are compressed.

    Args:
        text: in JSON.
        height, width: of the image.

    Returns:
        JSON without spaces, its integers still integers: a list of polygons or an encoding;
        ``NOTHING`` or ``TOO_FEW_POINTS``.

    Raises:
        ValueError: it is no segmentation of that image; the text tells how, to stand after its
            owner.
    """
    if text in (NOTHING, b"[]", b"{}"):
        return NOTHING
    try:
        if text[:1] == b"{":
            counts = encode_segmentation(msgspec.json.decode(text), height, width)
            return msgspec.json.encode({"size": [height, width], "counts": counts})
        polygons = _polygons.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise ValueError(f"has the segmentation {_show_text(text)}; write {FORMS}") from None
    kept = [each for each in polygons if len(each) % 2 == 0 and len(each) >= 6]
    for polygon in kept:
        if len(polygon) * max(-min(polygon), max(polygon)) > _NEAR:
            read_polygon(polygon)
    return msgspec.json.encode(kept)


def _show_text(text: bytes) -> str:
    try:
        return show(json.loads(text))
    except (ValueError, RecursionError):
        return show(text[:100].decode(errors="replace"))
