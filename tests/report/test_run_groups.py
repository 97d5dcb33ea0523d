"""Which runs repeat one training, and what is said of two trainings."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext_det.evaluation.analysis import NumberDifference
from resnext_det.report.run_groups import (
    RunGroup,
    SeedDifference,
    choose_pair,
    choose_test_set,
    compare_seeds,
    find_settings,
    group_runs,
    judge,
)
from resnext_det.report.runs import RunFolder, Series, TestFolder


def make_run(path: str, AP: float | None = 50.0, *, seed: int = 0, **keys: Any) -> RunFolder:
    """A run in memory; further keywords are settings, with __ for the dots."""
    settings = {"SOLVER__BASE_LR": 0.04, "MODEL__WEIGHTS": "", **keys}
    config = {key.replace("__", "."): value for key, value in settings.items()}
    config |= {"SEED": seed, "OUTPUT_DIR": path, "DATASETS.TEST": ("cells",)}
    tests = () if AP is None else (TestFolder("cells", None, {"AP": AP, "AP50": 2 * AP}),)
    return RunFolder(
        path=Path(path),
        cfg=None,
        config=config,
        series={},
        tests=tests,
        environment=None,
        checkpoints={},
        last_checkpoint=None,
        sets={},
    )


def test_runs_of_other_seeds_are_one_training() -> None:
    runs = [
        make_run("/out/R/seed_0"),
        make_run("/out/X/seed_0", SOLVER__BASE_LR=0.01),
        make_run("/out/R/seed_1", seed=1),
        make_run("/out/X/seed_2", seed=2, SOLVER__BASE_LR=0.01),
    ]
    groups = group_runs(runs)
    assert [(g.name, [r.path.name for r in g.runs]) for g in groups] == [
        ("R", ["seed_0", "seed_1"]),
        ("X", ["seed_0", "seed_2"]),
    ]
    assert find_settings(groups) == [("SOLVER.BASE_LR", [0.04, 0.01])]
    assert [run.path.name for run in choose_pair(*groups)] == ["seed_0", "seed_0"]
    with pytest.raises(ValueError, match="/out/R/seed_0 is given twice"):
        group_runs([runs[0], *runs])


def test_weights_of_a_pretraining_for_each_seed_are_alike() -> None:
    files = [f"/out/classifier_seed_{seed}/model_final.pth" for seed in (0, 1)]
    assert (
        len(group_runs([make_run(f"/o/{s}", seed=s, MODEL__WEIGHTS=files[s]) for s in (0, 1)])) == 1
    )
    # With one seed, the weights are what differs.
    assert len(group_runs([make_run(f"/o/{s}", MODEL__WEIGHTS=files[s]) for s in (0, 1)])) == 2
    catalog = [make_run(f"/o/{s}", seed=s, MODEL__WEIGHTS=f"resnext://v{s}") for s in (0, 1)]
    assert [group.name for group in group_runs(catalog)] == ["0", "1"]


def test_runs_that_say_nothing_of_seeds_stand_alone() -> None:
    evaluated = [make_run(f"/o/{backend}", seed=-1) for backend in ("torch", "openvino")]
    assert [len(group.runs) for group in group_runs(evaluated)] == [1, 1]
    series = {"lr": Series(np.array([0]), np.array([0.1]))}
    for seeds, sizes in (((3, 3), [1, 1]), ((-1, -1), [2]), ((3, -1), [2])):
        runs = [replace(make_run(f"/o/{i}", seed=s), series=series) for i, s in enumerate(seeds)]
        assert [len(group.runs) for group in group_runs(runs)] == sizes


def test_sets_of_one_name_are_told_apart_by_their_annotations(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.json" for name in "abc"]
    for file, text in zip(files, ("[1]", "[1]", "[2]"), strict=True):
        file.write_text(text)
    gone = tmp_path / "gone.json"
    a, b, c, d = (
        replace(make_run(f"/o/{i}", seed=i), sets={"cells": (file, tmp_path)})
        for i, file in enumerate([*files, gone])
    )
    assert len(group_runs([a, b, d])) == 1  # a copy is the same set; of d nothing else is known
    groups = group_runs([a, c])
    assert len(groups) == 2 and choose_test_set(groups) is None
    assert find_settings(groups) == [("annotations of cells", [str(files[0]), str(files[2])])]
    assert choose_test_set(group_runs([a, c, d])) is None


def test_a_test_set_is_one_that_all_have() -> None:
    runs = [make_run("/o/a"), make_run("/o/b", None, SOLVER__BASE_LR=1.0)]
    assert choose_test_set(group_runs(runs[:1])) == "cells"
    assert choose_test_set(group_runs(runs)) is None


def make_group(name: str, values: list[float], seeds: list[int]) -> RunGroup:
    runs = [make_run(f"/o/{name}/{s}", v, seed=s) for v, s in zip(values, seeds, strict=True)]
    return RunGroup(name, tuple(runs))


def test_intervals_over_seeds_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats", reason="it computes the intervals anew")
    one, other = [50.0, 51.0, 53.5], [54.0, 53.0, 56.0]
    paired = compare_seeds(
        make_group("a", one, [0, 1, 2]), make_group("b", other, [0, 1, 2]), "AP", "cells"
    )
    differences = np.subtract(other, one)
    expected = stats.t.interval(0.95, 2, differences.mean(), stats.sem(differences))
    assert paired is not None and paired.paired and paired.interval == pytest.approx(expected)
    # Welch's, whose degrees of freedom are rounded down.
    apart = compare_seeds(
        make_group("a", one, [0, 1, 2]), make_group("b", other, [7, 8, 9]), "AP", "cells"
    )
    welch = stats.ttest_ind(other, one, equal_var=False)
    error = (np.mean(other) - np.mean(one)) / welch.statistic
    half = stats.t.ppf(0.975, math.floor(welch.df)) * error
    assert apart is not None and not apart.paired
    assert apart.interval == pytest.approx((apart.difference - half, apart.difference + half))
    assert (
        compare_seeds(make_group("a", [1.0], [0]), make_group("b", other, [0, 1, 2]), "AP", "cells")
        is None
    )


@pytest.mark.parametrize(
    ("values", "images", "seeds", "said"),
    [
        ((50, 55), (2, 8), None, "B is better than A on these images: AP 55.0 against 50.0, a "
         "difference of 5.0 points, 95 % interval +2.0 to +8.0 over images."),
        ((55, 50), (-8, -2), None, "A is better than B on these images: AP 55.0 against 50.0, a "
         "difference of 5.0 points, 95 % interval +2.0 to +8.0 over images."),
        ((50, 50), (0, 0), None, "Neither is better: both have AP 50.0"),
        ((50, 51), (-1, 3), None, "Which is better is open: B has AP 51.0 against 50.0"),
        ((50, 55), (-1, 8), (3, 7), "B is better than A: AP 55.0 against 50.0, a difference of 5.0 "
         "points, 95 % interval +3.0 to +7.0 over 3 and 4 seeds."),
        ((50, 55), (2, 8), (-3, 13), "includes 0. More seeds would narrow it."),
        ((50, 55), None, None, "B has the higher AP (AP 55.0 against 50.0"),
        ((math.nan, 55), None, None, "There is no AP of A, so nothing says which is better."),
    ],
)  # fmt: skip
def test_what_is_said_of_two(
    values: tuple[float, float],
    images: tuple[float, float] | None,
    seeds: tuple[float, float] | None,
    said: str,
) -> None:
    found = judge(
        ("A", "B"),
        values,
        None if images is None else NumberDifference(*values, values[1] - values[0], images, 0.9),
        None if seeds is None else SeedDifference(values[1] - values[0], seeds, (3, 4), False),
    )
    assert said in found
