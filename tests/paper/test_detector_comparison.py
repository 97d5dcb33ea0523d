"""Detectors beside table 8: the paper's figures, statistics by hand, notes and refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

from resnext_det.architecture import Architecture
from resnext_det.config import load_config
from resnext_det.config.backbone import write_architecture
from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.paper.comparison import Comparison, compare_detectors
from resnext_det.paper.figures import DETECTION_RECIPE
from resnext_det.paper.presentation import convert_to_json, format_comparison, plot_comparison
from resnext_det.paper.rows import Difference
from resnext_det.paper.runs import read_detector
from tests.evaluation.helpers import random_set

CONFIGS = Path(__file__).parents[2] / "configs"

# Copied from the paper: table 8, COCO minival; setting, AP@0.5, AP.
PAPER = {
    "R-50 1x64d": (47.6, 26.5),
    "X-50 32x4d": (49.7, 27.5),
    "R-101 1x64d": (51.1, 29.8),
    "X-101 32x4d": (51.9, 30.0),
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a writer of a run's folder; further keywords are keys, with __ for the dots."""

    def write_run(
        name: str,
        network: str,
        AP: float | None = 25.0,
        AP50: float | None = 45.0,
        *,
        seed: int = 0,
        checkpoint: str | None = "model_final.pth",
        **keys: Any,
    ) -> Path:
        own, folder = Architecture.parse(network), tmp_path / name
        config: dict[str, Any] = {
            "MODEL": {
                "RESNETS": write_architecture(own),
                "WEIGHTS": f"{name}.pkl",
                "LOAD_PROPOSALS": False,
            },
            "DATASETS": {"TEST": ["coco_2017_val"]},
            "SOLVER": {"MAX_ITER": 180000, "BASE_LR": 0.005},
            "OUTPUT_DIR": str(folder),
            "SEED": seed,
        }
        for key, value in keys.items():
            *groups, leaf = key.split("__")
            node = config
            for group in groups:
                node = node.setdefault(group, {})
            node[leaf] = value
        (folder / "inference").mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "inference" / "metrics.json").write_text(
            json.dumps({"AP": AP, "AP50": AP50, "APs": None})
        )
        if checkpoint is not None:
            (folder / "last_checkpoint").write_text(checkpoint)
        return folder

    return write_run


def compare_folders(*folders: Path) -> Comparison:
    return compare_detectors([read_detector(folder) for folder in folders])


def list_lines(table: str) -> list[str]:
    """List the lines of a table, with one space between words."""
    return [" ".join(line.split()) for line in table.splitlines()]


def find_difference(comparison: Comparison) -> Difference:
    measured = [pair for pair in comparison.differences if pair.estimate("AP")]
    assert len(measured) == 1
    return measured[0]


def test_a_run_is_read_from_what_a_training_writes(tmp_path: Path) -> None:
    cfg = load_config(
        CONFIGS / "faster_rcnn_X101_32x4d.yaml", ["SEED", "7", "SOLVER.BASE_LR", "1e-5"]
    )
    (tmp_path / "config.yaml").write_text(cfg.dump())
    metrics = evaluate_coco(*random_set(0))
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "metrics.json").write_text(metrics.to_json())
    (tmp_path / "last_checkpoint").write_text("model_0000999.pth")
    lines = [
        {"bbox/AP": 1.0, "iteration": 9},
        {"bbox/AP": metrics.AP, "iteration": 19},
        {"iteration": 20},
    ]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"bbox/AP": 9')
    run = read_detector(tmp_path)
    assert run.figures == {"AP": metrics.AP, "AP50": metrics.AP50}
    assert run.setting == ("coco_2017_val", Architecture.parse("X-101-32x4d"), "joint", None)
    assert run.seed == 7
    assert (run.last_checkpoint, run.recorded_AP) == ("model_0000999.pth", metrics.AP)
    assert run.config["SOLVER.BASE_LR"] == 1e-5
    assert run.config["INPUT.MIN_SIZE_TRAIN"] == [600]


def test_a_limit_that_is_not_cocos_is_noted(write: Write) -> None:
    folder = write("run", "R-50")
    metrics = {"AP": 25.0, "AP50": 45.0, "max_detections": 300}
    (folder / "inference" / "metrics.json").write_text(json.dumps(metrics))
    (folder / "metrics.json").write_text(json.dumps({"bbox@300/AP": 1.5}))
    run = read_detector(folder)
    assert (run.max_detections, run.recorded_AP) == (300, 1.5)
    words = "AP and AP50 are of at most 300 detections an image, where COCO counts 100"
    assert f"{folder}: {words}, as the paper does" in compare_folders(folder).notes


@pytest.mark.parametrize("name", ["R50_1x64d", "X50_32x4d", "R101_1x64d", "X101_32x4d"])
def test_our_configurations_follow_the_papers_recipe(name: str) -> None:
    """Compare the recipe that runs are held to with the configurations of table 8."""
    config = yaml.safe_load(load_config(CONFIGS / f"faster_rcnn_{name}.yaml").dump())
    for key, value in DETECTION_RECIPE.items():
        held = config
        for part in key.split("."):
            held = held[part]
        assert held == value, key


def test_the_papers_figures_and_differences_stand_beside_one_run(write: Write) -> None:
    comparison = compare_folders(write("x50", "X-50-32x4d", 26.94, 48.11))
    assert {
        row.name: (row.get_paper("AP50"), row.get_paper("AP")) for row in comparison.rows
    } == PAPER
    assert [row.name for row in comparison.rows] == list(PAPER)
    assert [len(row.runs) for row in comparison.rows] == [0, 1, 0, 0]
    lines = list_lines(format_comparison(comparison))
    assert "R-50 1x64d - - 47.6 - 26.5 -" in lines
    assert "X-50 32x4d joint 1 49.7 48.11 27.5 26.94" in lines
    assert "X-50 32x4d - R-50 1x64d - - +2.1 - +1.0 -" in lines
    assert "X-101 32x4d - R-101 1x64d - - +0.8 - +0.2 -" in lines


def test_mean_spread_and_differences_of_seeds(write: Write) -> None:
    """By hand: X 28, 28, 31 has mean 29, variance 3; R 26, 27, 28 has mean 27, variance 1.

    So the standard error of X - R is sqrt(3/3 + 1/3). At equal seeds X - R is 2, 1, 3: mean 2,
    variance 1, standard error sqrt(1/3).
    """
    x = [
        write(f"x{seed}", "X-50-32x4d", AP, AP + 22, seed=seed)
        for seed, AP in enumerate((28.0, 28.0, 31.0))
    ]
    r = [
        write(f"r{seed}", "R-50", AP, AP + 20, seed=seed)
        for seed, AP in enumerate((26.0, 27.0, 28.0))
    ]
    comparison = compare_folders(*x, *r)
    difference = find_difference(comparison)
    for row, mean, spread in ((difference.x, 29, math.sqrt(3)), (difference.r, 27, 1)):
        estimate = row.estimate("AP")
        assert estimate is not None
        assert (estimate.mean, estimate.spread) == pytest.approx((mean, spread))
        assert len(row.runs) == 3
    measured, paired = difference.estimate("AP"), difference.estimate_paired("AP")
    assert measured is not None and paired is not None
    assert (measured.mean, measured.spread) == pytest.approx((2, math.sqrt(4 / 3)))
    assert (paired.mean, paired.spread) == pytest.approx((2, math.sqrt(1 / 3)))
    assert difference.seeds == (0, 1, 2)
    lines = list_lines(format_comparison(comparison))
    assert "R-50 1x64d joint 3 47.6 47.00 ± 1.00 26.5 27.00 ± 1.00" in lines
    assert "X-50 32x4d joint 3 49.7 51.00 ± 1.73 27.5 29.00 ± 1.73" in lines
    line = "X-50 32x4d - R-50 1x64d joint 3, 3 +2.1 +4.00 ± 1.15 +1.0 +2.00 ± 1.15"
    assert f"{line} 3 +4.00 ± 0.58 +2.00 ± 0.58" in lines
    assert not any("without ±" in note for note in comparison.notes)


@pytest.mark.parametrize(
    ("seeds_of_x", "seeds_of_r", "common", "paired"),
    [
        ((0, 1, 2), (0, 1), (0, 1), 2 - 0.5),  # X is 28, 29, 30; R 26, 28: +2, +1
        ((0, 1, 2), (1, 2), (1, 2), 2.5),  # +3, +2
        ((0, 1, 2), (2, 5), (2,), None),
        ((0, 1, 2), (7, 8), (), None),
        ((-1, -1, -1), (-1, -1), (), None),  # drawn anew, and so unknown
    ],
)
def test_only_equal_seeds_are_paired(
    write: Write,
    seeds_of_x: tuple[int, ...],
    seeds_of_r: tuple[int, ...],
    common: tuple[int, ...],
    paired: float | None,
) -> None:
    x = [write(f"x{i}", "X-50-32x4d", 28.0 + i, seed=seed) for i, seed in enumerate(seeds_of_x)]
    r = [write(f"r{i}", "R-50", 26.0 + 2 * i, seed=seed) for i, seed in enumerate(seeds_of_r)]
    comparison = compare_folders(*x, *r)
    difference = find_difference(comparison)
    assert difference.seeds == common
    estimate, means = difference.estimate_paired("AP"), difference.estimate("AP")
    assert (estimate and estimate.mean) == paired
    assert ("paired" in format_comparison(comparison)) == (paired is not None)
    assert means is not None and means.mean == 29 - 27
    assert means.spread == pytest.approx(math.sqrt(1 / 3 + 2 / 2))


def test_one_run_each_gives_a_difference_without_spread(write: Write) -> None:
    comparison = compare_folders(
        write("x", "X-101-32x4d", 30.25, 52.0), write("r", "R-101", 29.75, 51.5)
    )
    assert "X-101 32x4d - R-101 1x64d joint 1, 1 +0.8 +0.50 +0.2 +0.50" in list_lines(
        format_comparison(comparison)
    )
    assert any(note.startswith("a difference without ± may be chance") for note in comparison.notes)


def test_networks_that_the_paper_lacks_have_rows_of_their_own(write: Write) -> None:
    runs = [
        write("x", "X-26-8x4d", 40.0),
        write("r", "R-26", 38.5),
        write("w", "X-26-1x128d", 39.0),
    ]
    comparison = compare_folders(*runs)
    assert [row.name for row in comparison.rows] == ["R-26 1x64d", "R-26 1x128d", "X-26 8x4d"]
    assert all(row.get_paper("AP") is None for row in comparison.rows)
    found = {(pair.x.name, pair.r.name): pair.estimate("AP") for pair in comparison.differences}
    assert {names: estimate and estimate.mean for names, estimate in found.items()} == {
        ("X-26 8x4d", "R-26 1x64d"): 1.5,
        ("X-26 8x4d", "R-26 1x128d"): 1.0,
    }
    lines = list_lines(format_comparison(comparison))
    assert "X-26 8x4d joint 1 - 45.00 - 40.00" in lines
    assert "X-26 8x4d - R-26 1x64d joint 1, 1 - +0.00 - +1.50" in lines


def test_a_narrow_network_is_another_network(write: Write) -> None:
    narrow = {"MODEL__RESNETS__STEM_OUT_CHANNELS": 32, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64}
    runs = (
        write("x", "X-50-32x4d", **narrow),
        write("full", "R-50"),
        write("r", "R-50", 24.0, **narrow),
    )
    comparison = compare_folders(*runs)
    papers = {row.name: row.get_paper("AP") for row in comparison.rows if row.runs}
    slim = "(stem 32, res2 64)"
    assert papers == {f"X-50 32x4d {slim}": None, "R-50 1x64d": 26.5, f"R-50 1x64d {slim}": None}
    assert find_difference(comparison).r.name == f"R-50 1x64d {slim}"


def test_a_difference_in_size_is_said(write: Write) -> None:
    """X-101-64x4d has 15.46 G multiply-adds, R-101 7.80; table 8's networks are of one size."""
    runs = [write("x", "X-101-64x4d"), write("r", "R-101")]
    runs += [
        write(f"{name}2", network, MODEL__LOAD_PROPOSALS=True)
        for name, network in (("x", "X-101-64x4d"), ("r", "R-101"))
    ]
    notes = compare_folders(*runs).notes
    expected = "X-101 64x4d has 1.98 times the multiply-adds of R-101 1x64d"
    assert sum(note.startswith(expected) for note in notes) == 1  # though two protocols were run
    notes = compare_folders(write("a", "X-101-32x4d"), write("b", "R-101")).notes
    assert not any("multiply-adds" in note for note in notes)


def test_protocols_are_told_apart(write: Write) -> None:
    two_step = {
        "MODEL__LOAD_PROPOSALS": True,
        "MODEL__PROPOSAL_GENERATOR__NAME": "PrecomputedProposals",
    }
    proposals = {"DATASETS__PROPOSAL_FILES_TEST": ["r.pkl"]}
    joint = {"MODEL__PROPOSAL_GENERATOR__NAME": "RPN", "DATASETS__PROPOSAL_FILES_TEST": []}
    comparison = compare_folders(
        write("x1", "X-50-32x4d", 27.0, **joint),
        write("x2", "X-50-32x4d", 28.0, **two_step, DATASETS__PROPOSAL_FILES_TEST=["x.pkl"]),
        write("r1", "R-50", 26.5, **joint),
        write("r2", "R-50", 26.0, **two_step, **proposals),
        write("r101", "R-101", 30.0, **two_step, **proposals),
        write("x101", "X-101-32x4d", 31.0, **joint),
    )
    found = {(row.name, row.protocol): len(row.runs) for row in comparison.rows}
    both = {
        (f"{name}", protocol): 1
        for name in ("R-50 1x64d", "X-50 32x4d")
        for protocol in ("joint", "two-step")
    }
    assert found == {**both, ("R-101 1x64d", "two-step"): 1, ("X-101 32x4d", "joint"): 1}
    means = {
        (pair.x.name, pair.x.protocol): estimate and estimate.mean
        for pair in comparison.differences
        for estimate in [pair.estimate("AP")]
    }
    assert means == {
        ("X-50 32x4d", "joint"): 0.5,
        ("X-50 32x4d", "two-step"): 2.0,
        (
            "X-101 32x4d",
            None,
        ): None,  # each protocol has but one of the two; the paper's difference stays
    }
    assert not any("differ in" in note for note in comparison.notes)
    assert (
        sum(
            note.startswith("joint: RPN and Fast R-CNN were trained together")
            for note in comparison.notes
        )
        == 1
    )
    alone = compare_folders(write("x3", "X-50-32x4d", **two_step, **proposals))
    assert not any(note.startswith("joint") for note in alone.notes)


@pytest.mark.parametrize(
    ("key", "value", "note"),
    [
        (
            "SOLVER__MAX_ITER",
            90000,
            "these runs differ in SOLVER.MAX_ITER: 180000 in {r}; 90000 in {x}",
        ),
        ("INPUT__MIN_SIZE_TEST", 800, None),  # one run alone tells it
        ("DATASETS__TRAIN", ["shapes_train"], None),
        ("MODEL__WEIGHTS", "other.pkl", None),
        ("MODEL__WEIGHTS", "", "these runs differ in MODEL.WEIGHTS: a file in {r}; empty in {x}"),
        ("OUTPUT_DIR", "elsewhere", None),
        ("SEED", 5, None),
    ],
)
def test_what_the_runs_differ_in_is_said(
    write: Write, key: str, value: Any, note: str | None
) -> None:
    r, x = write("r", "R-50"), write("x", "X-50-32x4d", **{key: value})
    differing = [
        note for note in compare_folders(r, x).notes if note.startswith("these runs differ in")
    ]
    assert differing == ([] if note is None else [note.format(r=r, x=x)])


def test_the_two_names_of_the_c4_head_are_no_difference(write: Write) -> None:
    folders = [
        write(f"{index}", "R-50", MODEL__ROI_HEADS={"NAME": name})
        for index, name in enumerate(("Res5ROIHeads", "ResNeXtRes5ROIHeads"))
    ]
    assert not [note for note in compare_folders(*folders).notes if "HEADS" in note]


def test_of_many_runs_the_exceptions_are_named(write: Write) -> None:
    folders = [write(f"r{seed}", "R-50", seed=seed, INPUT__FORMAT="RGB") for seed in range(5)]
    odd = write("odd", "X-50-32x4d", INPUT__FORMAT="BGR", SOLVER__STEPS=[60000])
    notes = compare_folders(*folders, odd).notes
    assert f"these runs differ in INPUT.FORMAT: BGR in {odd}; RGB in the 5 others" in notes
    recipe = next(note for note in notes if note.startswith("the recipe"))
    assert recipe.endswith("SOLVER.STEPS is [60000] in 1 of 6, and in the paper [120000]")


def test_another_test_set_is_not_the_papers(write: Write) -> None:
    keys = {"DATASETS__TEST": ["bccd_val"], "SOLVER__MAX_ITER": 80}
    comparison = compare_folders(write("x", "X-50-32x4d", **keys))
    assert comparison.notes[0] == (
        "the paper's figures are of COCO minival and cannot be compared with those measured on "
        "bccd_val"
    )
    assert not any("recipe" in note for note in comparison.notes)
    for number, name in enumerate(("coco_2017_val", "coco_2014_minival")):
        notes = compare_folders(
            write(f"y{number}", "X-50-32x4d", DATASETS__TEST=[name], SOLVER__MAX_ITER=80)
        ).notes
        assert not any("cannot be compared" in note for note in notes)
        assert any(
            "SOLVER.MAX_ITER is 80 in 1 of 1, and in the paper 180000" in note for note in notes
        )


def test_one_of_several_test_sets_is_chosen(write: Write) -> None:
    folder = write("run", "R-50", DATASETS__TEST=["coco_2017_val", "shapes_val"])
    for name, AP in (("coco_2017_val", 30.5), ("shapes_val", 61.5)):
        (folder / "inference" / name).mkdir()
        (folder / "inference" / name / "metrics.json").write_text(
            json.dumps({"AP": AP, "AP50": AP + 20})
        )
        run = read_detector(folder, dataset=name)
        assert (run.figures, run.setting.dataset) == ({"AP": AP, "AP50": AP + 20}, name)
    with pytest.raises(
        ValueError, match=r"was tested on coco_2017_val, shapes_val; name one .* --dataset"
    ):
        read_detector(folder)
    with pytest.raises(
        ValueError, match=r"not tested on bccd_val: its DATASETS.TEST is \['coco_2017_val', 'sha"
    ):
        read_detector(folder, dataset="bccd_val")
    (folder / "metrics.json").write_text(
        '{"shapes_val/bbox/AP": 50.0, "coco_2017_val/bbox/AP": 30.5}\n'
    )
    assert [
        read_detector(folder, dataset=name).recorded_AP for name in ("coco_2017_val", "shapes_val")
    ] == [
        30.5,
        50.0,
    ]


def test_runs_that_cannot_stand_in_one_table(write: Write) -> None:
    one, other = write("one", "R-50"), write("other", "X-50-32x4d", DATASETS__TEST=["bccd_val"])
    with pytest.raises(
        ValueError, match=r"different datasets .*one on coco_2017_val, .*other on bccd_val; eval"
    ):
        compare_folders(one, other)
    link = one.with_name("link")
    link.symlink_to(one)
    for again in (one, link, one / ".." / "one"):
        with pytest.raises(ValueError, match=r"one is given 2 times, .*; give it once"):
            compare_folders(one, again)
    with pytest.raises(ValueError, match=r"no run to compare; give the OUTPUT_DIR"):
        compare_detectors([])


def test_sets_of_one_name_and_other_annotations_cannot_stand_in_one_table(
    write: Write, tmp_path: Path
) -> None:
    machine = {"cpu": "", "processors": 1, "threads": 1, "capability": "", "versions": {}}
    record = {"began": "", "command": "", "processes": 1, "machine": machine}
    folders = [write(str(number), "R-50", seed=number) for number in range(3)]
    for folder, text in zip(folders, ("[1]", "[1]", "[2]"), strict=True):
        file = tmp_path / f"{folder.name}.json"
        file.write_text(text)
        environment = record | {"sets": {"coco_2017_val": [str(file), str(tmp_path)]}}
        (folder / "environment.json").write_text(json.dumps(environment))
    compare_folders(*folders[:2])  # a copy is the same set
    with pytest.raises(
        ValueError, match=r"sets of the name coco_2017_val .*0 on .*, .*2 on .*2\.j"
    ):
        compare_folders(*folders)
    (tmp_path / "2.json").unlink()
    compare_folders(*folders)


def test_doubtful_runs_are_noted(write: Write) -> None:
    sound, interrupted = (
        write("sound", "R-50"),
        write("cut", "R-101", checkpoint="model_0004999.pth"),
    )
    evaluated, again = (
        write("eval", "X-50-32x4d", checkpoint=None),
        write("again", "X-101-32x4d", 25.0),
    )
    (sound / "metrics.json").write_text('{"bbox/AP": 25.004}\n')
    (again / "metrics.json").write_text('{"bbox/AP": 31.5}\n{"bbox/AP": 23.5}\n')
    twins = [write(f"twin{number}", "R-26", seed=3) for number in range(2)]
    notes = compare_folders(sound, interrupted, evaluated, again, *twins).notes
    assert not any(str(sound) in note for note in notes)
    for expected in (
        f"{interrupted} was interrupted: its last checkpoint is model_0004999.pth and not",
        f"{evaluated} has no checkpoint: it is a test of MODEL.WEIGHTS",
        f"{again}: AP is 25.00 in inference and 23.50 at the end of metrics.json",
        "2 runs of R-26 1x64d (joint) have SEED 3: they are no independent runs",
    ):
        assert sum(note.startswith(expected) for note in notes) == 1, expected


def make_unfinished(folder: Path) -> None:
    (folder / "inference" / "metrics.json").unlink()
    (folder / "last_checkpoint").write_text("model_0000999.pth")


def make_unevaluated(folder: Path) -> None:
    metrics = folder / "inference" / "metrics.json"
    metrics.rename(metrics.with_name("coco_instances_results.json"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "config.yaml").unlink(), "run holds no config.yaml, .*; give the OUT"),
        (lambda run: (run / "inference" / "metrics.json").unlink(), ".*--eval-only --resume"),
        (make_unfinished, "metrics.json does not exist: the run has not ended; .* with --resume"),
        (make_unevaluated, "write resnext-det evaluate ANNOTATIONS .*results.json --json"),
    ],
)
def test_a_folder_without_the_files_of_a_run(
    write: Write, spoil: Callable[[Path], None], message: str
) -> None:
    folder = write("run", "R-50")
    read_detector(folder)
    spoil(folder)
    with pytest.raises(FileNotFoundError, match=message):
        read_detector(folder)


STEP_ONE = "MODEL: {META_ARCHITECTURE: ProposalNetwork, RESNETS: {DEPTH: 50}}"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config", STEP_ONE, "first of two steps .* holds proposals, .*; give .* of the second"),
        ("config", "MODEL: [1", "config.yaml is not plain YAML: .* line 1"),
        (
            "config",
            "!!python/object/apply:os.getcwd []",
            "is not plain YAML: there is a tag in line 1",
        ),
        ("config", "a: &a {b: *a}", "config.yaml is not plain YAML"),
        ("config", "- 1", "config.yaml has no MODEL.RESNETS.DEPTH"),
        ("config", "model: {depth: 50}", "config.yaml has no MODEL.RESNETS.DEPTH"),
        ("metrics", '{"AP": 1', "metrics.json is not JSON .*line 1.*again"),
        ("metrics", "[]", "metrics.json has no AP50: it is no evaluation"),
        ("metrics", '{"AR@100": 50}', "has no AP50: .*; give a run that found"),
        ("metrics", '{"AP50": 1}', "metrics.json has no AP: "),
        ("metrics", '{"AP50": null, "AP": null}', "AP50 is null, .*no annotated"),
        ("metrics", '{"AP50": 1, "AP": NaN}', "AP is null, .*no annotated"),
        ("metrics", '{"AP50": -1, "AP": -1}', "AP50 is -1, which is no percentage"),
        ("metrics", '{"AP50": "47", "AP": 1}', "AP50 is '47', which is no perc"),
    ],
)
def test_damaged_files_of_a_run(write: Write, file: str, content: str, message: str) -> None:
    folder = write("run", "R-50")
    (folder / {"config": "config.yaml", "metrics": "inference/metrics.json"}[file]).write_text(
        content
    )
    with pytest.raises(ValueError, match=message):
        read_detector(folder)


def test_a_folder_without_a_run_points_to_those_within_it(write: Write) -> None:
    one, other = write("table8/one", "R-50"), write("table8/other", "R-101")
    with pytest.raises(FileNotFoundError, match=f"runs within it are {one}, {other}$"):
        read_detector(one.parent)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*gone; give the OUTPUT_DIR"):
        read_detector(one.parent / "gone")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"MODEL__RESNETS__DEPTH": 34},
            r"config.yaml: MODEL.RESNETS is no network .*depth 34 is known; choose one",
        ),
        ({"MODEL__RESNETS__DEPTH": [50]}, r"config.yaml: MODEL.RESNETS is no network"),
        ({"MODEL__RESNETS__STEM_OUT_CHANNELS": None}, r"stem_channels is None"),
        ({"DATASETS__TEST": []}, r"not tested on any dataset: its DATASETS.TEST is \[\]"),
    ],
)
def test_a_configuration_that_tells_no_network_or_test_set(
    write: Write, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_detector(write("run", "R-50", **keys))


@pytest.fixture
def quartet(write: Write) -> Comparison:
    """Two seeds of each network, half a point below and above the paper's figures."""
    folders = []
    for name, (AP50, AP) in PAPER.items():
        network = name.replace(" 1x64d", "").replace(" ", "-")
        for seed, shift in enumerate((-0.5, 0.5)):
            folders.append(write(f"{network}_{seed}", network, AP + shift, AP50 + shift, seed=seed))
    return compare_folders(*folders)


def test_markdown_holds_the_table_of_the_paper(quartet: Comparison) -> None:
    markdown = format_comparison(quartet, markdown=True)
    assert markdown.startswith(
        "## Table 8 of the ResNeXt paper (COCO minival), and runs tested on coco_2017_val"
    )
    lines = [line.replace(" ", "").replace("±", " ± ") for line in markdown.splitlines()]
    for name, (AP50, AP) in PAPER.items():
        spread = "± 0.71"  # the root of 2 * 0.5**2 / (2 - 1)
        net, setting = name.split()
        assert (
            f"|{net}|{setting}|joint|2|{AP50}|{AP50:.2f} {spread}|{AP}|{AP:.2f} {spread}|" in lines
        )
    start = "|X-5032x4d-R-501x64d|joint|2,2|+2.1|+2.10 ± 0.71|+1.0|+1.00 ± 0.71"
    assert f"{start}|2|+2.10 ± 0.00|+1.00 ± 0.00|" in lines
    assert [f"- {note}" for note in quartet.notes] == [
        line for line in markdown.splitlines() if line.startswith("- ")
    ]


def test_json_holds_every_figure(quartet: Comparison, write: Write) -> None:
    content = json.loads(convert_to_json(quartet))
    assert content["test_set"] == "coco_2017_val"
    assert content["notes"] == list(quartet.notes)
    found = {row["network"]: (row["AP50"]["paper"], row["AP"]["paper"]) for row in content["rows"]}
    assert found == dict(zip(("R-50", "X-50-32x4d", "R-101", "X-101-32x4d"), PAPER.values()))
    row = content["rows"][3]
    assert (row["depth"], row["cardinality"], row["width"], row["n"]) == (101, 32, 4, 2)
    assert row["AP"]["measured"] == pytest.approx({"mean": 30.0, "spread": math.sqrt(0.5)})
    assert [(run["seed"], run["AP"], run["AP50"]) for run in row["runs"]] == [
        (0, 29.5, 51.4),
        (1, 30.5, 52.4),
    ]
    difference = content["differences"][1]
    assert (difference["X"], difference["R"], difference["n"]) == ("X-101-32x4d", "R-101", [2, 2])
    assert difference["AP50"]["paper"] == pytest.approx(0.8)
    assert difference["AP50"]["measured"] == pytest.approx({"mean": 0.8, "spread": math.sqrt(0.5)})
    assert difference["AP"]["paired"] == pytest.approx({"mean": 0.2, "spread": 0})
    single = json.loads(convert_to_json(compare_folders(write("one", "X-26-8x4d"))))
    assert single["rows"][0]["AP"] == {"paper": None, "measured": {"mean": 25.0, "spread": None}}
    assert single["differences"] == []


def read_heights(axes: Any, marker: str) -> list[float]:
    return [
        float(y) for line in axes.lines if line.get_marker() == marker for y in line.get_ydata()
    ]


def test_the_figures_are_drawn(quartet: Comparison, tmp_path: Path, figures: list[Figure]) -> None:
    plot_comparison(quartet, tmp_path / "table8.png")
    assert Image.open(tmp_path / "table8.png").size[0] > 1000
    panels = figures[0].axes
    assert len(panels) == 4
    for axes, place in zip(panels[:2], (0, 1)):
        published = [figures_of[place] for figures_of in PAPER.values()]
        assert read_heights(axes, "D") == published
        assert read_heights(axes, "o") == pytest.approx(published)
        assert read_heights(axes, ".") == pytest.approx(
            [y + shift for y in published for shift in (-0.5, 0.5)]
        )
        bars = [bar[:, 1] for lines in axes.collections for bar in lines.get_segments() if len(bar)]
        spread = math.sqrt(0.5)
        assert [tuple(bar) for bar in bars] == [
            pytest.approx((y - spread, y + spread)) for y in published
        ]
        names = [label.get_text() for label in axes.get_xticklabels()]
        assert names == ["R-50\n1x64d", "X-50\n32x4d", "R-101\n1x64d", "X-101\n32x4d"]
    for axes, differences in zip(panels[2:], ((2.1, 0.8), (1.0, 0.2))):
        assert read_heights(axes, "D") == pytest.approx(differences)
        assert read_heights(axes, "o") == pytest.approx(differences)
    assert {entry.get_text() for entry in figures[0].legends[0].get_texts()} == {
        "table 8 of the paper",
        "measured, joint training",
    }


def test_elsewhere_the_papers_figures_are_not_drawn(
    write: Write, tmp_path: Path, figures: list[Figure]
) -> None:
    keys = {"DATASETS__TEST": ["bccd_val"]}
    x, r = write("x", "X-50-32x4d", 62.0, **keys), write("r", "R-50", 60.0, **keys)
    plot_comparison(compare_folders(x, r), tmp_path / "both.png")
    plot_comparison(compare_folders(x), tmp_path / "one.pdf")
    both, one = (figure.axes for figure in figures)
    assert [len(both), len(one)] == [4, 2]
    assert all(read_heights(axes, "D") == [] for axes in [*both, *one])
    assert read_heights(both[1], "o") == [60.0, 62.0]
    assert read_heights(both[3], "o") == [2.0]
    assert read_heights(one[1], "o") == [62.0]
    assert [label.get_text() for label in one[1].get_xticklabels()] == ["X-50\n32x4d"]
