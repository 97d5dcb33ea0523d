"""What a detector's numbers hide: intervals, kinds of errors, confusion, and what each image has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnext_det.evaluation.coco import CocoMetrics
from resnext_det.evaluation.coco_checks import COCO_LIMIT
from resnext_det.evaluation.coco_files import Source
from resnext_det.evaluation.confusion import ConfusionMatrix
from resnext_det.evaluation.error_costs import ErrorCost
from resnext_det.evaluation.findings import ImageFindings
from resnext_det.evaluation.score_curves import ScoreCurves

Results = str | Path | Sequence[Mapping[str, Any]]
Interval = tuple[float, float]

RESAMPLES = 1000
"""How many times the images are drawn anew for an interval."""


@dataclass(frozen=True)
class DetectionAnalysis:
    """What a detector's results on a set say.

    Attributes:
        metrics: COCO's numbers, to the last bit those of pycocotools.
        intervals: by the names of ``metrics.as_dict(recalls=True)`` and "AP-NAME" for every class,
            the interval in percent in which the number lies with 95 % confidence, were the images
            others of the same kind: percentiles over images drawn anew (bootstrap). nan where the
            number is nan. It says nothing about other seeds of the training.
        errors: one for every kind of ``ERROR_KINDS``, in its order.
        confusion: at ``by_score.best_score``.
        by_score: precision, recall and F1 over all classes.
        class_scores: the same for every class, in the order of ``metrics.class_names``.
        images: every image of the set, in the order of the image ids, at ``by_score.best_score``.
        detections: how many results there are.
        objects: how many annotated objects, crowds apart.
    """

    metrics: CocoMetrics
    intervals: Mapping[str, Interval]
    errors: tuple[ErrorCost, ...]
    confusion: ConfusionMatrix
    by_score: ScoreCurves
    class_scores: tuple[ScoreCurves, ...]
    images: tuple[ImageFindings, ...] = field(repr=False)
    detections: int
    objects: int

    def choose_worst(self, number: int) -> list[ImageFindings]:
        """Choose the images with the most mistakes, the most first."""
        raise NotImplementedError

    def choose_best(self, number: int) -> list[ImageFindings]:
        """Choose the images with the fewest mistakes; of equal ones those with the most objects."""
        raise NotImplementedError


@dataclass(frozen=True)
class NumberDifference:
    """How much a number of COCO's differs between two results on the same images, in points.

    Attributes:
        first, second: the number of either, in percent.
        difference: second - first.
        interval: in which the difference lies with 95 % confidence, were the images others of the
            same kind; both results are compared on the same images drawn anew (paired bootstrap).
        second_is_better: share of the draws, 0 to 1, in which the second has the higher number;
            equal ones count half.
    """

    first: float
    second: float
    difference: float
    interval: Interval
    second_is_better: float


@dataclass(frozen=True)
class ImageDifference:
    """What two results make of the same image, each at its own best score.

    ``difference`` is the number of mistakes that the second has fewer (wrong detections and missed
    objects); below 0 it has more.
    """

    first: ImageFindings
    second: ImageFindings
    difference: int


@dataclass(frozen=True)
class DetectionComparison:
    """What two results on the same images have and have not in common.

    Attributes:
        first, second: the analysis of each.
        numbers: by the names of ``DetectionAnalysis.intervals``.
        images: every image of the set, the largest difference, either way, first.
    """

    first: DetectionAnalysis
    second: DetectionAnalysis
    numbers: Mapping[str, NumberDifference]
    images: tuple[ImageDifference, ...] = field(repr=False)


def analyze_detections(
    annotations: Source,
    results: Results,
    *,
    max_detections: int = COCO_LIMIT,
    resamples: int = RESAMPLES,
) -> DetectionAnalysis:
    """Analyze COCO results: numbers with intervals, errors by kind, confusion, and every image.

    Args:
        annotations: a file of COCO instance annotations, or the dict read from one.
        results: a COCO result file, or the list read from one, as ``evaluate_coco`` takes them.
        max_detections: how many detections of an image and category count, the best first.
        resamples: how many times the images are drawn anew for the intervals; 0 leaves
            ``intervals`` empty.

    Raises:
        FileNotFoundError, ValueError: as ``evaluate_coco`` raises them.
    """
    raise NotImplementedError


def compare_detections(
    annotations: Source,
    first: Results,
    second: Results,
    *,
    max_detections: int = COCO_LIMIT,
    resamples: int = RESAMPLES,
) -> DetectionComparison:
    """Compare two results on the same images: which is better, and how sure that is.

    Args and errors are those of ``analyze_detections``.
    """
    raise NotImplementedError
