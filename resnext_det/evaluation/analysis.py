"""Analyze detections beyond COCO's numbers: intervals, errors by kind, confusion, every image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from resnext_det.evaluation.coco import CocoMetrics, check_limit, compute_metrics
from resnext_det.evaluation.coco_checks import COCO_LIMIT
from resnext_det.evaluation.coco_files import (
    Detections,
    GroundTruth,
    Source,
    read_ground_truth,
)
from resnext_det.evaluation.confusion import ConfusionMatrix, compute_confusion
from resnext_det.evaluation.error_costs import (
    ErrorCost,
    classify_errors,
    compute_error_costs,
)
from resnext_det.evaluation.findings import ImageFindings, collect_findings
from resnext_det.evaluation.matching import match_detections
from resnext_det.evaluation.resampling import (
    WeightedNumbers,
    center_draws,
    draw_numbers,
    find_interval,
)
from resnext_det.evaluation.result_files import (
    Results,
    have_masks,
    open_results,
    read_detections,
)
from resnext_det.evaluation.score_curves import ScoreCurves, compute_score_curves

Interval = tuple[float, float]

RESAMPLES = 1000
"""How many times the images are drawn anew for an interval."""


@dataclass(frozen=True)
class DetectionAnalysis:
    """Hold the analysis of a detector's results on a set.

    Attributes:
        truth: the annotations.
        found: the results, all that there are.
        metrics: COCO's numbers, to the last bit those of pycocotools. All else is of boxes.
        intervals: by the names of ``metrics.as_dict(recalls=True)`` and "AP-NAME" for every class,
            the interval in percent in which the number lies with 95 % confidence on other sets of
            as many images of the same kind: as far as it varies over images drawn anew
            (bootstrap). nan where the number is nan; narrower than it should be for a class that
            few images have. It says nothing about other seeds of the training. Empty for one image.
        errors: one for every kind of ``ERROR_KINDS``, in its order.
        confusion: at ``by_score.best_score``.
        by_score: precision, recall and F1 over all classes.
        class_scores: the same for every class, in the order of ``metrics.class_names``.
        images: every image of the set, in the order of the image ids, at ``by_score.best_score``.
        detections: how many results there are.
        objects: how many annotated objects, crowds apart.
    """

    truth: GroundTruth = field(repr=False)
    found: Detections = field(repr=False)
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
        order = sorted(self.images, key=lambda image: -image.mistakes)
        return order[:number]

    def choose_best(self, number: int) -> list[ImageFindings]:
        """Choose the images with the fewest mistakes; of equal ones those with the most objects."""
        order = sorted(self.images, key=lambda image: (image.mistakes, -image.true_positives))
        return order[:number]


@dataclass(frozen=True)
class NumberDifference:
    """Hold by how many points one of COCO's numbers differs between two results on a set.

    Attributes:
        first, second: the number of either, in percent.
        difference: second - first.
        interval: in which the difference lies with 95 % confidence on other sets of as many images
            of the same kind; both results are compared on the same images drawn anew (paired
            bootstrap).
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
    """Hold what two results make of the same image, each at its own best score.

    ``difference`` is the number of mistakes that the second has fewer (wrong detections and missed
    objects); below 0 it has more.
    """

    first: ImageFindings
    second: ImageFindings
    difference: int


@dataclass(frozen=True)
class DetectionComparison:
    """Hold the comparison of two results on the same images.

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
    check_limit(max_detections, "max_detections")
    name, entries = open_results(results)
    truth = read_ground_truth(annotations, with_masks=have_masks(entries))
    analysis, numbers = _analyze(truth, entries, name, max_detections)
    draws = draw_numbers([numbers], resamples if len(truth.image_ids) > 1 else 0)[:, 0]
    return replace(analysis, intervals=_find_intervals(analysis, draws))


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
    check_limit(max_detections, "max_detections")
    opened = [open_results(results) for results in (first, second)]
    with_masks = any(have_masks(entries) for _, entries in opened)
    truth = read_ground_truth(annotations, with_masks=with_masks)
    analyses, numbers = [], []
    for which, (name, entries) in zip(("first", "second"), opened):
        name = f"{which} results" if name == "results" else name
        analysis, weighted = _analyze(truth, entries, name, max_detections)
        analyses.append(analysis)
        numbers.append(weighted)
    draws = draw_numbers(numbers, resamples if len(truth.image_ids) > 1 else 0)
    one, other = (
        replace(analysis, intervals=_find_intervals(analysis, draws[:, place]))
        for place, analysis in enumerate(analyses)
    )
    images = (
        ImageDifference(before, after, before.mistakes - after.mistakes)
        for before, after in zip(one.images, other.images, strict=True)
    )
    return DetectionComparison(
        first=one,
        second=other,
        numbers=_compare_numbers(one.metrics, other.metrics, draws),
        images=tuple(sorted(images, key=lambda image: -abs(image.difference))),
    )


def _analyze(
    truth: GroundTruth, entries: Any, name: str, limit: int
) -> tuple[DetectionAnalysis, WeightedNumbers]:
    """Analyze the entries of results, but for the intervals."""
    found = read_detections(entries, truth, name)
    every = np.arange(len(truth.image_ids))
    matches = match_detections(truth, found, limit)
    metrics = compute_metrics(truth, found, every, name, max_detections=limit, matches=matches)
    by_score, class_scores = compute_score_curves(matches)
    errors = classify_errors(matches)
    score = by_score.best_score
    analysis = DetectionAnalysis(
        truth=truth,
        found=found,
        metrics=metrics,
        intervals={},
        errors=compute_error_costs(matches, errors, score),
        confusion=compute_confusion(matches, score),
        by_score=by_score,
        class_scores=class_scores,
        images=collect_findings(matches, errors.name_kinds(), score),
        detections=len(found.scores),
        objects=by_score.objects,
    )
    return analysis, WeightedNumbers(matches, limit)


def _name_numbers(metrics: CocoMetrics) -> dict[str, float]:
    """Name the numbers in the order in which ``WeightedNumbers`` computes them."""
    numbers = list(metrics.as_dict(recalls=True).items())[:12]
    pairs = zip(metrics.class_names, metrics.category_ap, strict=True)
    return {**dict(numbers), **{f"AP-{name}": ap for name, ap in pairs}}


def _find_intervals(analysis: DetectionAnalysis, draws: np.ndarray) -> dict[str, Interval]:
    numbers = _name_numbers(analysis.metrics) if len(draws) else {}
    return {
        name: find_interval(np.clip(center_draws(value, draws[:, place]), 0, 100))
        for place, (name, value) in enumerate(numbers.items())
    }


def _compare_numbers(
    first: CocoMetrics, second: CocoMetrics, draws: np.ndarray
) -> dict[str, NumberDifference]:
    """Compare the numbers of two results; ``draws`` are (resamples, 2, numbers)."""
    numbers = {}
    one, other = _name_numbers(first), _name_numbers(second)
    for place, name in enumerate(one):
        difference = other[name] - one[name]
        differences = center_draws(difference, draws[:, 1, place] - draws[:, 0, place])
        wins = np.sign(differences).mean() / 2 + 0.5 if differences.size else np.nan
        numbers[name] = NumberDifference(
            first=one[name],
            second=other[name],
            difference=difference,
            interval=find_interval(differences),
            second_is_better=float(wins),
        )
    return numbers
