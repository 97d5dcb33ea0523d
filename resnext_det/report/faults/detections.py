"""Find faults of the tests' settings, and what else the detections show."""

from __future__ import annotations

import numpy as np

from resnext_det.files import escape_controls, list_first
from resnext_det.report.error_kinds import DESCRIPTIONS
from resnext_det.report.faults.cause import Cause
from resnext_det.report.faults.measurements import Found, Measurements
from resnext_det.report.faults.sets import UNEQUAL

_USUAL_SCORE, _USUAL_LIMIT, _USUAL_NMS = 0.05, 100, 0.5
_USUAL_PROPOSALS = 1000
_AT_LIMIT = 0.1  # of the images
_FEWEST_OF_CLASS = 10
_TAKEN_FOR = 0.3
_HIGH_COST = 8.0  # points of AP50
_COMMON = 0.1  # what an error kind alone says of its cause


def find_nothing_found(measured: Measurements) -> Cause | None:
    """Find a detector that finds hardly any object, under whatever class."""
    found = measured.found
    if found is None or not found.finds_hardly_any:
        return None
    touched = int((found.touched >= 0.5).sum())
    return Cause(
        "Hardly any object is found",
        f"{len(found.scores):,} detections on {len(found.detections_of_image)} images overlap "
        f"{touched:,} of {len(found.sides):,} objects by 0.5, whatever their classes.",
        "See the other causes; look at the boxes of the training with resnext-det show-data: do "
        "they lie on the objects? With MODEL.WEIGHTS of another detector look at what was loaded: "
        "resnext-det inspect FILE.",
        0.2 * measured.lacking,
    )


def find_high_threshold(measured: Measurements) -> Cause | None:
    """Find a score threshold that leaves out detections which AP would count."""
    key, found = f"{measured.head}.SCORE_THRESH_TEST", measured.found
    threshold = measured.get(key)
    if threshold is None or threshold <= 2 * _USUAL_SCORE or found is None or not len(found.sides):
        return None
    recall = float((found.reached >= 0.5).mean())
    return Cause(
        "The score threshold of the test is too high",
        f"{key} is {threshold:g}: detections below it are left out, "
        f"and those that are left reach {recall:.0%} of the objects.",
        f"Write {key} {_USUAL_SCORE}, the usual value, and evaluate again; choose the "
        "score to use in practice by the curves of this page.",
        0.5 * 100 * (1 - recall) * min(1.0, threshold * 2),
    )


def find_low_limit(measured: Measurements) -> Cause | None:
    """Find a limit of detections an image that objects exceed."""
    limit, found = measured.get("TEST.DETECTIONS_PER_IMAGE"), measured.found
    if not limit or limit < 0 or found is None or not len(found.sides):
        return None
    at_limit = found.detections_of_image >= limit
    beyond = float(np.maximum(found.objects_of_image - limit, 0).sum() / len(found.sides))
    if at_limit.mean() < _AT_LIMIT or (beyond == 0 and limit >= _USUAL_LIMIT):
        return None
    if found.objects_of_image[at_limit].max() < 0.5 * limit:
        return None
    wanted = max(_USUAL_LIMIT, 2 * int(found.objects_of_image.max()))
    return Cause(
        "Too few detections of an image are kept",
        f"TEST.DETECTIONS_PER_IMAGE is {limit}; {int(at_limit.sum())} of {len(at_limit)} images "
        f"reach it, and images have up to {found.objects_of_image.max()} objects: {beyond:.0%} of "
        "all are beyond the limit.",
        f"Write TEST.DETECTIONS_PER_IMAGE {wanted} and evaluate again.",
        max(100 * beyond * float((found.reached >= 0.5).mean() > 0), 1.0),
    )


def find_few_proposals(measured: Measurements) -> Cause | None:
    """Find fewer proposals of an image than twice its objects."""
    limit, found = measured.get("MODEL.RPN.POST_NMS_TOPK_TEST"), measured.found
    if not limit or measured.is_retinanet or found is None or not len(found.objects_of_image):
        return None
    many = found.objects_of_image * 2 > limit
    if many.mean() < _AT_LIMIT:
        return None
    wanted = max(_USUAL_PROPOSALS, 2 * int(found.objects_of_image.max()))
    return Cause(
        "Too few proposals of an image are kept",
        f"MODEL.RPN.POST_NMS_TOPK_TEST is {limit}, less than twice the objects of "
        f"{int(many.sum())} of {len(many)} images.",
        f"Write MODEL.RPN.POST_NMS_TOPK_TEST {wanted} (and POST_NMS_TOPK_TRAIN) and evaluate "
        "again.",
        0.5 * measured.lacking * float(many.mean()),
    )


def find_repeated_detections(measured: Measurements) -> Cause | None:
    """Find objects that are detected several times."""
    cost, key = measured.costs.get("duplicate", 0.0), f"{measured.head}.NMS_THRESH_TEST"
    if not cost >= _HIGH_COST:
        return None
    threshold = measured.get(key)
    wanted = f"{key} {_USUAL_NMS}, the usual value,"
    if threshold is not None and threshold <= _USUAL_NMS:
        wanted = f"{key} {0.8 * threshold:.2g}"
    return Cause(
        DESCRIPTIONS["duplicate"].title,
        f"Detections beside the best one of an object cost {cost:.1f} points of AP50 "
        f"({key} {threshold}).",
        f"Write {wanted} or lower, and evaluate again; where the boxes of one object differ much, "
        "train longer.",
        cost,
    )


def find_unfound_classes(measured: Measurements) -> Cause | None:
    """Find classes of which no object is found, though there are some in training."""
    found, counts = measured.found, measured.count_by_name(measured.train)
    if found is None or not len(found.sides):
        return None
    number = len(measured.class_names)
    objects = np.bincount(found.classes, minlength=number)
    hits = np.bincount(found.classes[found.reached >= 0.5], minlength=number)
    lost = (objects >= _FEWEST_OF_CLASS) & (hits == 0)
    if counts is not None:
        lost &= counts > 0
    chosen = np.flatnonzero(lost)
    if not len(chosen) or not hits.any():
        return None
    exchanged = {n for pair in (measured.renaming.names if measured.renaming else ()) for n in pair}
    if {measured.class_names[k] for k in chosen} <= exchanged:
        return None
    names = list_first([measured.class_names[k] for k in chosen], 6)
    return Cause(
        f"Never found: {names}",
        f"None of {int(objects[chosen].sum())} objects is found, at whatever score"
        + _tell_boxes(counts, chosen),
        "Look at their boxes with resnext-det show-data: are they right, large enough, and alike "
        "in both sets? More images and a longer training help rare and hard classes.",
        len(chosen) / max(int(np.count_nonzero(objects)), 1) * (100 - measured.lacking) * 0.9,
    )


def _tell_boxes(counts: np.ndarray | None, chosen: np.ndarray) -> str:
    if counts is None:
        return "."
    return f"; the training set has {int(counts[chosen].sum()):,} boxes of them."


def find_confused_classes(measured: Measurements) -> Cause | None:
    """Find the pair of classes that is taken for each other most."""
    found = measured.found
    if found is None or measured.renaming is not None or not len(found.confusion):
        return None
    if found.finds_hardly_any:  # the classes of few boxes say nothing
        return None
    totals = found.confusion.sum(axis=1)
    wrong = found.confusion - np.diag(np.diag(found.confusion))
    shares = wrong / np.maximum(totals, 1)[:, None]
    shares[totals < _FEWEST_OF_CLASS] = 0
    counts = measured.count_by_name(measured.train)
    if counts is not None and counts.any():  # rare and absent classes are told by other rules
        shares[counts * UNEQUAL <= counts.max()] = 0
    if not shares.size or shares.max() < _TAKEN_FOR:
        return None
    one, other = np.unravel_index(int(shares.argmax()), shares.shape)
    names = [escape_controls(measured.class_names[k]) for k in (one, other)]
    cost = measured.costs.get("classification", 0.0)
    return Cause(
        f"{names[0]} is taken for {names[1]}",
        f"Of {totals[one]} objects of {names[0]} that a detection fits, {wrong[one, other]} "
        f"({shares[one, other]:.0%}) are called {names[1]}. Wrong classes cost {cost:.1f} points "
        "of AP50 in all.",
        f"Look whether the annotations tell {names[0]} and {names[1]} apart in the same way in "
        f"both sets; add images of {names[0]}, or join the two classes.",
        max(cost * 0.5, 100 * float(shares.max()) / len(measured.class_names) * 0.3),
    )


def find_poor_masks(measured: Measurements) -> Cause | None:
    """Find masks that fit their objects much less often than the boxes do."""
    gap = measured.ap50 - measured.mask_ap50
    if not gap >= _HIGH_COST:  # nan, where there are no masks
        return None
    return Cause(
        "Masks fit worse than boxes",
        f"AP50 is {measured.ap50:.1f} of boxes and {measured.mask_ap50:.1f} of masks.",
        "Look at the masks of both sets with resnext-det show-data: do they lie on their objects, "
        "and are they drawn the same way? Then train longer, or with larger images "
        "(INPUT.MIN_SIZE_TRAIN, INPUT.MIN_SIZE_TEST); thin objects need finer masks "
        f"(MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION, now "
        f"{measured.get('MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION')}).",
        _COMMON * gap,
    )


def find_main_error(measured: Measurements) -> Cause | None:
    """Name the kind of error that costs most, but for duplicates, where it costs much."""
    costs = {kind: cost for kind, cost in measured.costs.items() if kind != "duplicate"}
    if not costs or not max(costs.values()) >= _HIGH_COST:  # nan, where there is no object
        return None
    kind = max(costs, key=costs.__getitem__)
    described = DESCRIPTIONS[kind]
    return Cause(
        described.title,
        f"Without errors of this kind AP50 would be {costs[kind]:.1f} points higher"
        f"{_tell_recall(measured.found)}.",
        described.advice,
        _COMMON * costs[kind],
    )


def _tell_recall(found: Found | None) -> str:
    if found is None or not len(found.sides):
        return ""
    reached, touched = (float((each >= 0.5).mean()) for each in (found.reached, found.touched))
    return f"; {reached:.0%} of the objects are found, {touched:.0%} under whatever class"
