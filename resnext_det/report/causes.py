"""Find the likely causes of a detector's low AP, and say what to do about each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from resnext_det.data.statistics import SetStatistics
from resnext_det.evaluation.analysis import DetectionAnalysis
from resnext_det.report.faults import detections, labels, schedule, sets, sizes
from resnext_det.report.faults.cause import Cause, fit_advice
from resnext_det.report.faults.collection import measure_run
from resnext_det.report.faults.measurements import Measurements
from resnext_det.report.runs import RunFolder

__all__ = ["Cause", "find_causes", "list_causes"]

Rule = Callable[[Measurements], Cause | None]
"""Looks for one fault, and gives a Cause or None."""

RULES_OF_SETS: tuple[Rule, ...] = (
    labels.find_corner_boxes,
    labels.find_shrunken_boxes,
    labels.find_missing_boxes,
    sets.find_other_shares,
    sets.find_other_sizes,
    sizes.find_tiny_objects,
    sizes.find_ill_anchors,
)
"""Those that need the sets and the configuration alone, so that they hold before a training too."""

RULES: tuple[Rule, ...] = (
    *RULES_OF_SETS,
    labels.find_exchanged_names,
    labels.find_displaced_boxes,
    labels.find_unlabeled_objects,
    labels.find_contradictions,
    sets.find_shared_images,
    sets.find_copies,
    sets.find_absent_classes,
    sets.find_rare_classes,
    sets.find_other_images,
    schedule.find_divergence,
    schedule.find_low_rate,
    schedule.find_short_training,
    schedule.find_frozen_at_random,
    schedule.find_small_batch,
    schedule.find_swapped_channels,
    schedule.find_overridden_settings,
    schedule.find_overfitting,
    schedule.find_no_flips,
    detections.find_nothing_found,
    detections.find_high_threshold,
    detections.find_low_limit,
    detections.find_few_proposals,
    detections.find_repeated_detections,
    detections.find_unfound_classes,
    detections.find_confused_classes,
    detections.find_poor_masks,
    detections.find_main_error,
)


def find_causes(
    run: RunFolder,
    analysis: DetectionAnalysis | None,
    train_statistics: SetStatistics | None = None,
    test_statistics: SetStatistics | None = None,
) -> list[Cause]:
    """Find what likely keeps the AP of a run low, what costs most first.

    What is not there (a training set that was moved, an evaluation alone) is left out, and with it
    the causes that it would tell.

    Args:
        run: the folder of the run.
        analysis: of the detections on its first test set; None without detections.
        train_statistics, test_statistics: of the sets, at the size of tests.
    """
    return list_causes(measure_run(run, analysis, train_statistics, test_statistics))


def list_causes(measured: Measurements, rules: Sequence[Rule] = RULES) -> list[Cause]:
    """List the causes that rules find in measurements, what costs most first.

    Their advice leaves out what is set already.
    """
    found = [cause for rule in rules if (cause := rule(measured)) is not None]
    found = [replace(cause, advice=fit_advice(cause.advice, measured.get)) for cause in found]
    return sorted(found, key=lambda cause: -cause.weight)
