"""Look at the masks of a dataset: whether each object has one, of the right format, in its box."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from resnext_det.data.inspection.box_forms import collect_boxes, describe_image, list_annotations
from resnext_det.data.overlaps import compute_ious
from resnext_det.data.records import SMALLEST_SIDE, Records, Segmentations

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
    solid = (table.boxes[:, 2:] > SMALLEST_SIDE).all(axis=1)  # others are left out in training
    looked = np.flatnonzero(~table.crowds & solid & (kinds != ord("n")))
    if not everything:
        looked = looked[np.linspace(0, len(looked) - 1, min(len(looked), _LOOKED_AT), dtype=int)]
    around = _measure_masks(records.segmentations, rows[looked])
    apart = compute_ious(table.boxes[looked], around) < _APART
    if apart.any():
        first = looked[apart.argmax()]
        logger.warning(
            "%s: %d of %d masks that were looked at are not where their boxes are, the first is "
            "in %s, with the box %s and a mask whose box is %s (x, y, width, height); both are "
            "trained on: correct the segmentation or the bbox",
            *(source, apart.sum(), len(looked), describe_image(records, table.owners[first])),
            *(table.boxes[first].tolist(), around[apart.argmax()].tolist()),
        )


def _measure_masks(segmentations: Segmentations, rows: np.ndarray) -> np.ndarray:
    """Find the boxes around masks: float64 (N, 4), x, y, width, height."""
    from pycocotools.mask import toBbox

    around = np.zeros((len(rows), 4))
    for box, row in zip(around, rows.tolist()):
        mask = segmentations[row]
        if isinstance(mask, Mapping):
            box[:] = toBbox(mask)
        elif mask:
            points = np.concatenate(mask).reshape(-1, 2)
            box[:] = *points.min(axis=0), *np.ptp(points, axis=0)
    return around


def warn_of_untested_masks(records: Records, source: str) -> None:
    """Warn where an evaluation will leave masks out, because annotations have none.

    Args:
        records: of a test set, with segmentations, or there is nothing to warn of.
        source: begins the message.
    """
    if records.segmentations is None:
        return
    lacking = count_lacking(records)
    if lacking:
        logger.warning(
            "%s: %d of %d annotations have no segmentation, so that its evaluations are of boxes "
            "alone; write one for each to have the AP of masks",
            *(source, lacking, len(list_annotations(records)[0])),
        )


def count_lacking(records: Records) -> int:
    """Count the annotations that have no mask, crowds among them; of records with segmentations."""
    assert records.segmentations is not None
    rows, _ = list_annotations(records)
    return int((records.segmentations.find_kinds()[rows] == ord("n")).sum())
