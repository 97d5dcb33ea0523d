"""Comparison of runs with the paper's tables: table 8 for detectors, 3 to 7 for classifiers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext_det.data.inspection.copied_images import unify_files
from resnext_det.paper.figures import AVERAGE_PRECISIONS, ERRORS, TABLE_8, TABLES, Setting
from resnext_det.paper.notes import list_classifier_notes, list_detector_notes
from resnext_det.paper.rows import Difference, Row
from resnext_det.paper.runs import Run


@dataclass(frozen=True)
class Comparison:
    """Runs of detectors or of classifiers beside the paper's figures.

    Attributes:
        metrics: the names of what was measured.
        tables: rows by title: table 8, or each other table of which something was run, with all
            its rows, and what the paper lacks.
        notes: what makes comparing runs with one another or with the paper less than fair.
        differences: of detectors, X - R at each depth, by protocol.
        test_set: of detectors, the set that all were tested on; None for classifiers.
    """

    metrics: tuple[str, ...]
    tables: Mapping[str, tuple[Row, ...]]
    notes: tuple[str, ...]
    differences: tuple[Difference, ...] = ()
    test_set: str | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all tables."""
        return tuple(row for rows in self.tables.values() for row in rows)


def compare_detectors(runs: Sequence[Run]) -> Comparison:
    """Group runs by network and protocol, and set them beside the paper's table 8.

    The paper's four networks are all in the table as soon as one of them was run. What is not fair
    in the comparison becomes a note.

    Raises:
        ValueError: there is no run, a folder is given twice, or the test sets differ, in their
            names or in the bytes of their annotations.
    """
    groups = _group_by_setting(runs)
    folders: dict[str, Path] = {}
    for run in runs:
        folders.setdefault(run.setting.dataset, run.output_dir)
    if len(folders) > 1:
        found = ", ".join(f"{folder} on {test_set}" for test_set, folder in folders.items())
        raise ValueError(
            f"runs tested on different datasets cannot be compared in one table: {found}; evaluate "
            "them on one dataset, or compare those of each dataset by themselves"
        )
    (test_set,) = folders
    _check_annotations(runs, test_set)
    rows = [
        Row(setting, TABLE_8.get(setting.network, {}), group) for setting, group in groups.items()
    ]
    networks = {setting.network for setting in groups}
    if networks & TABLE_8.keys():
        rows += [
            Row(Setting(test_set, network), paper)
            for network, paper in TABLE_8.items()
            if network not in networks
        ]
    rows.sort(key=_rank)
    differences = tuple(_find_differences(rows))
    title = f"Table 8 of the ResNeXt paper (COCO minival), and runs tested on {test_set}; percent"
    return Comparison(
        AVERAGE_PRECISIONS,
        {title: tuple(rows)},
        tuple(dict.fromkeys(list_detector_notes(runs, rows, differences))),
        differences,
        test_set,
    )


def _check_annotations(runs: Sequence[Run], test_set: str) -> None:
    """Refuse runs whose test sets share a name alone; files that are gone are not compared."""
    texts = unify_files(run.annotations for run in runs if run.annotations is not None)
    folders: dict[str, Path] = {}
    for run in runs:
        if run.annotations is not None and run.annotations in texts:
            folders.setdefault(texts[run.annotations], run.output_dir)
    if len(folders) > 1:
        found = ", ".join(f"{folder} on {file}" for file, folder in folders.items())
        raise ValueError(
            f"runs tested on different sets of the name {test_set} cannot be compared in one "
            f"table: {found}; evaluate them on one of these files (--eval-only --test-data "
            "ANNOTATIONS IMAGES), or compare those of each by themselves"
        )


def compare_classifiers(runs: Sequence[Run], *, left_out: Sequence[str] = ()) -> Comparison:
    """Set runs beside the paper's errors of the same dataset, network and protocol.

    A run is in every table that has its setting; other runs have a table of their own.

    Args:
        left_out: for each run that was not tested the reason, which becomes a note.

    Raises:
        ValueError: there is no run, or a folder is given twice, or holds one test twice.
    """
    groups = _group_by_setting(runs)
    shown = [table for table in TABLES if table.rows.keys() & groups.keys()]
    tables = {
        f"{table.name}: {table.caption}": tuple(
            Row(setting, errors, groups.get(setting, ())) for setting, errors in table.rows.items()
        )
        for table in shown
    }
    known = {setting for table in shown for setting in table.rows}
    measured = [Row(setting, runs=group) for setting, group in groups.items()]
    others = tuple(row for row in measured if row.setting not in known)
    if others:
        tables["Other runs: of settings that the paper has no figure of"] = others
    notes = [
        *list_classifier_notes(runs, measured, shown),
        *(f"left out: {reason}" for reason in left_out),
    ]
    return Comparison(ERRORS, tables, tuple(dict.fromkeys(notes)))


def _group_by_setting(runs: Sequence[Run]) -> dict[Setting, tuple[Run, ...]]:
    if not runs:
        raise ValueError("there is no run to compare; give the OUTPUT_DIR of one or more trainings")
    counts = Counter((run.output_dir.resolve(), run.setting) for run in runs)
    (folder, setting), times = counts.most_common(1)[0]
    if times > 1:
        files = f", or its folder test has as many of one protocol ({setting.protocol})"
        raise ValueError(
            f"{folder} is given {times} times{files if setting.ways else ''}, which would count "
            f"one run as several; give it once{', and keep one file' if setting.ways else ''}"
        )
    groups: dict[Setting, tuple[Run, ...]] = defaultdict(tuple)
    for run in runs:
        groups[run.setting] += (run,)
    return groups


def _rank(row: Row) -> tuple[Any, ...]:
    """Order rows by depth, channels, cardinality, width and protocol."""
    own, protocol = row.setting.network, row.protocol or ""
    sizes = own.depth, own.stem_channels, own.res2_channels
    return (*sizes, own.cardinality, own.width, protocol)


def _find_differences(rows: Sequence[Row]) -> Iterator[Difference]:
    """Find every X and R of equal depth, channels and protocol.

    A pair of the paper that no protocol measured comes without runs.
    """
    pairs = [
        Difference(x, r)
        for x in rows
        for r in rows
        if x.setting.network.cardinality > 1
        and r.setting.network.cardinality == 1
        and _rank(x)[:3] == _rank(r)[:3]
    ]
    measured = [p for p in pairs if p.x.runs and p.r.runs and p.x.protocol == p.r.protocol]
    yield from measured
    done = {pair.name for pair in measured}
    for pair in pairs:
        if pair.name not in done and pair.get_paper("AP") is not None:
            done.add(pair.name)
            x, r = (Row(row.setting._replace(protocol=None), row.paper) for row in (pair.x, pair.r))
            yield Difference(x, r)
