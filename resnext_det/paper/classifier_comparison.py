"""The paper's tables of classification beside the errors of runs: by table, with their spread, and what makes them not alike."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate

from resnext_det.paper.classifier_runs import METRICS, ClassificationRun
from resnext_det.paper.figures import (
    DATASETS,
    RECIPES,
    TABLES,
    Errors,
    PaperTable,
    Setting,
)
from resnext_det.paper.rows import Estimate, Row
from resnext_det.paper.runs import FINAL

_OTHERS = "Other runs: of settings that the paper has no figure of"


@dataclass(frozen=True)
class ComparedRow:
    """The paper's errors of a setting, None where it has none, and the runs of it."""

    setting: Setting
    paper: Errors | None = None
    runs: tuple[ClassificationRun, ...] = ()

    def measured(self, metric: str) -> Estimate | None:
        """Mean and sample standard deviation over the runs."""
        values = [getattr(run, metric) for run in self.runs]
        if not values:
            return None
        return Estimate(
            statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
        )

    @property
    def name(self) -> str:
        """Such as "X-50 32x4d, no shortcuts"."""
        return Row(self.setting.network).name + (
            "" if self.setting.network.shortcuts else ", no shortcuts"
        )

    @property
    def protocol(self) -> str:
        """Such as "crop 224, 1000-way"."""
        return f"{self.setting.protocol}, {self.setting.ways}-way"


@dataclass(frozen=True)
class ClassificationComparison:
    """Runs beside the paper's figures.

    Attributes:
        tables: by title, each table of the paper of which something was run, with all its rows; then what the paper lacks.
        notes: what makes the comparison, of the runs with one another or with the paper, less than fair.
    """

    tables: Mapping[str, tuple[ComparedRow, ...]]
    notes: tuple[str, ...]

    def table(self, *, markdown: bool = False) -> str:
        """Tables and notes as text in columns, or as Markdown."""
        headers = [
            "net",
            "dataset",
            "protocol",
            "n",
            "top-1, paper",
            "top-1",
            "top-5, paper",
            "top-5",
        ]
        alignment, style = ["left"] * 3 + ["right"] * 5, "pipe" if markdown else "simple"
        paragraphs = []
        for title, rows in self.tables.items():
            paragraphs.append(f"## {title}" if markdown else title)
            cells = [_cells(row) for row in rows]
            paragraphs.append(
                tabulate(cells, headers, tablefmt=style, colalign=alignment, disable_numparse=True)
            )
        paragraphs.append(
            "Errors in percent. Measured: the mean of n runs ± their sample standard deviation."
        )
        if self.notes:
            paragraphs.append(
                "\n".join(f"{'-' if markdown else 'note:'} {note}" for note in self.notes)
            )
        return "\n\n".join(paragraphs)

    def to_json(self) -> str:
        """The same with all digits, and with every run; null stands for what was not measured or is not in the paper."""
        tables = {title: [_as_dict(row) for row in rows] for title, rows in self.tables.items()}
        return json.dumps({"tables": tables, "notes": self.notes}, indent=2, ensure_ascii=False)


def compare_classifiers(
    runs: Sequence[ClassificationRun], *, left_out: Sequence[str] = ()
) -> ClassificationComparison:
    """Set runs beside the paper's errors of the same dataset, network and protocol, in every table that has them.

    Args:
        left_out: of each run that has no errors yet, why; a note tells.

    Raises:
        ValueError: there is no run, or a folder is given twice, or holds one test twice.
    """
    if not runs:
        raise ValueError("there is no run to compare; give the OUTPUT_DIR of one or more trainings")
    counts = Counter((run.output_dir.resolve(), run.setting) for run in runs)
    (folder, setting), times = counts.most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"{folder} is given {times} times, or its folder test has as many of one protocol ({setting.protocol}), which would count one "
            "run as several; give it once, and keep one file"
        )
    groups: dict[Setting, tuple[ClassificationRun, ...]] = defaultdict(tuple)
    for run in runs:
        groups[run.setting] += (run,)
    shown = [table for table in TABLES if table.rows.keys() & groups.keys()]
    tables = {
        f"{table.name}: {table.caption}": tuple(
            ComparedRow(setting, errors, groups.get(setting, ()))
            for setting, errors in table.rows.items()
        )
        for table in shown
    }
    known = {setting for table in shown for setting in table.rows}
    others = [
        ComparedRow(setting, None, group)
        for setting, group in groups.items()
        if setting not in known
    ]
    if others:
        tables[_OTHERS] = tuple(others)
    return ClassificationComparison(
        tables,
        tuple(
            dict.fromkeys(
                [*_notes(runs, groups, shown), *(f"left out: {reason}" for reason in left_out)]
            )
        ),
    )


def _notes(
    runs: Sequence[ClassificationRun],
    groups: Mapping[Setting, Sequence[ClassificationRun]],
    shown: Sequence[PaperTable],
) -> Iterator[str]:
    for table in shown:
        yield from table.remarks
    for dataset in dict.fromkeys(run.setting.dataset for run in runs):
        if dataset in DATASETS:
            yield from _departures(dataset, [run for run in runs if run.setting.dataset == dataset])
        else:
            yield f"the paper's figures are of other sets and cannot be compared with those measured on {dataset}"
    for run in runs:
        yield from _doubts(run)
    for setting, group in groups.items():
        row = ComparedRow(setting)
        for seed, times in Counter(run.seed for run in group if run.seed is not None).items():
            if times > 1:
                yield f"{times} runs of {row.name} ({row.protocol}) have SEED {seed}: they are no independent runs, and ± is too small"
    if any(len(group) == 1 for group in groups.values()):
        yield "an error without ± is of one run: train with several seeds (SEED) to see its spread"


def _departures(dataset: str, runs: Sequence[ClassificationRun]) -> Iterator[str]:
    """Every key of the recipe that runs have otherwise, the learning rate in proportion to the batch (the authors' README)."""
    recipe, others = RECIPES[dataset], []
    configs = {
        run.output_dir: run.config for run in runs
    }  # a run may have been tested in several ways
    for key, paper in recipe.items():
        values = [_value(config, key, recipe) for config in configs.values()]
        found = [value for value in values if value is not None and value != paper]
        if found:
            of_batch = (
                f" for {recipe['SOLVER.IMS_PER_BATCH']} images" if key == "SOLVER.BASE_LR" else ""
            )
            told = " or ".join(sorted({str(value) for value in found}))
            others.append(
                f"{key} is {told}{of_batch} in {len(found)} of {len(configs)}, and in the paper {paper}"
            )
    if others:
        yield f"the recipe of runs on {dataset} is not the paper's, so its figures are no target for them: {'; '.join(others)}"


def _value(config: Mapping[str, Any], key: str, recipe: Mapping[str, Any]) -> Any:
    """What the run does by a key, at the paper's batch; None where its configuration does not tell."""
    value = config.get(key)
    if key == "SOLVER.WEIGHT_DECAY_NORM" and value is None:
        return config.get("SOLVER.WEIGHT_DECAY")
    batch = config.get("SOLVER.REFERENCE_BATCH") or config.get("SOLVER.IMS_PER_BATCH")
    if key == "SOLVER.BASE_LR" and value is not None and batch:
        return float(f"{value * recipe['SOLVER.IMS_PER_BATCH'] / batch:.6g}")
    return value


def _doubts(run: ClassificationRun) -> Iterator[str]:
    """What may be wrong with the figures of one run."""
    dataset = DATASETS.get(run.setting.dataset)
    if dataset is not None and run.num_images != dataset.test_images:
        yield f"{run.output_dir} was tested on {run.num_images} images, and {dataset.tests[0]} has {dataset.test_images}"
    elif run.num_skipped:
        yield f"{run.output_dir} was tested without {run.num_skipped} images, which were skipped"
    yield from _other_images(run)
    if run.last_checkpoint is None:
        yield f"{run.output_dir} has no checkpoint: it is a test of MODEL.WEIGHTS, whose training may have had another configuration"
    elif run.last_checkpoint != FINAL:
        yield f"{run.output_dir} was interrupted: its last checkpoint is {run.last_checkpoint} and not {FINAL}"


def _other_images(run: ClassificationRun) -> Iterator[str]:
    """Where photographs were resized otherwise than by fb.resnet.torch, which the paper refers to."""
    if run.setting.dataset not in ("imagenet", "imagenet5k"):
        return
    usual = {"crop 224": 256, "crop 320": 320}.get(run.setting.protocol)
    if usual is not None and run.resize not in (None, usual):
        yield f"{run.output_dir} was tested on images of a shorter side of {run.resize} pixels, and the paper's of {usual}"
    if run.interpolation not in (None, "", "torch7_bicubic"):
        yield f"{run.output_dir} was tested on images resized by {run.interpolation}, and the paper's by torch7_bicubic"


def _cells(row: ComparedRow) -> list[str]:
    cells = [row.name, row.setting.dataset, row.protocol, str(len(row.runs) or "-")]
    for metric in METRICS:
        paper, measured = getattr(row.paper, metric, None), row.measured(metric)
        cells += [
            "-" if paper is None else f"{paper:.2f}".removesuffix("0"),
            measured.text() if measured else "-",
        ]
    return cells


def _as_dict(row: ComparedRow) -> dict[str, Any]:
    measured = {metric: row.measured(metric) for metric in METRICS}
    return {
        "dataset": row.setting.dataset,
        "network": str(row.setting.network),
        **asdict(row.setting.network),
        "protocol": row.setting.protocol,
        "ways": row.setting.ways,
        "n": len(row.runs),
        **{
            metric: {
                "paper": getattr(row.paper, metric, None),
                "measured": None if estimate is None else asdict(estimate),
            }
            for metric, estimate in measured.items()
        },
        "runs": [
            {
                "output_dir": str(run.output_dir),
                "seed": run.seed,
                "images": run.num_images,
                "last_checkpoint": run.last_checkpoint,
                **{metric: getattr(run, metric) for metric in METRICS},
            }
            for run in row.runs
        ],
    }
