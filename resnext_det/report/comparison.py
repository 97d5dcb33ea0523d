"""Show several runs side by side: which is better, how sure that is, and where they differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from resnext_det.report.equal_sets import list_unequal_sets, locate_annotations
from resnext_det.report.page import Section, join, write_paragraph
from resnext_det.report.pair import Pair, build_pair_sections, compare_pair
from resnext_det.report.run_groups import (
    RunGroup,
    choose_test_set,
    compare_seeds,
    explain_no_AP,
    format_signed,
    format_signed_interval,
    group_runs,
    judge,
    list_test_settings,
)
from resnext_det.report.runs import RunFolder
from resnext_det.report.table_8 import build_table_8
from resnext_det.report.tables import Cell, format_table
from resnext_det.report.trainings import build_costs, build_curves, build_settings


@dataclass(frozen=True)
class SideBySide:
    """Hold the page of several runs: its summary and its sections."""

    lead: Markup
    sections: tuple[Section, ...]


def compare_runs(runs: Sequence[RunFolder]) -> SideBySide:
    """Compare runs with the first of them: numbers, mistakes, images, curves and settings.

    Runs whose settings differ in SEED alone count as one training, whose mean and spread are shown.
    Two trainings are looked at closely: the first given, and the one of highest AP among the
    others. What is missing is told on the page.

    Raises:
        ValueError: a folder is given twice.
    """
    groups = group_runs(runs)
    test_set = choose_test_set(groups)
    notes: list[str] = []
    pairs: dict[str, Pair] = {}
    for other in groups[1:] if test_set is not None else ():
        assert test_set is not None
        try:
            pair = compare_pair(groups[0], other, test_set)
            pairs[other.name] = pair
            notes += [note for note in pair.describe_changes() if note not in notes]
        except (ValueError, OSError) as error:
            notes.append(f"{groups[0].name} and {other.name} are not compared by image: {error}")
    second = _choose_second(groups, test_set)
    closest = pairs.get(second.name) if second is not None else None
    verdict = _write_verdict(groups, second, closest, test_set)
    notes = [note for note in _describe_lacks(groups, test_set) if note not in verdict] + notes
    summary = _build_summary(groups, pairs, test_set, notes)
    sections: list[Section | None] = [summary, *(build_pair_sections(closest) if closest else ())]
    sections += [build_table_8(runs, test_set), build_curves(groups, test_set)]
    sections += [build_settings(groups), build_costs(groups)]
    shown = tuple(section for section in sections if section is not None)
    return SideBySide(write_paragraph(verdict), shown)


def _choose_second(groups: Sequence[RunGroup], test_set: str | None) -> RunGroup | None:
    """Choose the training of the highest AP after the first one given."""
    others = groups[1:]
    if test_set is None or not others:
        return others[0] if others else None
    return max(others, key=lambda group: _rank(group.average("AP", test_set)))


def _rank(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _write_verdict(
    groups: Sequence[RunGroup], second: RunGroup | None, pair: Pair | None, test_set: str | None
) -> str:
    """Write the sentence at the top: which is better, and how sure that is."""
    first = groups[0]
    if test_set is None:
        return _explain_no_common_set(groups)
    if second is None:
        values = [value for _, value in first.list_values("AP", test_set)]
        if not values:
            return f"These {len(first.runs)} runs repeat one training with other seeds."
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return (
            f"These {len(first.runs)} runs repeat one training with other seeds: AP "
            f"{statistics.fmean(values):.1f}{spread} (mean and standard deviation)."
        )
    verdict = judge(
        (first.name, second.name),
        (first.average("AP", test_set), second.average("AP", test_set)),
        pair.comparison.numbers["AP"] if pair else None,
        compare_seeds(first, second, "AP", test_set),
    )
    if lacks := [reason for group in (first, second) for reason in _explain(group, test_set)]:
        return " ".join([verdict, *lacks])
    if len(groups) == 2:
        return verdict
    best = max(groups, key=lambda group: _rank(group.average("AP", test_set)))
    return f"Of {len(groups)} trainings {best.name} has the highest AP. {verdict}"


def _describe_lacks(groups: Sequence[RunGroup], test_set: str | None) -> Iterator[str]:
    """Say which runs have no AP, and what to do; and which settings of their tests differ."""
    if test_set is None:
        return
    for group in groups:
        yield from _explain(group, test_set)
    different = [
        f"{key} is {', '.join(map(str, values))}"
        for key, values in list_test_settings(groups, test_set)
    ]
    if different:
        yield (
            f"They were not tested alike: {'; '.join(different)}. AP rises with more detections, "
            "and with such of lower scores: evaluate all with the same values, by --eval-only "
            "--resume."
        )


def _explain(group: RunGroup, test_set: str) -> list[str]:
    """Say of every run of a training that has no AP why, and what to do."""
    return [reason for run in group.runs if (reason := explain_no_AP(run, test_set))]


def _explain_no_common_set(groups: Sequence[RunGroup]) -> str:
    """Say why nothing tells which is better, and what to do."""
    remedy = "Evaluate all of them on one set: --eval-only --test-data ANNOTATIONS IMAGES."
    runs = [run for group in groups for run in group.runs]
    for name in list_unequal_sets([group.sets for group in groups]):
        if all(name in run.list_sets("TEST") for run in runs):
            files = {locate_annotations(run, name) or "a file that is unknown" for run in runs}
            given = ", ".join(sorted(map(str, files)))
            return (
                f"The runs were tested on different sets of the name {name} ({given}), so nothing "
                f"says which is better. {remedy}"
            )
    return f"No test set is common to all runs, so nothing says which is better. {remedy}"


def _build_summary(
    groups: Sequence[RunGroup],
    pairs: Mapping[str, Pair],
    test_set: str | None,
    notes: Sequence[str],
) -> Section:
    """Build the table of all trainings, and their differences to the first."""
    headers = ["training", "runs", "iterations", "AP", "AP50", "difference in AP"]
    headers += ["95 % over images", "95 % over seeds"]
    headers += ["AP of masks", "difference of masks", "95 % over images"]
    rows: list[list[Cell]] = []
    for group in groups:
        row: list[Cell] = [group.name, len(group.runs), max(run.iterations for run in group.runs)]
        row += [_format_mean(group, metric, test_set) for metric in ("AP", "AP50")]
        row += _list_differences(groups[0], group, pairs, test_set)
        rows.append([*row, *_list_masks(group, pairs, test_set)])
    kept = [i for i in range(len(headers)) if i < 6 or any(row[i] is not None for row in rows)]
    headers, rows = [headers[i] for i in kept], [[row[i] for i in kept] for row in rows]
    parts = [format_table(headers, rows, f"Tested on {test_set}" if test_set else "")]
    told = "Differences are to the first training. "
    if any(len(group.runs) > 1 for group in groups):
        told += "± is the standard deviation over seeds. "
    told += (
        "The interval over images says what other test images of the same kind would show of one "
        "run of each (paired bootstrap), the one over seeds what other trainings would (Student's "
        "t)."
    )
    parts.append(write_paragraph(told, note=True))
    parts += [write_paragraph(note, note=True) for note in notes]
    return Section("Which is better", "which-is-better", join(parts))


def _list_differences(
    first: RunGroup, group: RunGroup, pairs: Mapping[str, Pair], test_set: str | None
) -> list[Cell]:
    """List the difference in AP to the first training, and its intervals."""
    if group is first or test_set is None:
        return [None, None, None]
    change = group.average("AP", test_set) - first.average("AP", test_set)
    pair, seeds = pairs.get(group.name), compare_seeds(first, group, "AP", test_set)
    return [
        None if math.isnan(change) else format_signed(change),
        format_signed_interval(pair.comparison.numbers["AP"].interval) if pair else None,
        format_signed_interval(seeds.interval) if seeds else None,
    ]


def _list_masks(group: RunGroup, pairs: Mapping[str, Pair], test_set: str | None) -> list[Cell]:
    """List the AP of masks of a training, and the difference of a run of it to the first one's."""
    mean, pair = _format_mean(group, "segm-AP", test_set), pairs.get(group.name)
    if pair is None or pair.comparison.segm is None:
        return [mean, None, None]
    found = pair.comparison.segm.numbers["AP"]
    change = None if math.isnan(found.difference) else format_signed(found.difference)
    return [mean, change, format_signed_interval(found.interval)]


def _format_mean(group: RunGroup, metric: str, test_set: str | None) -> Cell:
    values = [value for _, value in group.list_values(metric, test_set)] if test_set else []
    if not values:
        return None
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"
