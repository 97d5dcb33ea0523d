"""Find objects that are too small for the detector, and anchors that do not fit them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnext_det.data.anchor_fit import AnchorGrid, suggest_anchors
from resnext_det.report.faults.cause import Cause
from resnext_det.report.faults.measurements import Measurements

_TINY = 16  # pixels; two cells of the finest usual feature map
_SHARE_TINY = 0.2
_SHRUNK = 0.67  # images that are shown to the detector at less than this are larger than that
_MOST_ENLARGED = 4  # times, beyond which there is nothing more to see
_UNMATCHED = 0.15
_SAMPLE = 20_000  # boxes that anchors are proposed for


def find_tiny_objects(measured: Measurements) -> Cause | None:
    """Find objects that the detector sees in a few pixels, in the test set or else in training."""
    kind, seen_set = ("test", measured.test) if measured.test else ("training", measured.train)
    if seen_set is None or not seen_set.num_objects:
        return None
    sides = seen_set.measure_sizes()
    tiny = sides < _TINY
    share = float(tiny.mean())
    if share < _SHARE_TINY:
        return None
    scale = float(np.median(seen_set.measure_scales()))
    height, width = np.median(seen_set.image_sizes, axis=0).astype(int)
    seen = np.median(seen_set.view_sizes, axis=0).astype(int)
    evidence = (
        f"{share:.0%} of the {kind} objects have less than {_TINY} pixels a side as the detector "
        f"sees them (half have {np.median(sides):.0f} or less)"
    )
    evidence += _tell_recall(measured)
    weight = _estimate_loss(measured, share)
    factor = 1.5 * _TINY / max(float(np.median(sides[tiny])), 1.0)
    if scale < _SHRUNK:
        side = _round_side(min(height, width) * min(1.0, scale * factor))
        return Cause(
            "Images are much larger than the size at which they are tested",
            f"Images of {width} x {height} pixels are shrunk to {seen[1]} x {seen[0]}. {evidence}.",
            f"Train and test larger: {_name_size(measured, side, height, width)}; or cut the "
            "images into tiles.",
            weight,
        )
    side = _round_side(min(seen) * min(factor, _MOST_ENLARGED))
    return Cause(
        "Objects are tiny",
        f"{evidence}{_tell_finest(seen_set.view.anchors)}.",
        f"Enlarge the images: {_name_size(measured, side, height, width)}; or add a finer level, "
        f"p2, with smaller anchors (MODEL.FPN.IN_FEATURES, {_name_heads(measured)}, "
        "MODEL.ANCHOR_GENERATOR.SIZES).",
        weight,
    )


def _name_heads(measured: Measurements) -> str:
    if measured.is_retinanet:
        return "MODEL.RETINANET.IN_FEATURES"
    return "MODEL.RPN.IN_FEATURES, MODEL.ROI_HEADS.IN_FEATURES"


def _round_side(pixels: float) -> int:
    return max(32, round(pixels / 32) * 32)


def _name_size(measured: Measurements, side: int, height: int, width: int) -> str:
    """Name the settings by which images of a height and width get a shorter side."""
    longest = round(side * max(height, width) / min(height, width))
    if stretch := measured.get("INPUT.STRETCH"):
        larger = [_round_side(side * each / min(stretch)) for each in stretch]
        return f"INPUT.STRETCH ({larger[0]},{larger[1]})"
    if measured.get("INPUT.SCALE_JITTER"):
        return (
            f"INPUT.SCALE_JITTER_SIZE {longest} INPUT.MIN_SIZE_TEST {side}, and "
            f"INPUT.MAX_SIZE_TEST {longest}"
        )
    return (
        f"INPUT.MIN_SIZE_TRAIN ({side},) INPUT.MIN_SIZE_TEST {side}, and INPUT.MAX_SIZE_TRAIN and "
        f"MAX_SIZE_TEST {longest}"
    )


def _tell_finest(anchors: AnchorGrid | None) -> str:
    return "" if anchors is None else f"; the finest anchor has {min(map(min, anchors.sizes)):g}"


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
    sizes = train.view.anchors.sizes
    part = "RETINANET" if measured.is_retinanet else "RPN"
    thresholds = measured.get(f"MODEL.{part}.IOU_THRESHOLDS") or [0.3]
    least = float(thresholds[0])
    sides = train.measure_sizes()
    large = sides >= _TINY
    unmatched = large & (train.anchor_ious < least)
    share = float(unmatched.mean())
    if share < _UNMATCHED:
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
        f"{share:.0%} of the boxes overlap no anchor by an IoU of {least:g}, below which an "
        f"anchor is learned as background. Anchors have {finest:g} to {coarsest:g} pixels a side; "
        f"eight of ten boxes have {np.quantile(sides, 0.1):.0f} to {np.quantile(sides, 0.9):.0f}, "
        "as the detector sees them.",
        f"Train with {keys}: {proposed:.0%} of the boxes overlap one of these anchors by 0.5, and "
        f"{present:.0%} one of the present ones.",
        share * measured.lacking,
    )


def _write(levels: Sequence[Sequence[float]]) -> str:
    return repr([list(level) for level in levels]).replace(" ", "")
