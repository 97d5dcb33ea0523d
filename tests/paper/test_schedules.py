"""X - R against head and length: intervals by scipy and numpy, tables and a picture."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext_det.architecture import Architecture
from resnext_det.config import load_config
from resnext_det.config.rules import collect_values
from resnext_det.paper.comparison import compare_detectors
from resnext_det.paper.figures import Setting
from resnext_det.paper.rows import find_mean_interval, find_t_quantile
from resnext_det.paper.runs import Run
from resnext_det.paper.schedules import (
    ScheduleComparison,
    compare_schedules,
    format_schedules,
    name_head,
    plot_schedules,
)

CONFIGS = Path(__file__).parents[2] / "configs"
LENGTHS, SEEDS = (200, 600), (0, 1, 2, 3, 4)
HEADS: dict[str, dict[str, Any]] = {
    "C4": {"MODEL.ROI_HEADS.NAME": "ResNeXtSharedRes5ROIHeads"},
    "FPN": {"MODEL.BACKBONE.NAME": "build_resnext_fpn_backbone"},
}


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 400])
def test_student_t_is_scipys(freedom: int) -> None:
    special = pytest.importorskip("scipy.special")
    for probability in (0.5, 0.95, 0.999):
        expected = special.stdtrit(freedom, 0.5 + probability / 2)
        assert find_t_quantile(freedom, probability) == pytest.approx(expected, rel=1e-9)


def test_an_interval_needs_two_values() -> None:
    assert find_mean_interval([3.0]) is None
    interval = find_mean_interval([1.0, 3.0])
    assert interval == pytest.approx((2 - 12.7062047, 2 + 12.7062047))  # t of 1 degree of freedom


def test_a_head_is_named_from_its_configuration() -> None:
    for path in (*CONFIGS.glob("modern/*_X50_*_1x.yaml"), *CONFIGS.glob("miniature/heads/f*.yaml")):
        cfg = load_config(path)
        config = collect_values(cfg)
        assert f"_{name_head(config)}" in f"_{path.stem}".replace("_retinanet", "_RetinaNet")
    assert name_head({}) == "other"


Table = Mapping[tuple[str, str, int, int], float]
"""AP by network, head, length and seed."""


@pytest.fixture(scope="module")
def table() -> Table:
    generator = np.random.default_rng(0)
    keys = [(n, h, i, s) for n in "XR" for h in HEADS for i in LENGTHS for s in SEEDS]
    return dict(zip(keys, generator.uniform(40, 60, len(keys)).tolist()))


@pytest.fixture(scope="module")
def comparison(table: Table) -> ScheduleComparison:
    comparisons = []
    for head, keys in HEADS.items():
        for length in reversed(LENGTHS):
            runs = [
                Run(
                    output_dir=Path(network, head, str(length), str(seed)),
                    setting=Setting("shapes_val", Architecture.parse(name), "joint"),
                    figures={"AP": table[network, head, length, seed], "AP50": 70.0},
                    seed=seed,
                    config={"SOLVER.MAX_ITER": length, **keys},
                )
                for network, name in (("X", "X-50-32x4d"), ("R", "R-50"))
                for seed in SEEDS
            ]
            comparisons.append(compare_detectors(runs))
    return compare_schedules(comparisons)


def subtract(table: Table, head: str, length: int) -> np.ndarray:
    return np.array(
        [table["X", head, length, seed] - table["R", head, length, seed] for seed in SEEDS]
    )


def test_differences_and_changes_are_numpys(comparison: ScheduleComparison, table: Table) -> None:
    by_head = {(h, i): subtract(table, h, i) for h in HEADS for i in LENGTHS}
    for length in LENGTHS:
        by_head["mean of all", length] = np.mean([by_head[h, length] for h in HEADS], axis=0)
    expected = {(h, (i,)): values for (h, i), values in by_head.items()}
    for head in (*HEADS, "mean of all"):
        expected[head, LENGTHS] = by_head[head, 600] - by_head[head, 200]
    found = {(e.head, e.iterations): e for e in (*comparison.differences, *comparison.changes)}
    assert list(found) == [
        *((head, (length,)) for head in HEADS for length in LENGTHS),
        *(("mean of all", (length,)) for length in LENGTHS),
        *((head, LENGTHS) for head in (*HEADS, "mean of all")),
    ]
    for key, values in expected.items():
        assert list(found[key].values.values()) == pytest.approx(values.tolist())
        half = 2.7764451 * values.std(ddof=1) / math.sqrt(len(SEEDS))
        assert found[key].find_interval() == pytest.approx(
            (values.mean() - half, values.mean() + half)
        )


def test_tables_and_picture(comparison: ScheduleComparison, table: Table, tmp_path: Path) -> None:
    text = format_schedules(comparison)
    lines = [re.sub(" +", " ", line).strip() for line in text.splitlines()]
    r, x = (np.array([table[n, "FPN", 600, s] for s in SEEDS]) for n in "RX")
    figures = " ".join(f"{each.mean():.2f} ± {each.std(ddof=1):.2f}" for each in (r, x))
    assert any(line.startswith(f"FPN 600 {figures} {(x - r).mean():+.2f} ") for line in lines)
    assert lines[0] == "X-50 32x4d - R-50 1x64d"
    assert sum(line.startswith(("C4 200 to 600", "mean of all 200 to 600")) for line in lines) == 2
    assert "| head" in format_schedules(comparison, markdown=True)
    plot_schedules(comparison, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > 500
