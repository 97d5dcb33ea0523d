"""What a detector found, confused and missed in every image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

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
    """Boxes of an image with what became of each.

    Attributes:
        boxes: (N, 4), x0, y0, x1, y1 in pixels of the image.
        classes: (N,), numbers of classes, from 0, into ``class_names`` of the metrics.
        scores: (N,), falling; 1 for objects.
        kinds: of a detection "correct", "ignored" (it lies on a crowd) or one of ``ERROR_KINDS``
            but "missed"; of an object "found", "missed" or "crowd".
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class ImageFindings:
    """What the detections of an image, from a score on, are beside its objects, at IoU .5.

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
