"""COCO annotations and results, read, checked, and brought into one plain form for every backend.

What pycocotools passes over or stumbles upon (unknown ids, numbers that are not finite, missing
fields, an empty list) is decided here, with an error that names the entry.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

Source = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class GroundTruth:
    """Annotations with images and categories numbered from 0 in the order of their sorted ids.

    ``boxes`` has the shape (N, 4) as x, y, w, h, the other arrays (N,); ``id_is_zero`` tells which
    annotations have the id 0.
    """

    name: str
    image_ids: list[Any]
    category_ids: list[Any]
    class_names: tuple[str, ...]
    id_is_zero: np.ndarray
    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class Detections:
    """Results in the numbering of their ground truth.

    ``boxes`` has the shape (N, 4) as x, y, w, h, the other arrays (N,).
    """

    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def _read_json(path: str | Path, kind: str) -> Any:
    file = f"{kind} file {path}"
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} does not exist; give the path of a JSON file") from None
    except IsADirectoryError:
        raise ValueError(f"{file} is a folder; give the path of a JSON file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not text; give a JSON file in COCO's form") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file} is not JSON at line {error.lineno}, column {error.colno}: {error.msg}; "
            "it may be cut off, write it again"
        ) from None


def read_ground_truth(source: Source) -> GroundTruth:
    """Check and number the annotations of a COCO file (a path) or of the dict read from one.

    A missing ``iscrowd`` is 0 and a missing ``area`` that of the box. Annotations of images or
    categories that the file does not list are left out with a warning, as pycocotools leaves them
    out in silence.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of COCO's form; the text names the entry.
    """
    name = "annotations" if isinstance(source, Mapping) else str(source)
    data = source if isinstance(source, Mapping) else _read_json(source, "annotation")
    if isinstance(data, list):
        raise ValueError(
            f"{name} holds a list where COCO annotations are a dict with images, annotations and "
            "categories; give the annotations first and the results second"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, Mapping) or not isinstance(data.get(key), list):
            raise ValueError(f"{name} has no list {key!r}; give COCO instance annotations")
    image_ids = _sort_ids(data["images"], "image", name)
    category_ids = _sort_ids(data["categories"], "category", name)
    if not category_ids:
        raise ValueError(f"{name} lists no category; give COCO instance annotations")
    names = {entry["id"]: str(entry.get("name", entry["id"])) for entry in data["categories"]}
    entries, listed = data["annotations"], f"annotations of {name}"
    ids = _read_column(entries, "id", listed)
    if len(set(ids)) < len(ids):
        # COCO's own minival files repeat ids, which detectron2 tolerates there too.
        if "minival" not in name:
            raise ValueError(
                f"{name} gives one id to several annotations; number them from 1, each once"
            )
        logger.warning("%s gives one id to several annotations; each counts by itself.", name)
    boxes = _read_numbers(entries, "bbox", listed, (4,))
    areas = np.array([entry.get("area", np.nan) for entry in entries], np.float64)
    truth = GroundTruth(
        name=name,
        image_ids=image_ids,
        category_ids=category_ids,
        class_names=tuple(names[i] for i in category_ids),
        id_is_zero=np.array([value == 0 for value in ids], bool),
        images=_find_positions(_read_column(entries, "image_id", listed), image_ids),
        categories=_find_positions(_read_column(entries, "category_id", listed), category_ids),
        boxes=boxes,
        areas=np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
        crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in entries], np.int64),
    )
    return _drop_strays(truth)


def read_detections(
    source: str | Path | Sequence[Mapping[str, Any]], truth: GroundTruth
) -> Detections:
    """Check and number COCO results: a path or a list of dicts, see ``evaluate_coco``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of COCO's form, or an id is unknown; the text names the entry.
    """
    name = str(source) if isinstance(source, str | Path) else "results"
    data: Any = _read_json(source, "result") if isinstance(source, str | Path) else source
    if not isinstance(data, Sequence) or isinstance(data, str):
        swapped = isinstance(data, Mapping) and "annotations" in data
        remedy = "that is an annotation file: give the annotations first and the results second"
        raise ValueError(
            f"{name} holds a {type(data).__name__} where COCO results are a list of dicts; "
            + (remedy if swapped else "give a list of {image_id, category_id, bbox, score}")
        )
    boxes = _read_numbers(data, "bbox", name, (4,))
    scores = _read_numbers(data, "score", name, ())
    image_ids = _read_column(data, "image_id", name)
    category_ids = _read_column(data, "category_id", name)
    images = _find_positions(image_ids, truth.image_ids)
    if (images < 0).any():
        unknown = [image_ids[i] for i in np.flatnonzero(images < 0)]
        raise ValueError(_explain_unknown_images(unknown, len(data), name, truth))
    categories = _find_positions(category_ids, truth.category_ids)
    if (categories < 0).any():
        index = int(np.flatnonzero(categories < 0)[0])
        raise ValueError(_explain_unknown_category(category_ids[index], index, name, truth))
    return Detections(images, categories, boxes, scores)


def find_images(image_ids: Iterable[Any], truth: GroundTruth) -> np.ndarray:
    """Find the numbers of some image ids, ascending; a ValueError names an unknown one."""
    chosen = list(image_ids)
    positions = _find_positions(chosen, truth.image_ids)
    if (positions < 0).any():
        unknown = chosen[int(np.flatnonzero(positions < 0)[0])]
        raise ValueError(
            f"image_ids holds {unknown!r}, which {truth.name} does not list "
            f"({_list_examples(truth.image_ids)}); give ids of its images"
        )
    return np.unique(positions)


def _sort_ids(entries: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[Any]:
    ids = _read_column(entries, "id", f"the {kind} list of {name}")
    if len(set(ids)) < len(ids):
        raise ValueError(f"{name} lists one {kind} id several times; list every {kind} once")
    try:
        return sorted(ids)
    except TypeError:
        raise ValueError(f"{name} mixes {kind} ids of several types; write integers") from None


def _read_column(entries: Sequence[Any], key: str, name: str) -> list[Any]:
    """Read one value of every entry; a ValueError names the first entry that has none."""
    try:
        return [entry[key] for entry in entries]
    except (KeyError, TypeError, IndexError):
        pass
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise ValueError(
                f"entry {index} of {name} is {entry!r}; it has to be a dict with {key!r}"
            )
        if key not in entry:
            raise ValueError(
                f"entry {index} of {name} lacks {key!r}; it has {', '.join(map(str, entry))}"
            )
    raise AssertionError(f"{key} of {name}")


def _find_positions(ids: Sequence[Any], known: Sequence[Any]) -> np.ndarray:
    """Find the position of every id among the known ones, -1 where it is not among them."""
    lookup = {value: position for position, value in enumerate(known)}
    return np.array([lookup.get(value, -1) for value in ids], np.int64)


def _read_numbers(
    entries: Sequence[Any], key: str, name: str, shape: tuple[int, ...]
) -> np.ndarray:
    """Read a key of every entry as float64; a ValueError names the first that is not of the shape.

    Args:
        shape: of one entry's value: (), or (4,) for a box.
    """
    values = _read_column(entries, key, name)
    if not values:
        return np.empty((0, *shape))
    array = _to_floats(values)
    if array.shape == (len(values), *shape) and np.isfinite(array).all():
        return array
    wanted = "four finite numbers: x, y, width, height" if shape else "a finite number"
    for index, value in enumerate(values):
        array = _to_floats(value)
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f"entry {index} of {name} has {key} {value!r}; it has to be {wanted}")
    raise AssertionError(f"{key} of {name}")


def _to_floats(values: Any) -> np.ndarray:
    """Convert to float64; nan where a value is no number, or lists have several lengths."""
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        return np.array(np.nan)


def _drop_strays(truth: GroundTruth) -> GroundTruth:
    """Leave out annotations of unknown images and categories, with a warning."""
    known = (truth.images >= 0) & (truth.categories >= 0)
    if known.all():
        return truth
    logger.warning(
        "%s: %d of %d annotations belong to images or categories that it does not list; they are "
        "left out.",
        truth.name,
        len(known) - known.sum(),
        len(known),
    )
    fields = ("id_is_zero", "images", "categories", "boxes", "areas", "crowd")
    return replace(truth, **{field: getattr(truth, field)[known] for field in fields})


def _list_examples(ids: Sequence[Any]) -> str:
    examples = ", ".join(map(repr, ids[:3]))
    return f"it lists {len(ids)}, such as {examples}" if ids else "it lists none"


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
        f"({_list_examples(truth.image_ids)}); so it is for {len(unknown)} of {number} results; "
        f"{remedy}"
    )


def _explain_unknown_category(category: Any, index: int, name: str, truth: GroundTruth) -> str:
    if isinstance(category, int) and 0 <= category < len(truth.category_ids):
        remedy = "the results seem to count classes from 0: write the ids of the annotation file"
    else:
        remedy = "write ids of the annotation file, or give that of the detector's own classes"
    return (
        f"entry {index} of {name} has category_id {category!r}, which {truth.name} does not list "
        f"({_list_examples(truth.category_ids)}); {remedy}"
    )
