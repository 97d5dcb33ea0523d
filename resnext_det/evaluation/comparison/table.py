"""Table 8: rows of runs of one network, and the differences X - R."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext_det.architecture import Architecture
from resnext_det.evaluation.comparison.notes import notes
from resnext_det.evaluation.comparison.paper import MINIVAL, TABLE_8
from resnext_det.evaluation.comparison.presentation import as_json, as_text
from resnext_det.evaluation.comparison.runs import Run


@dataclass(frozen=True)
class Estimate:
    """A mean and its spread, which a single run does not have."""

    mean: float
    spread: float | None

    def text(self, sign: str = "") -> str:
        """Two decimals, such as "27.50 ± 0.12"; with ``sign`` "+" a sign always."""
        return f"{self.mean:{sign}.2f}" + ("" if self.spread is None else f" ± {self.spread:.2f}")


@dataclass(frozen=True)
class Row:
    """The runs of a network that follow one protocol; no runs where the network stands in the paper alone."""

    network: Architecture
    protocol: str | None = None
    runs: tuple[Run, ...] = ()

    def paper(self, metric: str) -> float | None:
        """The paper's figure; None for a network that table 8 lacks."""
        return TABLE_8.get(self.network, {}).get(metric)

    def measured(self, metric: str) -> Estimate | None:
        """Mean and sample standard deviation over the runs."""
        values = [getattr(run, metric) for run in self.runs]
        if not values:
            return None
        return Estimate(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def by_seed(self, metric: str) -> dict[int, float]:
        """The figure of every seed; the mean where several runs have one."""
        values: dict[int, list[float]] = defaultdict(list)
        for run in self.runs:
            if run.seed is not None:
                values[run.seed].append(getattr(run, metric))
        return {seed: statistics.fmean(of_seed) for seed, of_seed in values.items()}

    @property
    def net(self) -> str:
        """Such as "X-50"; cardinality 1 is a ResNet, "R-50", of any width."""
        return f"{'R' if self.network.cardinality == 1 else 'X'}-{self.network.depth}"

    @property
    def setting(self) -> str:
        """Such as "32x4d", and the channels where they are not the usual ones."""
        own, usual = self.network, Architecture(self.network.depth)
        text = f"{own.cardinality}x{own.width}d"
        if (own.stem_channels, own.res2_channels) != (usual.stem_channels, usual.res2_channels):
            text += f" (stem {own.stem_channels}, res2 {own.res2_channels})"
        return text

    @property
    def name(self) -> str:
        """Net and setting: "X-50 32x4d"."""
        return f"{self.net} {self.setting}"


@dataclass(frozen=True)
class Difference:
    """A ResNeXt minus the ResNet of equal depth and protocol."""

    x: Row
    r: Row

    def paper(self, metric: str) -> float | None:
        """The difference of the paper's figures; None where it lacks one of them."""
        x, r = self.x.paper(metric), self.r.paper(metric)
        return None if x is None or r is None else x - r

    def measured(self, metric: str) -> Estimate | None:
        """The difference of the means and its standard error, as of runs that do not depend on one another."""
        x, r = self.x.measured(metric), self.r.measured(metric)
        if x is None or r is None:
            return None
        if x.spread is None or r.spread is None:
            return Estimate(x.mean - r.mean, None)
        error = math.sqrt(x.spread**2 / len(self.x.runs) + r.spread**2 / len(self.r.runs))
        return Estimate(x.mean - r.mean, error)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that both networks were trained with."""
        return tuple(sorted(self.x.by_seed("AP").keys() & self.r.by_seed("AP").keys()))

    def paired(self, metric: str) -> Estimate | None:
        """The mean difference at equal seeds and its standard error; None with fewer than two such seeds."""
        x, r = self.x.by_seed(metric), self.r.by_seed(metric)
        values = [x[seed] - r[seed] for seed in self.seeds]
        if len(values) < 2:
            return None
        return Estimate(statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)))


@dataclass(frozen=True)
class Comparison:
    """Runs of several networks on one test set, beside the paper's table 8.

    Attributes:
        rows: by depth, cardinality, width and protocol.
        differences: X - R at each depth, by protocol.
        notes: what makes the comparison, of the runs with one another or with the paper, less than fair.
    """

    test_set: str
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def on_minival(self) -> bool:
        """Whether the paper's figures can be compared with those measured."""
        return self.test_set in MINIVAL

    def table(self) -> str:
        """Rows, differences and notes as text in columns."""
        return as_text(self, markdown=False)

    def to_markdown(self) -> str:
        """Rows, differences and notes as Markdown."""
        return as_text(self, markdown=True)

    def to_json(self) -> str:
        """All of it as a JSON object; null stands for what was not measured or is not in the paper."""
        return as_json(self)


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
    return own.depth, own.stem_channels, own.res2_channels, own.cardinality, own.width, row.protocol or ""


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
        if x.network.cardinality > 1 and r.network.cardinality == 1 and _order(x)[:3] == _order(r)[:3]
    ]
    measured = [pair for pair in pairs if pair.x.runs and pair.r.runs and pair.x.protocol == pair.r.protocol]
    yield from measured
    done = {(pair.x.network, pair.r.network) for pair in measured}
    for pair in pairs:
        networks = pair.x.network, pair.r.network
        if networks not in done and pair.paper("AP") is not None:
            done.add(networks)
            yield Difference(Row(pair.x.network), Row(pair.r.network))
