"""Examine a run: analyze its detections, and summarize the sets that it was trained and tested on.

What cannot be done, as where annotations are not there any more, is told in a sentence.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from resnext_det.data.coco import CocoDataset, map_classes
from resnext_det.data.records import join_records
from resnext_det.data.statistics import SetStatistics
from resnext_det.detection.datasets import summarize_set
from resnext_det.evaluation.analysis import DetectionAnalysis, analyze_detections
from resnext_det.report.causes import find_causes
from resnext_det.report.faults.cause import Cause
from resnext_det.report.runs import RunFolder, TestFolder

logger = logging.getLogger(__name__)

_ROUNDING = 0.05  # points of AP, as far as which they are shown


@dataclass(frozen=True)
class Test:
    """Hold what a run does on one of its test sets.

    Attributes:
        folder: what the run left of it.
        dataset: the annotations, None where they cannot be read.
        analysis: None without annotations or detections.
        statistics: of the set; None without annotations.
    """

    __test__ = False  # it is no test of pytest

    folder: TestFolder
    dataset: CocoDataset | None
    analysis: DetectionAnalysis | None
    statistics: SetStatistics | None


@dataclass(frozen=True)
class Examination:
    """Hold what is known of a run.

    Attributes:
        run: its folder.
        tests: one for each of its test sets.
        train_statistics: of the sets that it was trained on; None where they cannot be read.
        causes: what likely keeps its AP low, the most weighty first.
        missing: sentences about what could not be examined, and what to do.
    """

    run: RunFolder
    tests: tuple[Test, ...]
    train_statistics: SetStatistics | None
    causes: tuple[Cause, ...]
    missing: tuple[str, ...]

    @property
    def first(self) -> Test | None:
        """Choose the first test that could be analyzed; else the first; None without any."""
        analyzed = [test for test in self.tests if test.analysis is not None]
        return next(iter([*analyzed, *self.tests]), None)


def examine_run(run: RunFolder) -> Examination:
    """Examine a run, as far as its folder and its sets allow."""
    missing: list[str] = []
    tests = tuple(_examine_test(run, folder, missing) for folder in run.tests)
    examined = Examination(run, tests, _summarize_training(run, missing), (), tuple(missing))
    first = examined.first
    analysis, statistics = (first.analysis, first.statistics) if first else (None, None)
    causes = find_causes(run, analysis, examined.train_statistics, statistics)
    return replace(examined, causes=tuple(causes))


def describe_change(folder: TestFolder, analysis: DetectionAnalysis) -> str:
    """Say where the AP of a run is not that which it wrote itself; "" where it is."""
    before, now = folder.metrics.get("AP", float("nan")), float(analysis.metrics.AP)
    if not abs(before - now) > _ROUNDING:
        return ""
    return (
        f"The run itself measured AP {before:.1f} on {folder.name}, and AP is {now:.1f} now: the "
        "annotations or the detections have changed since. This page is of what they are now; "
        "repeat the run's command with --eval-only --resume."
    )


def _examine_test(run: RunFolder, folder: TestFolder, missing: list[str]) -> Test:
    dataset = analysis = statistics = None
    try:
        dataset = run.load_set(folder.name)
        statistics = None if run.cfg is None else summarize_set(run.cfg, dataset)
        if run.proposes:
            logger.debug("%s gives proposals, which are not analyzed", run.path)
        elif folder.detections is None:
            missing.append(
                f"There are no detections on {folder.name}: the run has not ended, or was not "
                "evaluated; repeat its command with --resume, or with --eval-only --resume."
            )
        else:
            analysis = analyze_detections(
                dataset.annotations_file, folder.detections, max_detections=folder.max_detections
            )
    except (ValueError, OSError) as error:
        missing.append(f"{folder.name}: {error}")
    return Test(folder, dataset, analysis, statistics)


def _summarize_training(run: RunFolder, missing: list[str]) -> SetStatistics | None:
    """Summarize the training sets as one, with the classes in the order of the first."""
    sets: list[CocoDataset] = []
    for name in run.list_sets("TRAIN") if run.was_trained else ():
        try:
            dataset = run.load_set(name)
            sets.append(map_classes(dataset, sets[0].class_names) if sets else dataset)
        except (ValueError, OSError) as error:
            missing.append(f"{name}: {error}")
    if not sets or run.cfg is None:
        return None
    joined = join_records([dataset.records for dataset in sets])
    return summarize_set(run.cfg, replace(sets[0], records=joined))
