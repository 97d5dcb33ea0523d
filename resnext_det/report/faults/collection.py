"""Measure a run: everything that the rules look at, from its folder and its sets."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from resnext_det.data.appearance import QUALITIES, measure_images
from resnext_det.data.inspection.copied_images import SEARCH_SECONDS, find_copied_images
from resnext_det.data.statistics import SetStatistics
from resnext_det.evaluation.analysis import DetectionAnalysis
from resnext_det.evaluation.coco_files import Detections, GroundTruth
from resnext_det.evaluation.systematic import (
    Nearness,
    count_names,
    find_displacement,
    find_renaming,
    measure_nearness,
)
from resnext_det.report.faults.measurements import Difference, Found, Measurements
from resnext_det.report.runs import RunFolder

_FEWEST_IMAGES = 8  # that tell how a set looks
_WARNING = re.compile(r" WARNING:? (.*)")
_MOST_LOG = 2**22  # bytes of a log that are read


def measure_run(
    run: RunFolder,
    analysis: DetectionAnalysis | None,
    train: SetStatistics | None = None,
    test: SetStatistics | None = None,
) -> Measurements:
    """Measure a run; see ``find_causes`` for the arguments.

    What cannot be read is left out.
    """
    shared, copies = _compare_files(train, test)
    log = _read_end(run.path / "log.txt")
    return Measurements(
        cfg=run.cfg,
        series={
            name: dict(zip(series.iterations.tolist(), series.values.tolist(), strict=True))
            for name, series in run.series.items()
        },
        train=train,
        test=test,
        shared=shared,
        copies=copies,
        appearance=_compare_images(train, test),
        warnings=tuple(dict.fromkeys(_WARNING.findall(log))),
        began_as_detector=": detector weights:" in log,
        **({} if analysis is None else _measure_detections(analysis, test)),
    )


def _measure_detections(analysis: DetectionAnalysis, test: SetStatistics | None) -> dict[str, Any]:
    """Measure what was found of the test set: fields of Measurements."""
    metrics, truth, found = analysis.metrics, analysis.truth, analysis.found
    nearness = measure_nearness(truth, found)
    return {
        "class_names": metrics.class_names,
        "ap50": metrics.AP50,
        "mask_ap50": math.nan if metrics.segm is None else metrics.segm.AP50,
        "category_ap": metrics.category_ap,
        "costs": {error.kind: error.cost for error in analysis.errors},
        "found": _collect_found(truth, found, nearness, test),
        "renaming": find_renaming(truth, found, nearness),
        "displacement": find_displacement(truth, found, nearness),
    }


def _collect_found(
    truth: GroundTruth, found: Detections, nearness: Nearness, test: SetStatistics | None
) -> Found:
    objects = np.flatnonzero(truth.crowd == 0)
    scales = np.ones(len(truth.image_ids))
    if test is not None and (truth.sizes > 0).all():
        seen = test.view.compute_sizes(truth.sizes)
        scales = np.sqrt(seen.prod(axis=1) / truth.sizes.prod(axis=1))
    number = len(truth.image_ids)
    sides = np.sqrt(truth.boxes[:, 2:].prod(axis=1)) * scales[truth.images]
    return Found(
        sides=sides[objects],
        classes=truth.categories[objects],
        reached=nearness.reached[objects],
        touched=nearness.touched[objects],
        scores=found.scores,
        nearest=nearness.nearest,
        objects_of_image=np.bincount(truth.images[objects], minlength=number),
        detections_of_image=np.bincount(found.images, minlength=number),
        confusion=count_names(truth, found, nearness),
    )


def _compare_files(
    train: SetStatistics | None, test: SetStatistics | None
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Find test images that are training images too, and copies within the training set."""
    if train is None:
        return [], []
    trained = list(train.file_names)
    tested = list(test.file_names) if test is not None else []
    known = set(trained)
    shared = [(path, path) for path in tested if path in known]
    copies: list[tuple[str, str]] = []
    paths = [*trained, *(path for path in tested if path not in known)]
    for group in find_copied_images(paths, seconds=SEARCH_SECONDS)[0]:
        first, *others = group
        for index in others if first < len(trained) else ():
            pair = (paths[index], paths[first])
            (copies if index < len(trained) else shared).append(pair)
    return shared, copies


def _compare_images(train: SetStatistics | None, test: SetStatistics | None) -> list[Difference]:
    """Compare how images of the two sets look."""
    if train is None or test is None:
        return []
    ours, theirs = (measure_images(each.file_names) for each in (train, test))
    if min(len(ours), len(theirs)) < _FEWEST_IMAGES:
        return []
    spread = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / 2)
    rows = zip(QUALITIES, ours.mean(axis=0), theirs.mean(axis=0), spread, strict=True)
    return [Difference(name, *map(float, values)) for name, *values in rows]


def _read_end(log: Path) -> str:
    """Read a log, of a long one the end; "" where there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _MOST_LOG))
        return file.read().decode("utf-8", errors="replace")
