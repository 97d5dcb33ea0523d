"""Find objects that are too small for the detector, and anchors that do not fit them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnext_det.data.anchor_fit import suggest_anchors
from resnext_det.report.faults.cause import Cause
from resnext_det.report.faults.measurements import Measurements

_TINY = 16  # pixels; two cells of the finest usual feature map
_SHARE_TINY = 0.2
_SHRUNK = 0.67  # images that are shown to the detector at less than this are larger than that
_UNMATCHED = 0.15
_SAMPLE = 20_000  # boxes that anchors are proposed for


def find_tiny_objects(measured: Measurements) -> Cause | None:
    """Find objects that the detector sees in a few pixels, in a set that has larger ones or not."""
    test = measured.test
    if test is None or not test.num_objects:
        return None
    sides = test.measure_sizes()
    tiny = sides < _TINY
    share = float(tiny.mean())
    if share < _SHARE_TINY:
        return None
    scale = float(np.median(test.measure_scales()))
    height, width = np.median(test.image_sizes, axis=0).astype(int)
    seen = np.median(test.view_sizes, axis=0).astype(int)
    evidence = (
        f"{share:.0%} of the test objects have less than {_TINY} pixels a side as the detector "
        f"sees them (half have {np.median(sides):.0f} or less)"
    )
    evidence += _tell_recall(measured)
    weight = _estimate_loss(measured, share)
    if scale < _SHRUNK:
        wanted = min(1.0, 1.5 * _TINY * scale / float(np.median(sides[tiny])))
        side = round(min(height, width) * wanted / 32) * 32
        return Cause(
            "Images are much larger than the size at which they are tested",
            f"Images of {width} x {height} pixels are shrunk to {seen[1]} x {seen[0]}. {evidence}.",
            f"Train and test larger: INPUT.MIN_SIZE_TRAIN ({side},) INPUT.MIN_SIZE_TEST {side}, "
            f"and INPUT.MAX_SIZE_TRAIN and MAX_SIZE_TEST {_keep_shape(side, height, width)}; or "
            "cut the images into tiles.",
            weight,
        )
    factor = 1.5 * _TINY / float(np.median(sides[tiny]))
    side = round(min(seen) * factor / 32) * 32
    return Cause(
        "Objects are tiny",
        f"{evidence}; the finest anchor has {_find_finest(measured)}.",
        f"Enlarge the images: INPUT.MIN_SIZE_TRAIN ({side},) INPUT.MIN_SIZE_TEST {side}, and "
        f"INPUT.MAX_SIZE_TRAIN and MAX_SIZE_TEST {_keep_shape(side, height, width)}; or add a "
        "finer level, p2, with smaller anchors (MODEL.FPN.IN_FEATURES, MODEL.RPN.IN_FEATURES, "
        "MODEL.ROI_HEADS.IN_FEATURES, MODEL.ANCHOR_GENERATOR.SIZES).",
        weight,
    )


def _keep_shape(side: int, height: int, width: int) -> int:
    return round(side * max(height, width) / min(height, width))


def _find_finest(measured: Measurements) -> str:
    sizes = measured.get("MODEL.ANCHOR_GENERATOR.SIZES")
    return f"{min(min(level) for level in sizes):g} pixels" if sizes else "a size not known"


def _tell_recall(measured: Measurements) -> str:
    found = measured.found
    if found is None or not len(found.sides):
        return ""
    tiny, hit = found.sides < _TINY, found.reached >= 0.5
    if tiny.all() or not tiny.any():
        return f"; {hit.mean():.0%} of all are found"
    return f"; {hit[tiny].mean():.0%} of these are found, and {hit[~tiny].mean():.0%} of the others"


def _estimate_loss(measured: Measurements, share: float) -> float:
    """Estimate the points of AP that the tiny objects cost, from how much rarer they are found."""
    found = measured.found
    if found is None or not len(found.sides):
        return share * measured.lacking
    tiny, hit = found.sides < _TINY, found.reached >= 0.5
    if tiny.all() or not tiny.any():
        return share * measured.lacking
    behind = float(hit[~tiny].mean() - hit[tiny].mean())
    return max(100 * float(tiny.mean()) * behind, share**2 * measured.lacking)


def find_ill_anchors(measured: Measurements) -> Cause | None:
    """Find objects that no anchor overlaps, though they are large enough to be seen."""
    train = measured.train or measured.test
    if train is None or train.anchor_ious is None or train.view.anchors is None:
        return None
    if not train.num_objects:
        return None
    sizes = measured.get("MODEL.ANCHOR_GENERATOR.SIZES")
    thresholds = measured.get("MODEL.RPN.IOU_THRESHOLDS") or [0.3]
    least = float(thresholds[0])
    sides = train.measure_sizes()
    large = sides >= _TINY
    unmatched = large & (train.anchor_ious < least)
    share = float(unmatched.mean())
    if share < _UNMATCHED or sizes is None:
        return None
    finest, coarsest = (pick(pick(level) for level in sizes) for pick in (min, max))
    step = -(-train.num_objects // _SAMPLE)
    boxes, images = train.boxes[::step], train.view_sizes[train.owners[::step]]
    best, present, proposed = suggest_anchors(boxes, images, train.view.anchors)
    keys = f"MODEL.ANCHOR_GENERATOR.SIZES '{_write(best.sizes)}'"
    if best.aspect_ratios != train.view.anchors.aspect_ratios:
        keys += f" MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS '{_write(best.aspect_ratios)}'"
    return Cause(
        "Anchors do not fit the boxes",
        f"{share:.0%} of the boxes overlap no anchor by an IoU of {least:g}, below which the RPN "
        f"learns it as background. Anchors have {finest:g} to {coarsest:g} pixels a side; eight of "
        f"ten boxes have {np.quantile(sides, 0.1):.0f} to {np.quantile(sides, 0.9):.0f}, as the "
        "detector sees them.",
        f"Write {keys} and train again: {proposed:.0%} of the boxes overlap one of these by 0.5, "
        f"and {present:.0%} one of those.",
        share * measured.lacking,
    )


def _write(levels: Sequence[Sequence[float]]) -> str:
    return repr([list(level) for level in levels]).replace(" ", "")
