"""Write, read and transform region proposals, in detectron2's files.

One network computes them and another uses them. A file is a pickle of {"ids": [...], "boxes": [(N,
4) arrays], "objectness_logits": [(N,) arrays], "bbox_mode": 0}; the boxes are x0, y0, x1, y1 in
pixels of the image as it lies on the disk. Reading one runs no code.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnext_det.data.geometry import Step, move_boxes
from resnext_det.data.records import XYWH_ABS, Record
from resnext_det.files import list_first, write_file
from resnext_det.instances import Boxes, Instances
from resnext_det.weights.published.model_zoo import is_in_zoo, locate_zoo_file
from resnext_det.weights.unpickling.descriptions import describe_object
from resnext_det.weights.unpickling.pickle_files import read_plain_pickle

XYXY_ABS = 0  # detectron2's BoxMode.XYXY_ABS
KEYS = ("proposal_boxes", "proposal_objectness_logits", "proposal_bbox_mode")
"""The keys that proposals add to a record, as in detectron2."""

Proposals = Mapping[Any, tuple[np.ndarray, np.ndarray]]
"""Image id -> boxes (N, 4), x0, y0, x1, y1 in pixels of the original image, and logits (N,)."""

_WRITTEN_BY_DETECTRON = {"indexes": "ids", "scores": "objectness_logits"}
_COLUMNS = ("ids", "boxes", "objectness_logits")
_OUTSIDE = 1.0  # pixels that a box may exceed its image by: some count the last pixel, some its end
_FORM = (
    'write a dict with lists "ids", "boxes" and "objectness_logits", as detectron2\'s '
    "box_proposals.pkl has"
)
_MOST_BITS = 128  # of an image's id that is a number


def write_proposals(path: str | Path, proposals: Proposals) -> None:
    """Write a file that ``read_proposals`` and detectron2 read; it appears whole or not at all."""
    contents = {
        "ids": list(proposals),
        "boxes": [boxes for boxes, _ in proposals.values()],
        "objectness_logits": [logits for _, logits in proposals.values()],
        "bbox_mode": XYXY_ABS,
    }
    try:
        # Protocol 5 writes arrays without a copy of them in memory.
        write_file(Path(path), lambda file: pickle.dump(contents, file, protocol=5))
    except OSError as error:
        raise OSError(
            f"proposals {path} could not be written ({error}); make room on that disk, or choose "
            "another OUTPUT_DIR"
        ) from error


def read_proposals(path: str | Path) -> Proposals:
    """Read a file of detectron2, of Detectron (``indexes``, ``scores``), or of ``write_proposals``.

    Args:
        path: of the file, or ``detectron2://...pkl`` for one of detectron2's model zoo, which is
            downloaded on first use.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, asks for code, is no file of proposals, or names an image twice;
            a box or logit is not finite.
    """
    if is_in_zoo(str(path)):
        path = locate_zoo_file(str(path))
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"proposals {path} are not there, and nothing is downloaded; write them with "
            "resnext-det two-step, or give another path in DATASETS.PROPOSAL_FILES_TRAIN and "
            "PROPOSAL_FILES_TEST"
        )
    ids, boxes, logits, mode = _split_columns(read_plain_pickle(path), path)
    found: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
    for identity, image_boxes, image_logits in zip(ids, boxes, logits):
        too_long = isinstance(identity, int) and identity.bit_length() > _MOST_BITS
        if too_long or not isinstance(identity, str | int | float | np.number):
            raise ValueError(
                f"proposals {path}: an image's id is {describe_object(identity)}"
                f"{' of very many digits' if too_long else ''}; write the dataset's image ids, "
                "which are numbers or texts"
            )
        where = f"proposals {path}, image {identity!r}"
        if identity in found:
            raise ValueError(
                f"proposals {path}: image {identity!r} stands there twice; write each image once"
            )
        found[identity] = _convert(image_boxes, image_logits, mode, where)
    return found


def add_proposals(records: Sequence[Record], path: str | Path, *, name: str) -> list[Record]:
    """Add the proposals of a file, best first, to the records of a dataset.

    Equals detectron2's ``load_proposals_into_dataset``.

    Args:
        records: detectron2's standard dicts.
        path: the file; images that the records do not have are passed over.
        name: of the dataset, for messages.

    Returns:
        New records, with ``KEYS`` besides.

    Raises:
        FileNotFoundError, ValueError: see ``read_proposals``; an image has no proposals in the
            file, or such that lie outside of it.
    """
    found = {str(identity): proposals for identity, proposals in read_proposals(path).items()}
    missing = [record for record in records if str(record["image_id"]) not in found]
    if missing:
        some = (
            f"it has {len(found)} images, such as {list_first(found, 3)}"
            if found
            else "it has none"
        )
        raise ValueError(
            f"proposals {path}: image {missing[0]['image_id']} ({missing[0]['file_name']}) of "
            f"dataset {name!r} is not there, and so it is for {len(missing)} of {len(records)} "
            f"images; {some}; give the file that was computed on {name!r} in "
            "DATASETS.PROPOSAL_FILES_*"
        )
    completed = []
    for record in records:
        boxes, logits = found.pop(str(record["image_id"]))
        _check_inside(boxes, record, f"proposals {path}, dataset {name!r}")
        order = logits.argsort()[::-1]  # as detectron2 sorts, also among equal logits
        completed.append({**record, **dict(zip(KEYS, (boxes[order], logits[order], XYXY_ABS)))})
    return completed


def transform_proposals(
    record: Record, size: tuple[int, int], steps: Sequence[Step], *, topk: int
) -> Instances:
    """Transform a record's proposals along with its image, as detectron2 does to the last bit.

    Args:
        record: one of ``add_proposals``.
        size: (height, width) of the transformed image.
        steps: that the image went through.
        topk: how many of the boxes that are not empty in the transformed image are kept.

    Returns:
        ``proposal_boxes`` and ``objectness_logits``, float32, best first.
    """
    height, width = size
    moved = move_boxes(steps, np.array(record["proposal_boxes"]))  # in the file's number format
    boxes = torch.from_numpy(moved.astype(np.float32))
    boxes[:, 0::2].clamp_(min=0, max=width)
    boxes[:, 1::2].clamp_(min=0, max=height)
    logits = torch.from_numpy(record["proposal_objectness_logits"].astype(np.float32))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return Instances(
        size, proposal_boxes=Boxes(boxes[kept][:topk]), objectness_logits=logits[kept][:topk]
    )


def _split_columns(contents: Any, path: Path) -> tuple[list[Any], list[Any], list[Any], int]:
    """Check a file's contents and return ids, boxes, objectness_logits and bbox_mode."""
    if not isinstance(contents, dict):
        raise ValueError(f"proposals {path} hold a {type(contents).__name__}; {_FORM}")
    contents = {_WRITTEN_BY_DETECTRON.get(key, key): value for key, value in contents.items()}
    columns = [contents.get(key) for key in _COLUMNS]
    if not all(isinstance(column, (list, tuple, np.ndarray)) for column in columns):
        raise ValueError(
            f"proposals {path} have the keys {list_first(map(str, contents), 8)}; {_FORM}"
        )
    ids, boxes, logits = ([*column] for column in columns if column is not None)
    if not len(ids) == len(boxes) == len(logits):
        raise ValueError(
            f"proposals {path} have {len(ids)} ids, {len(boxes)} boxes and {len(logits)} "
            "objectness_logits; write one of each an image"
        )
    mode = contents.get("bbox_mode", XYXY_ABS)
    if not isinstance(mode, int | np.integer) or mode not in (XYXY_ABS, XYWH_ABS):
        shown = f"{mode:d}" if isinstance(mode, int) else describe_object(mode)
        raise ValueError(
            f"proposals {path} have bbox_mode {shown:.100}; write 0 (x0, y0, x1, y1) or 1 (x, y, "
            "width, height), in pixels"
        )
    return ids, boxes, logits, int(mode)


def _convert(boxes: Any, logits: Any, mode: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Check the proposals of an image, and convert boxes to corners."""
    for array, key, shape in ((boxes, "boxes", "(N, 4)"), (logits, "objectness_logits", "(N,)")):
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            kind = array.dtype if isinstance(array, np.ndarray) else describe_object(array)
            raise ValueError(
                f"{where}: {key} are {kind}; write numpy arrays of float32, of the shape {shape}"
            )
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or logits.shape != boxes.shape[:1]:
        raise ValueError(
            f"{where}: boxes have the shape {boxes.shape} and objectness_logits {logits.shape}; "
            "write (N, 4) and (N,)"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(logits).all()):
        raise ValueError(f"{where}: a box or a logit is not finite; leave such proposals out")
    if mode == XYWH_ABS:
        boxes = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    return boxes, logits


def _check_inside(boxes: np.ndarray, record: Record, where: str) -> None:
    """Refuse boxes of another or a resized image, which would be clipped in silence."""
    size = np.array([record["width"], record["height"]] * 2)
    outside = ((boxes < -_OUTSIDE) | (boxes > size + _OUTSIDE)).any(axis=1)
    if outside.any():
        box = boxes[int(outside.argmax())].tolist()
        raise ValueError(
            f"{where}: box {box} of image {record['image_id']} lies outside of "
            f"{record['file_name']}, which is {record['width']} x {record['height']}, and so do "
            f"{outside.sum() - 1} more; give the file that was computed on this dataset, with "
            "boxes in pixels of the original image"
        )
