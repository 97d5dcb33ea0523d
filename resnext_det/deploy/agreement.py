"""Check that an exported detector finds what the detector that it was made of finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from resnext_det.detection.results import ImageDetections

LARGEST_DISTANCE = 0.01
"""Pixels by which a coordinate may differ."""

LARGEST_MASK_DIFFERENCE = 1e-3
"""By which the probability of a mask's cell may differ."""

_SCORES = 1e-4  # by which scores may differ; those that are closer may change places


@dataclass(frozen=True)
class Agreement:
    """Say how closely an exported detector agrees with the one that it was made of.

    Attributes:
        runtime: what ran the exported one, such as "onnxruntime".
        images: how many were compared.
        detections: how many pairs there were on all images.
        distance: the largest difference between coordinates of boxes, in pixels.
        score_difference: the largest difference between scores.
        mask_difference: the largest between probabilities of masks; None where there are none.
    """

    runtime: str
    images: int
    detections: int
    distance: float
    score_difference: float
    mask_difference: float | None = None


def compare_detectors(
    exported: Callable[[np.ndarray], ImageDetections],
    expected: Iterable[tuple[np.ndarray, ImageDetections]],
    *,
    runtime: str,
    score_threshold: float,
) -> Agreement:
    """Compare what an exported detector finds with what is expected, image by image.

    Two detections are a pair if they are of one class, their scores differ by at most 1e-4, and no
    coordinate by more than ``LARGEST_DISTANCE``; the probabilities of their masks may then differ
    by ``LARGEST_MASK_DIFFERENCE``. A detection may lack its counterpart where its score is so close
    to the threshold, or to that of the last detection, that rounding decides about it.

    Args:
        exported: detects on an RGB image, uint8 (H, W, 3).
        expected: such images, and what is expected on them.
        runtime: what runs the exported detector, for messages.
        score_threshold: below which there is no detection.

    Raises:
        ValueError: they differ; the text says where, and by how much.
    """
    images = detections = 0
    distance = score_difference = 0.0
    mask_difference: float | None = None
    for image, wanted in expected:
        found = exported(image)
        pairs = _match(found, wanted)
        for one, other, matched in (
            (found, wanted, [pair[0] for pair in pairs]),
            (wanted, found, [pair[1] for pair in pairs]),
        ):
            lonely = np.setdiff1d(np.arange(len(one.scores)), matched)
            last = other.scores[-1] if len(other.scores) else score_threshold
            brink = max(last, score_threshold) + _SCORES
            if (one.scores[lonely] > brink).any():
                where = f"{image.shape[1]} x {image.shape[0]} pixels"
                raise ValueError(
                    f"on an image of {where} {runtime} finds {_describe(found)}, and torch "
                    f"{_describe(wanted)}; {(one.scores[lonely] > brink).sum()} of them are "
                    f"without their like{_explain_ties(wanted)}"
                )
        mine, theirs = (list(side) for side in zip(*pairs)) if pairs else ([], [])
        if pairs:
            apart = np.abs(found.boxes[mine] - wanted.boxes[theirs]).max()
            distance = max(distance, float(apart))
            apart = np.abs(found.scores[mine] - wanted.scores[theirs]).max()
            score_difference = max(score_difference, float(apart))
            if wanted.mask_probabilities is not None:
                apart = _compare_masks(found, wanted, mine, theirs, runtime)
                mask_difference = max(mask_difference or 0.0, apart)
        images += 1
        detections += len(pairs)
    return Agreement(runtime, images, detections, distance, score_difference, mask_difference)


def _match(found: ImageDetections, wanted: ImageDetections) -> list[tuple[int, int]]:
    """Pair detections that are the same: indices into both, the nearest boxes first."""
    if not len(found.scores) or not len(wanted.scores):
        return []
    apart = np.abs(found.boxes[:, None] - wanted.boxes[None]).max(axis=2)
    alike = apart <= LARGEST_DISTANCE
    alike &= found.classes[:, None] == wanted.classes[None]
    alike &= np.abs(found.scores[:, None] - wanted.scores[None]) <= _SCORES
    pairs, taken = [], (set[int](), set[int]())
    rows, columns = np.nonzero(alike)
    for index in np.argsort(apart[rows, columns], kind="stable"):
        row, column = int(rows[index]), int(columns[index])
        if row not in taken[0] and column not in taken[1]:
            pairs.append((row, column))
            taken[0].add(row)
            taken[1].add(column)
    return pairs


def _compare_masks(
    found: ImageDetections,
    wanted: ImageDetections,
    mine: list[int],
    theirs: list[int],
    runtime: str,
) -> float:
    """Measure the largest difference between the masks of pairs; refuse a large one."""
    assert found.mask_probabilities is not None and wanted.mask_probabilities is not None
    apart = np.abs(found.mask_probabilities[mine] - wanted.mask_probabilities[theirs]).max()
    if not apart <= LARGEST_MASK_DIFFERENCE:
        height, width = wanted.image_size
        raise ValueError(
            f"on an image of {width} x {height} pixels {runtime} gives masks whose probabilities "
            f"differ from those of torch by {apart:.1e}, where {LARGEST_MASK_DIFFERENCE} is "
            "rounding"
        )
    return float(apart)


def _explain_ties(wanted: ImageDetections) -> str:
    """Name the cause where most scores are nearly the same, as before a training."""
    if len(wanted.scores) < 2 or np.median(np.abs(np.diff(wanted.scores))) > _SCORES:
        return ""
    return (
        f"; most of torch's scores differ by less than {_SCORES} from the next, as those of an "
        "untrained detector do, so that rounding decides which boxes are suppressed: train it, or "
        "raise MODEL.ROI_HEADS.SCORE_THRESH_TEST (of RetinaNet MODEL.RETINANET.SCORE_THRESH_TEST) "
        "above such scores"
    )


def _describe(found: ImageDetections) -> str:
    count = len(found.scores)
    best = "" if not count else f" (best score {found.scores[0]:.4f}, class {found.classes[0]})"
    return f"{count} detections{best}"
