"""Read COCO results: check them, and number them as their annotations."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from resnext_det.data.annotations.coco_entries import (
    LARGEST,
    Box,
    Identity,
    Number,
    convert_box,
    convert_id,
    is_number,
)
from resnext_det.data.annotations.json_files import decode_entries, read_text, split_table
from resnext_det.evaluation.coco_files import (
    Detections,
    GroundTruth,
    find_positions,
    list_examples,
)
from resnext_det.evaluation.masks import Mask, convert_mask, find_boxes, measure_masks
from resnext_det.files import escape_controls, list_first, show

Results = str | Path | Sequence[Any]
"""A result file, or the list read from one."""

_NO_BOX = (math.nan,) * 4
_WITH_MASK = re.compile(rb'"segmentation"\s*:\s*(?!null|\[\s*\])')


class _Result(msgspec.Struct, gc=False):
    """Hold an entry of a result file; resnext-det predict adds the name of the image's file."""

    image_id: Identity
    category_id: Identity
    bbox: Box
    score: Number  # msgspec 0.19 fails on integers that float64 cannot hold
    file_name: Any = None


class _MaskedResult(msgspec.Struct, gc=False):
    """Hold an entry with a mask, of which the box may be left out."""

    image_id: Identity
    category_id: Identity
    score: Number
    segmentation: Mask
    bbox: Box | None = None
    file_name: Any = None


_Entry = _Result | _MaskedResult


def open_results(source: Results) -> tuple[str, Any]:
    """Open COCO results, and name them for messages.

    Returns:
        the name, and their entries, which ``read_detections`` takes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON.
    """
    if not isinstance(source, str | Path):
        return "results", source
    name = f"result file {source}"
    return name, split_table(read_text(Path(source), name), list, name)


def have_masks(entries: Any) -> bool:
    """Tell whether one of the entries that ``open_results`` gives has a mask."""
    if not isinstance(entries, Sequence):
        return False
    return any(
        _WITH_MASK.search(entry) is not None
        if isinstance(entry, msgspec.Raw)
        else isinstance(entry, Mapping) and bool(entry.get("segmentation"))
        for entry in entries
    )


def read_detections(source: Results, truth: GroundTruth, name: str = "") -> Detections:
    """Check and number COCO results: a path or a list of dicts, see ``evaluate_coco``.

    Their masks are read where the ground truth was read with masks; no results are no masks.

    Args:
        name: of entries that ``open_results`` gave.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of COCO's form, or an id is unknown; the text names the entry.
    """
    opened, data = open_results(source)
    name = name or opened
    if not isinstance(data, Sequence) or isinstance(data, str):
        swapped = isinstance(data, Mapping) and "annotations" in data
        remedy = "that is an annotation file: give the annotations first and the results second"
        raise ValueError(
            f"{name} holds a {type(data).__name__} where COCO results are a list of dicts; "
            + (remedy if swapped else "give a list of {image_id, category_id, bbox, score}")
        )
    masked = truth.masks is not None and (not data or have_masks(data))
    image_ids: list[Any] = []
    category_ids: list[Any] = []
    file_names: list[Any] = []
    masks: list[Mask] = []
    boxes, scores = [np.empty((0, 4))], [np.empty(0)]
    kind: type[_Entry] = _MaskedResult if masked else _Result
    for batch in _decode_results(data, name, kind):
        image_ids += [entry.image_id for entry in batch]
        file_names += [entry.file_name for entry in batch]
        category_ids += [entry.category_id for entry in batch]
        boxes.append(np.array([entry.bbox or _NO_BOX for entry in batch], np.float64))
        scores.append(np.array([entry.score for entry in batch], np.float64))
        masks += [entry.segmentation for entry in batch if isinstance(entry, _MaskedResult)]
    images = find_positions(image_ids, truth.image_ids)
    if (images < 0).any():
        unknown = [image_ids[i] for i in np.flatnonzero(images < 0)]
        raise ValueError(_explain_unknown_images(unknown, len(data), name, truth))
    _check_file_names(file_names, images, name, truth)
    categories = find_positions(category_ids, truth.category_ids)
    if (categories < 0).any():
        index = int(np.flatnonzero(categories < 0)[0])
        raise ValueError(_explain_unknown_category(category_ids[index], index, name, truth))
    found = Detections(images, categories, np.concatenate(boxes), np.concatenate(scores))
    return _add_masks(found, masks, truth, name) if masked else found


def _add_masks(
    found: Detections, masks: Sequence[Mask], truth: GroundTruth, name: str
) -> Detections:
    """Check the masks and add them, and the boxes around them where a result has none."""
    areas = measure_masks(masks, truth.sizes[found.images], name)
    boxless = np.flatnonzero(np.isnan(found.boxes[:, 0])).tolist()
    found.boxes[boxless] = find_boxes([masks[index] for index in boxless])
    counts = np.empty(len(masks), object)
    counts[:] = [mask.counts for mask in masks]
    return replace(found, masks=counts, mask_areas=areas)


def _decode_results(data: Sequence[Any], name: str, kind: type[_Entry]) -> Iterator[list[_Entry]]:
    """Decode results from a file, or convert those of a list: at once where all are plain."""
    if data and not isinstance(data[0], msgspec.Raw):
        with contextlib.suppress(msgspec.ValidationError):
            results: list[_Entry] = msgspec.convert(data, list[kind])  # type: ignore[valid-type]
            rows = [(*(result.bbox or (0.0,) * 4), result.score) for result in results]
            if np.isfinite(rows).all():
                yield results
                return
    yield from decode_entries(data, kind, partial(_check_result, name, kind), "the list", name)


def _check_result(name: str, kind: type[_Entry], entry: Mapping[str, Any], index: int) -> _Entry:
    """Convert an entry of results that JSON's types do not fit, or raise ValueError."""
    values: dict[str, Any] = {}
    for key, (convert, wanted) in _RESULT.items():
        masked = kind is _MaskedResult
        if (key == "segmentation" and not masked) or (
            key == "bbox" and masked and key not in entry
        ):
            continue
        if key not in entry:
            fault = f"lacks {key!r}; it has {list_first(map(str, entry), 10)}"
        else:
            values[key] = convert(entry[key])
            fault = f"has {key} {show(entry[key])}; it has to be {wanted}"
        if values.get(key) is None:
            raise ValueError(escape_controls(f"entry {index} of {name} {fault}"))
    return kind(**values)


def _convert_finite_box(value: Any) -> Box | None:
    box = convert_box(value)
    return box if box is not None and all(map(math.isfinite, box)) else None


def _convert_score(value: Any) -> float | None:
    return float(value) if is_number(value) and abs(value) <= LARGEST else None


_RESULT: dict[str, tuple[Callable[[Any], Any], str]] = {
    "image_id": (convert_id, "an integer"),
    "category_id": (convert_id, "an integer"),
    "bbox": (_convert_finite_box, "four finite numbers: x, y, width, height"),
    "score": (_convert_score, "a finite number"),
    "segmentation": (
        convert_mask,
        "a compressed run-length encoding {size: [height, width], counts: text}, as of the others; "
        "pycocotools.mask makes it of polygons (frPyObjects, merge)",
    ),
}


def _check_file_names(
    file_names: Sequence[Any], images: np.ndarray, name: str, truth: GroundTruth
) -> None:
    """Refuse results that say the files of other images than those that have their ids."""
    pairs = [
        (index, said, truth.file_names[image])
        for index, (said, image) in enumerate(zip(file_names, images, strict=True))
        if isinstance(said, str) and truth.file_names and truth.file_names[image]
    ]
    others = [pair for pair in pairs if Path(pair[1]).stem != Path(pair[2]).stem]
    if 2 * len(others) > len(pairs):  # a few may be links to files of other names
        index, said, known = others[0]
        raise ValueError(
            f"entry {index} of {name} is of the file {said}, but its image_id is that of {known} "
            f"in {truth.name} (so it is for {len(others)} of {len(pairs)} entries): the ids are "
            "not those of these annotations; give them to resnext-det predict by --register-coco"
        )


def _explain_unknown_images(unknown: list[Any], number: int, name: str, truth: GroundTruth) -> str:
    listed = {type(i) for i in truth.image_ids}
    if type(unknown[0]) not in listed and str(unknown[0]) in map(str, truth.image_ids):
        remedy = f"write image ids as {next(iter(listed)).__name__}, as the annotations do"
    elif len(unknown) == number:
        remedy = "the two files are of different data sets: give the annotations of these results"
    else:
        remedy = "the annotations seem to be a part of the set: give the whole, or fewer results"
    return (
        f"{name}: image id {unknown[0]!r} is not in {truth.name} "
        f"({list_examples(truth.image_ids)}); so it is for {len(unknown)} of {number} results; "
        f"{remedy}"
    )


def _explain_unknown_category(category: Any, index: int, name: str, truth: GroundTruth) -> str:
    if isinstance(category, int) and 0 <= category < len(truth.category_ids):
        remedy = (
            "the results seem to count classes from 0: write the ids of the annotation file, as "
            "resnext-det predict does with --register-coco"
        )
    else:
        remedy = "write ids of the annotation file, or give that of the detector's own classes"
    return (
        f"entry {index} of {name} has category_id {category!r}, which {truth.name} does not list "
        f"({list_examples(truth.category_ids)}); {remedy}"
    )
