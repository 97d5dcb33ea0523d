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
from resnext_det.evaluation.matching import Matches, Task, match_detections
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
        metrics: COCO's numbers, to the last bit those of pycocotools.
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
        segm: the analysis of the masks, where the IoU of masks decides what is found and what is
            wrong; None where there are none. All other attributes are of boxes.
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
    segm: DetectionAnalysis | None = None

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
        segm: the comparison of the masks, where both results have them; else None.
    """

    first: DetectionAnalysis
    second: DetectionAnalysis
    numbers: Mapping[str, NumberDifference]
    images: tuple[ImageDifference, ...] = field(repr=False)
    segm: DetectionComparison | None = None


_Analyzed = tuple[DetectionAnalysis, Mapping[Task, np.ndarray]]
"""An analysis, and its numbers over images drawn anew, (resamples, numbers), of each task."""


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
    return _analyze(truth, entries, name, max_detections, resamples)[0]


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
    analyzed = []
    for which, (name, entries) in zip(("first", "second"), opened):
        name = f"{which} results" if name == "results" else name
        analyzed.append(_analyze(truth, entries, name, max_detections, resamples))
    (one, its_draws), (other, other_draws) = analyzed
    compared = _compare(one, other, its_draws["bbox"], other_draws["bbox"])
    if one.segm is None or other.segm is None:
        return compared
    of_masks = _compare(one.segm, other.segm, its_draws["segm"], other_draws["segm"])
    return replace(compared, segm=of_masks)


def _analyze(truth: GroundTruth, entries: Any, name: str, limit: int, resamples: int) -> _Analyzed:
    """Analyze the entries of results: their boxes, and their masks where they have any."""
    found = read_detections(entries, truth, name)
    tasks: tuple[Task, ...] = ("bbox",) if found.masks is None else ("bbox", "segm")
    matches = {task: match_detections(truth, found, limit, task) for task in tasks}
    every = np.arange(len(truth.image_ids))
    # numpy takes the matches; another backend would match anew.
    metrics = compute_metrics(
        truth, found, every, name, backend="numpy", max_detections=limit, matches=matches
    )
    draws = {
        task: draw_numbers(WeightedNumbers(each, limit), resamples if len(every) > 1 else 0)
        for task, each in matches.items()
    }
    analysis = _analyze_task(found, metrics, matches["bbox"], draws["bbox"])
    if metrics.segm is None:
        return analysis, draws
    segm = _analyze_task(found, metrics.segm, matches["segm"], draws["segm"])
    return replace(analysis, segm=segm), draws


def _analyze_task(
    found: Detections, metrics: CocoMetrics, matches: Matches, draws: np.ndarray
) -> DetectionAnalysis:
    """Analyze the boxes of results, or their masks, whichever were matched with the objects.

    Args:
        draws: numbers over images drawn anew, (resamples, numbers), see ``draw_numbers``.
    """
    by_score, class_scores = compute_score_curves(matches)
    errors = classify_errors(matches)
    score = by_score.best_score
    return DetectionAnalysis(
        truth=matches.truth,
        found=found,
        metrics=metrics,
        intervals=_find_intervals(metrics, draws),
        errors=compute_error_costs(matches, errors, score),
        confusion=compute_confusion(matches, score),
        by_score=by_score,
        class_scores=class_scores,
        images=collect_findings(matches, errors.name_kinds(), score),
        detections=len(found.scores),
        objects=by_score.objects,
    )


def _name_numbers(metrics: CocoMetrics) -> dict[str, float]:
    """Name the numbers in the order in which ``WeightedNumbers`` computes them."""
    numbers = list(metrics.as_dict(recalls=True).items())[:12]
    pairs = zip(metrics.class_names, metrics.category_ap, strict=True)
    return {**dict(numbers), **{f"AP-{name}": ap for name, ap in pairs}}


def _find_intervals(metrics: CocoMetrics, draws: np.ndarray) -> dict[str, Interval]:
    numbers = _name_numbers(metrics) if len(draws) else {}
    return {
        name: find_interval(np.clip(center_draws(value, draws[:, place]), 0, 100))
        for place, (name, value) in enumerate(numbers.items())
    }


def _compare(
    first: DetectionAnalysis,
    second: DetectionAnalysis,
    first_draws: np.ndarray,
    second_draws: np.ndarray,
) -> DetectionComparison:
    """Compare the analyses of two results, whose draws are of the same images."""
    images = (
        ImageDifference(before, after, before.mistakes - after.mistakes)
        for before, after in zip(first.images, second.images, strict=True)
    )
    numbers = {}
    one, other = _name_numbers(first.metrics), _name_numbers(second.metrics)
    for place, name in enumerate(one):
        difference = other[name] - one[name]
        differences = center_draws(difference, second_draws[:, place] - first_draws[:, place])
        wins = np.sign(differences).mean() / 2 + 0.5 if differences.size else np.nan
        numbers[name] = NumberDifference(
            first=one[name],
            second=other[name],
            difference=difference,
            interval=find_interval(differences),
            second_is_better=float(wins),
        )
    return DetectionComparison(
        first=first,
        second=second,
        numbers=numbers,
        images=tuple(sorted(images, key=lambda image: -abs(image.difference))),
    )
