"""Describe what training sets hold, so that a resumed training notices that they have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.inspection.missing_files import shorten_name
from resnext_det.data.records import Record, pack_records

Contents = dict[str, int | str]
"""Counts and digests (SHA-256, hexadecimal), by what they are of, in the plural."""


def describe_records(records: Sequence[Record], image_dir: Path) -> Contents:
    """Describe a detector's training set by all that is read of it but pixels and proposals.

    Args:
        records: detectron2's standard dicts.
        image_dir: of the images; it may be another one when the set is described again.

    Returns:
        the numbers of images and boxes; digests of the images' ids, file names and sizes, and of
        the boxes (with the crowds), the classes and, where they were read, the masks of each image.
    """
    packed = pack_records(records)
    counts = packed.spans[:, 1] - packed.spans[:, 0]
    contents: Contents = {
        "images": len(packed),
        "boxes": int(counts.sum()),
        "image ids": _hash(map(repr, packed.image_ids)),
        "file names": _hash(shorten_name(name, image_dir) for name in packed.file_names),
        "image sizes": _hash([packed.sizes]),
        "coordinates of boxes": _hash([counts, packed.boxes, packed.crowds]),
        "classes of boxes": _hash([packed.categories]),
    }
    if packed.segmentations is not None:
        masks = packed.segmentations
        of_images = (index for begin, end in packed.spans.tolist() for index in range(begin, end))
        contents["masks"] = _hash(str(masks.text(index), "utf-8") for index in of_images)
    return contents


def describe_images(images: ImageSet) -> Contents:
    """Describe a classifier's training set by all that is read of it but pixels."""
    return {
        "images": len(images),
        "file names": _hash(images.name_image(index) for index in range(len(images))),
        "labels": _hash([images.labels]),
    }


def _hash(parts: Iterable[np.ndarray | str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(part.tobytes())
        else:  # the name of a file may be no Unicode; none holds a null character
            digest.update(f"{part}\0".encode(errors="surrogatepass"))
    return digest.hexdigest()
