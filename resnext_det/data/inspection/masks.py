"""Look at the masks of a dataset: whether each object has one, of the right format, in its box."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from resnext_det.data.inspection.box_forms import collect_boxes, describe_image, list_annotations
from resnext_det.data.records import Records, Segmentations

logger = logging.getLogger(__name__)

_LOOKED_AT = 2000  # masks, evenly chosen, which takes a tenth of a second
_APART = 0.5  # IoU of a box with that around its mask, below which they are of different things


def find_mask_faults(records: Records, mask_format: str) -> list[str]:
    """Find objects that have no mask, or an encoding where polygons are trained on.

    Crowds, which training leaves out, may have either.

    Args:
        records: with segmentations.
        mask_format: "polygon" or "bitmask".

    Returns:
        a sentence for each kind of fault, with the count, the first example and the remedy.
    """
    assert records.segmentations is not None
    rows, owners = list_annotations(records)
    kinds = records.segmentations.find_kinds()[rows]
    single = ~records.crowds[rows]
    remedies = {
        ord("n"): "have no segmentation, on which MODEL.MASK_ON = True trains, the first is in {}; "
        "write polygons or a run-length encoding for each, or MODEL.MASK_ON False",
    }
    if mask_format == "polygon":
        remedies[ord("{")] = (
            "have run-length encodings, which INPUT.MASK_FORMAT = 'polygon' does not take, the "
            "first is in {}; write INPUT.MASK_FORMAT bitmask"
        )
    sentences = []
    for kind, text in remedies.items():
        found = np.flatnonzero(single & (kinds == kind))
        if len(found):
            first = describe_image(records, owners[found[0]])
            sentences.append(f"{len(found)} of {single.sum()} objects {text.format(first)}")
    return sentences


def warn_of_masks(records: Records, source: str, *, everything: bool = False) -> None:
    """Warn of masks that are not where their boxes are, as where x and y are exchanged.

    Args:
        records: with segmentations, or there is nothing to warn of.
        source: begins the message.
        everything: look at every mask; else at some, evenly chosen.
    """
    if records.segmentations is None:
        return
    table = collect_boxes(records)
    rows, _ = list_annotations(records)
    kinds = records.segmentations.find_kinds()[rows]
    looked = np.flatnonzero(~table.crowds & (kinds != ord("n")))
    if not everything:
        looked = looked[np.linspace(0, len(looked) - 1, min(len(looked), _LOOKED_AT), dtype=int)]
    around = _measure_masks(records.segmentations, rows[looked])
    boxes = np.hstack([table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]])[looked]
    apart = _compute_ious(boxes, around) < _APART
    if apart.any():
        first = looked[apart.argmax()]
        logger.warning(
            "%s: %d of %d masks that were looked at are not where their boxes are, the first is "
            "in %s, with the box %s (x, y, width, height) and a mask from (%.1f, %.1f) to (%.1f, "
            "%.1f); both are trained on: correct the segmentation or the bbox",
            *(source, apart.sum(), len(looked), describe_image(records, table.owners[first])),
            *(table.boxes[first].tolist(), *around[apart.argmax()]),
        )


def _measure_masks(segmentations: Segmentations, rows: np.ndarray) -> np.ndarray:
    """Find the boxes around masks: float64 (N, 4), x0, y0, x1, y1."""
    from pycocotools.mask import toBbox

    around = np.zeros((len(rows), 4))
    for box, row in zip(around, rows.tolist()):
        mask = segmentations[row]
        if isinstance(mask, Mapping):
            x, y, width, height = toBbox(mask)
            box[:] = x, y, x + width, y + height
        elif mask:
            points = np.concatenate(mask).reshape(-1, 2)
            box[:] = *points.min(axis=0), *points.max(axis=0)
    return around


def _compute_ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute the IoU of boxes (N, 4), x0, y0, x1, y1, each with its other; 1 for two points."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, 2:], others[:, 2:])
    common = np.maximum(high - low, 0).prod(axis=1)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (boxes, others)]
    union = areas[0] + areas[1] - common
    return np.divide(common, union, out=np.ones(len(boxes)), where=union > 0)
