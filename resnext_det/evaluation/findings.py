"""Collect what a detector found, confused and missed in every image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnext_det.evaluation.matching import Matches

ERROR_KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
"""What can be wrong, as TIDE (Bolya et al., 2020) divides it, with IoU .5 and .1.

Of a detection that finds no object of its class: ``localization``, an object of its class has IoU
.1 to .5; ``classification``, one of another class has IoU .5 or more; ``duplicate``, it covers an
object of its class that a detection of higher score has found; ``both``, an object of another class
has IoU .1 to .5; ``background``, no object has IoU .1. The first that holds counts. ``missed`` is
an object that nothing has found.
"""


@dataclass(frozen=True)
class MarkedBoxes:
    """Hold the boxes of an image, with what became of each.

    Attributes:
        boxes: (N, 4), x0, y0, x1, y1 in pixels of the image.
        classes: (N,), numbers of classes, from 0, into ``class_names`` of the metrics.
        scores: (N,), falling; 1 for objects.
        kinds: of a detection "correct", "ignored" (it lies on a crowd) or one of ``ERROR_KINDS``
            but "missed"; of an object "found", "missed" or "crowd".
        masks: the counts of their encodings, of the image's size; None where there are none.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    kinds: tuple[str, ...]
    masks: Sequence[str] | None = None


@dataclass(frozen=True)
class ImageFindings:
    """Compare the detections of an image, from a score on, with its objects, at IoU 0.5.

    Attributes:
        image_id: as the annotation file has it.
        file_name: likewise, "" where it says none.
        true_positives: detections that found an object.
        wrong: detections that found none, crowds apart.
        missed: objects that no detection found, crowds apart.
        found: the detections, best first.
        truth: the objects, crowds among them.
    """

    image_id: Any
    file_name: str
    true_positives: int
    wrong: int
    missed: int
    found: MarkedBoxes
    truth: MarkedBoxes

    @property
    def mistakes(self) -> int:
        """Count wrong detections and missed objects."""
        return self.wrong + self.missed


def collect_findings(
    matches: Matches, kinds: np.ndarray, score: float
) -> tuple[ImageFindings, ...]:
    """Collect what the detections from a score on are, image by image.

    Args:
        kinds: (N,), words for the detections of ``matches``.
    """
    truth, found = matches.truth, matches.found
    objects, _ = matches.find_objects()
    shown = np.flatnonzero(found.scores >= score)
    shown = shown[np.lexsort((-found.scores[shown], found.images[shown]))]
    is_found = np.zeros(len(truth.images), bool)
    is_found[objects[shown][objects[shown] >= 0]] = True
    states = np.where(is_found, "found", np.where(matches.ignored[0], "crowd", "missed"))
    of_truth = np.argsort(truth.images, kind="stable")
    number = len(truth.image_ids)
    limits = np.arange(1, number)
    detections = np.split(shown, np.searchsorted(found.images[shown], limits))
    annotated = np.split(of_truth, np.searchsorted(truth.images[of_truth], limits))
    findings = []
    for image in range(number):
        these, those = detections[image], annotated[image]
        marked = MarkedBoxes(
            _find_corners(found.boxes[these]),
            found.categories[these],
            found.scores[these],
            tuple(kinds[these].tolist()),
            None if found.masks is None else found.masks[these].tolist(),
        )
        present = MarkedBoxes(
            _find_corners(truth.boxes[those]),
            truth.categories[those],
            np.ones(len(those)),
            tuple(states[those].tolist()),
            None if truth.masks is None else truth.masks[those].tolist(),
        )
        correct, ignored = marked.kinds.count("correct"), marked.kinds.count("ignored")
        findings.append(
            ImageFindings(
                image_id=truth.image_ids[image],
                file_name=str(truth.file_names[image]) if truth.file_names else "",
                true_positives=correct,
                wrong=len(these) - correct - ignored,
                missed=present.kinds.count("missed"),
                found=marked,
                truth=present,
            )
        )
    return tuple(findings)


def _find_corners(boxes: np.ndarray) -> np.ndarray:
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
