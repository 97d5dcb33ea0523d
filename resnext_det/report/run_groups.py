"""Group runs that repeat one training with other seeds, and tell which of two is better."""

from __future__ import annotations

import math
import os
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resnext_det.evaluation.analysis import NumberDifference
from resnext_det.evaluation.coco_checks import COCO_LIMIT
from resnext_det.paper.rows import find_difference_interval, find_mean_interval
from resnext_det.report.equal_sets import identify_sets, list_unequal_sets, locate_annotations
from resnext_det.report.runs import RunFolder
from resnext_det.report.settings import OF_A_RUN, unify


@dataclass(frozen=True)
class RunGroup:
    """Hold the runs of one training: their settings differ in SEED alone.

    Attributes:
        name: what tells it from the others.
        runs: one, or one for each seed.
        sets: by name, as ``identify_sets`` gives them.
    """

    name: str
    runs: tuple[RunFolder, ...]
    sets: Mapping[str, str] = field(default_factory=dict)

    def list_values(self, metric: str, test_set: str) -> list[tuple[int | None, float]]:
        """List the seed and the number of every run that was tested on the set."""
        found = []
        for run in self.runs:
            for test in run.tests:
                value = test.metrics.get(metric, math.nan)
                if test.name == test_set and not math.isnan(value):
                    found.append((_read_seed(run), value))
        return found

    def average(self, metric: str, test_set: str) -> float:
        """Average a number over the runs; nan where none was tested."""
        values = [value for _, value in self.list_values(metric, test_set)]
        return statistics.fmean(values) if values else math.nan


@dataclass(frozen=True)
class SeedDifference:
    """Hold by how many points the means of two trainings differ, second - first.

    Attributes:
        difference: of the means, or the mean of the differences at equal seeds.
        interval: in which it lies with 95 % confidence over other seeds (Student's t).
        numbers: how many runs of each there are.
        paired: it is of pairs of runs with equal seeds.
    """

    difference: float
    interval: tuple[float, float]
    numbers: tuple[int, int]
    paired: bool


def group_runs(runs: Sequence[RunFolder]) -> list[RunGroup]:
    """Group runs whose settings differ in SEED alone, in the order of their first runs.

    Their sets have to have the same annotations, and not the same names alone. Weights to start
    from are alike where their paths differ in digits alone, as those of a pre-training for each
    seed; of one seed they have to be the same. Runs that were not trained, or repeat a seed, say
    nothing of other seeds and stand alone.

    Raises:
        ValueError: a folder is given twice.
    """
    paths = [run.path.resolve() for run in runs]
    if twice := {path for path in paths if paths.count(path) > 1}:
        raise ValueError(f"{min(twice)} is given twice; give each run once")
    shared = set(runs[0].config).intersection(*(run.config for run in runs)) - OF_A_RUN
    alike: dict[Any, list[RunFolder]] = defaultdict(list)
    sets = dict(zip((run.path for run in runs), identify_sets(runs), strict=True))
    for run in runs:
        key = {name: _unify_setting(name, run.config[name]) for name in sorted(shared)}
        # A run without configuration is like no other.
        alike[repr((key, sorted(sets[run.path].items()))) if key else run.path].append(run)
    groups: list[list[RunFolder]] = []
    for members in alike.values():
        if len({_read_seed(run) for run in members}) == len(members):
            groups.append(members)
            continue
        by_weights: dict[Any, list[RunFolder]] = defaultdict(list)
        for run in members:
            by_weights[run.get("MODEL.WEIGHTS")].append(run)
        for same in by_weights.values():
            groups += [same] if _are_of_seeds(same) else [[run] for run in same]
    names = _choose_names(groups)
    return [
        RunGroup(name, tuple(members), sets[members[0].path])
        for name, members in zip(names, groups, strict=True)
    ]


def _are_of_seeds(runs: Sequence[RunFolder]) -> bool:
    """Tell whether runs with the same settings are trainings of different seeds.

    A training without a seed has drawn one.
    """
    seeds = [seed for run in runs if (seed := _read_seed(run)) is not None]
    return all(run.was_trained for run in runs) and len(set(seeds)) == len(seeds)


def _unify_setting(name: str, value: Any) -> Any:
    if name == "MODEL.WEIGHTS" and "://" not in str(value):
        return re.sub(r"\d+", "#", str(value))
    return unify(value)


def _read_seed(run: RunFolder) -> int | None:
    seed = run.get("SEED")
    return seed if isinstance(seed, int) and seed >= 0 else None


def _choose_names(groups: Sequence[Sequence[RunFolder]]) -> list[str]:
    """Name each by its folder, or the folder above its runs, below what all have in common."""
    folders = [[str(run.path.resolve()) for run in members] for members in groups]
    above = [paths[0] if len(paths) == 1 else os.path.commonpath(paths) for paths in folders]
    if len(set(above)) < len(above):
        above = [paths[0] for paths in folders]
    root = os.path.commonpath([os.path.dirname(path) for path in above])
    return [os.path.relpath(path, root).replace(os.sep, "/") for path in above]


def find_settings(groups: Sequence[RunGroup]) -> list[tuple[str, list[Any]]]:
    """Find the settings that differ between groups: key, and the value of each group.

    Those of which a group's configuration says nothing are left out.
    """
    configs = [group.runs[0].config for group in groups]
    shared = set(configs[0]).intersection(*configs) - OF_A_RUN
    found = [(key, [config[key] for config in configs]) for key in sorted(shared)]
    different = [
        (key, values) for key, values in found if len({repr(unify(each)) for each in values}) > 1
    ]
    for name in list_unequal_sets([group.sets for group in groups]):
        files = [locate_annotations(group.runs[0], name) for group in groups]
        different.append((f"annotations of {name}", [file and str(file) for file in files]))
    return different


def choose_test_set(groups: Sequence[RunGroup]) -> str | None:
    """Choose the first test set that every group was tested on; None where there is none.

    One whose name stands for other annotations in another run is none.
    """
    tested = [
        [test.name for run in group.runs for test in run.tests if test.metrics or test.detections]
        for group in groups
    ]
    unequal = list_unequal_sets([group.sets for group in groups])
    common = [name for name in tested[0] if all(name in names for names in tested)]
    return next((name for name in common if name not in unequal), None)


def explain_no_AP(run: RunFolder, test_set: str) -> str:
    """Say why a run has no AP on a set that it was tested on, and what to do; "" where it has."""
    test = next(test for test in run.tests if test.name == test_set)
    value = test.metrics.get("AP")
    if value is not None:
        undefined = f"{run.path} has no AP on {test_set}, where no object is to be found"
        return f"{undefined}; evaluate it on a set with objects." if math.isnan(value) else ""
    if run.proposes:
        return f"{run.path} gives proposals, which have no AP; compare detectors."
    if test.detections is None:
        return (
            f"{run.path} has no detections of {test_set}; repeat its command with --eval-only "
            "--resume."
        )
    file = test.detections.with_name("metrics.json")
    known = locate_annotations(run, test_set) or "ANNOTATIONS"
    command = f"resnext-det evaluate {known} {test.detections} --json {file}"
    return f"{file} is missing, from which AP is read; write it by {command}."


def list_test_settings(
    groups: Sequence[RunGroup], test_set: str
) -> list[tuple[str, tuple[Any, ...]]]:
    """List the settings of tests that raise or lower AP by themselves, where groups differ in them.

    Returns:
        key, and the value of each group.
    """
    keys = [f"MODEL.{part}.SCORE_THRESH_TEST" for part in ("ROI_HEADS", "RETINANET")]
    found = [(key, tuple(group.runs[0].get(key) for group in groups)) for key in keys]
    limits = tuple(_read_limit(group.runs[0], test_set) for group in groups)
    found.append(("TEST.DETECTIONS_PER_IMAGE", limits))
    return [(key, values) for key, values in found if len(set(values) - {None}) > 1]


def _read_limit(run: RunFolder, test_set: str) -> int | None:
    """Read how many detections of an image the numbers on a set are of; None where unknown.

    An evaluation alone writes its numbers into the folder of a training, and leaves the settings of
    that there; what it wrote of its limit comes first.
    """
    counted = next(test.max_detections for test in run.tests if test.name == test_set)
    limit = run.get("TEST.DETECTIONS_PER_IMAGE")
    if counted != COCO_LIMIT:
        return counted
    if not isinstance(limit, int):
        return None
    return min(limit, counted) if limit >= 0 else counted


def choose_pair(first: RunGroup, second: RunGroup) -> tuple[RunFolder, RunFolder]:
    """Choose a run of each, of equal seeds where there are such, to compare image by image."""
    for run in first.runs:
        for other in second.runs:
            if _read_seed(run) is not None and _read_seed(run) == _read_seed(other):
                return run, other
    return first.runs[0], second.runs[0]


def compare_seeds(
    first: RunGroup, second: RunGroup, metric: str, test_set: str
) -> SeedDifference | None:
    """Compare the means over seeds: in pairs of equal seeds, or else as independent runs.

    Returns:
        None where either has fewer than two runs.
    """
    ones, others = (group.list_values(metric, test_set) for group in (first, second))
    numbers = len(ones), len(others)
    if min(numbers) < 2:
        return None
    by_seed, by_other = _average_seeds(ones), _average_seeds(others)
    pairs = [by_other[seed] - by_seed[seed] for seed in by_seed if seed in by_other]
    if len(pairs) == max(numbers):
        interval = find_mean_interval(pairs)
        assert interval is not None
        return SeedDifference(statistics.fmean(pairs), interval, numbers, paired=True)
    values, other_values = [value for _, value in ones], [value for _, value in others]
    difference = statistics.fmean(other_values) - statistics.fmean(values)
    interval = find_difference_interval(values, other_values)
    return SeedDifference(difference, interval, numbers, paired=False)


def _average_seeds(values: Sequence[tuple[int | None, float]]) -> dict[int, float]:
    found: dict[int, list[float]] = defaultdict(list)
    for seed, value in values:
        if seed is not None:
            found[seed].append(value)
    return {seed: statistics.fmean(of_seed) for seed, of_seed in found.items()}


def judge(
    names: tuple[str, str],
    values: tuple[float, float],
    over_images: NumberDifference | None,
    over_seeds: SeedDifference | None,
) -> str:
    """Say in a sentence or two which of two trainings is better, and how sure that is.

    Args:
        names: of the first and the second.
        values: AP of each in percent, the mean over its runs.
        over_images: of a run of each; None where their detections are not there.
        over_seeds: None where either has one run.
    """
    if any(map(math.isnan, values)):
        missing = " and ".join(name for name, value in zip(names, values) if math.isnan(value))
        return f"There is no AP of {missing}, so nothing says which is better."
    high = int(values[1] >= values[0])
    told = (
        f"AP {values[high]:.1f} against {values[1 - high]:.1f}, a difference of "
        f"{abs(values[1] - values[0]):.1f} points"
    )
    source: SeedDifference | NumberDifference | None = over_seeds or over_images
    if source is None or any(map(math.isnan, source.interval)):
        return (
            f"{names[high]} has the higher AP ({told}); without detections or several seeds of "
            "both nothing says how sure that is."
        )
    if source is over_images and source.interval == (0, 0):
        return f"Neither is better: both have AP {values[0]:.1f}, whatever the test images."
    # As the advantage of the one with the higher AP.
    low, top = source.interval if high else (-source.interval[1], -source.interval[0])
    interval = f"95 % interval {format_signed(low)} to {format_signed(top)}"
    if over_seeds is not None:
        over = f"over {' and '.join(map(str, over_seeds.numbers))} seeds"
        if low > 0:
            return f"{names[high]} is better than {names[1 - high]}: {told}, {interval} {over}."
        return (
            f"Which is better is open: {names[high]} has {told}, but the {interval} {over} "
            "includes 0. More seeds would narrow it."
        )
    if low > 0:
        return (
            f"{names[high]} is better than {names[1 - high]} on these images: {told}, {interval} "
            "over images. Whether the next training repeats it takes several seeds of both to "
            "know."
        )
    return (
        f"Which is better is open: {names[high]} has {told}, but the {interval} over images "
        "includes 0. More test images would narrow it."
    )


def format_signed(value: float) -> str:
    """Format a difference with one decimal, a sign, and a true minus."""
    return f"{value:+.1f}".replace("-", "\u2212")


def format_signed_interval(interval: tuple[float, float]) -> str | None:
    """Format the interval of a difference; None where it is not defined."""
    if any(map(math.isnan, interval)):
        return None
    return f"{format_signed(interval[0])} to {format_signed(interval[1])}"
