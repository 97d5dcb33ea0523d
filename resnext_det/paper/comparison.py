"""Table 8: rows of runs of one network, and the differences X - R."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from resnext_det.architecture import Architecture
from resnext_det.paper.figures import TABLE_8
from resnext_det.paper.notes import notes
from resnext_det.paper.presentation import Comparison
from resnext_det.paper.rows import Difference, Row
from resnext_det.paper.runs import Run


def compare(runs: Sequence[Run]) -> Comparison:
    """Group runs by network and protocol, and set them beside the paper's table 8.

    The paper's four networks are all in the table as soon as one of them was run. What is not fair in the
    comparison becomes a note.

    Raises:
        ValueError: there is no run, a folder is given twice, or the runs were not tested on one dataset.
    """
    _check_together(runs)
    groups: dict[tuple[Architecture, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.network, run.protocol].append(run)
    rows = [Row(network, protocol, tuple(group)) for (network, protocol), group in groups.items()]
    networks = {row.network for row in rows}
    if networks & TABLE_8.keys():
        rows += [Row(network) for network in TABLE_8 if network not in networks]
    rows.sort(key=_order)
    differences = tuple(_differences(rows))
    told = tuple(dict.fromkeys(notes(runs, rows, differences)))
    return Comparison(runs[0].test_set, tuple(rows), differences, told)


def _order(row: Row) -> tuple[Any, ...]:
    own = row.network
    return (
        own.depth,
        own.stem_channels,
        own.res2_channels,
        own.cardinality,
        own.width,
        row.protocol or "",
    )


def _check_together(runs: Sequence[Run]) -> None:
    if not runs:
        raise ValueError("there is no run to compare; give the OUTPUT_DIR of one or more trainings")
    folder, times = Counter(run.output_dir.resolve() for run in runs).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"{folder} is given {times} times, which would count one run as several; give it once"
        )
    folders: dict[str, Path] = {}
    for run in runs:
        folders.setdefault(run.test_set, run.output_dir)
    if len(folders) > 1:
        found = ", ".join(f"{folder} on {test_set}" for test_set, folder in folders.items())
        raise ValueError(
            f"runs tested on different datasets cannot be compared in one table: {found}; evaluate them on one dataset, or compare "
            "those of each dataset by themselves"
        )


def _differences(rows: Sequence[Row]) -> Iterator[Difference]:
    """Every X with every R of equal depth and protocol; what the paper has and no protocol measured, without runs."""
    pairs = [
        Difference(x, r)
        for x in rows
        for r in rows
        if x.network.cardinality > 1
        and r.network.cardinality == 1
        and _order(x)[:3] == _order(r)[:3]
    ]
    measured = [
        pair for pair in pairs if pair.x.runs and pair.r.runs and pair.x.protocol == pair.r.protocol
    ]
    yield from measured
    done = {(pair.x.network, pair.r.network) for pair in measured}
    for pair in pairs:
        networks = pair.x.network, pair.r.network
        if networks not in done and pair.paper("AP") is not None:
            done.add(networks)
            yield Difference(Row(pair.x.network), Row(pair.r.network))
