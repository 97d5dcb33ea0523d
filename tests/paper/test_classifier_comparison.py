"""Classifiers beside the paper's tables: its figures, statistics by hand, notes and refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from resnext_det.architecture import Architecture
from resnext_det.config.backbone import write_architecture
from resnext_det.config.classification import get_classifier_cfg, load_classifier_config
from resnext_det.config.rules import get_value
from resnext_det.evaluation.classification import Tally
from resnext_det.paper.comparison import Comparison, compare_classifiers
from resnext_det.paper.figures import CROP_320, DATASETS, DENSE, RECIPES, TABLES
from resnext_det.paper.presentation import convert_to_json, format_comparison
from resnext_det.paper.rows import Estimate
from resnext_det.paper.runs import read_classifier

# Copied from the paper by hand: net; what tells rows of one net apart; top-1 and top-5 error, "-"
# where it is not told.
PAPER = {
    "Table 3": """
        R-50 1x64d               |          | 23.9 -
        X-50 2x40d               |          | 23.0 -
        X-50 4x24d               |          | 22.6 -
        X-50 8x14d               |          | 22.3 -
        X-50 32x4d               |          | 22.2 -
        R-101 1x64d              |          | 22.0 -
        X-101 2x40d              |          | 21.7 -
        X-101 4x24d              |          | 21.4 -
        X-101 8x14d              |          | 21.3 -
        X-101 32x4d              |          | 21.2 -
    """,
    "Table 4": """
        R-101 1x64d              |          | 22.0 6.0
        X-101 32x4d              |          | 21.2 5.6
        R-200 1x64d              |          | 21.7 5.8
        R-101 1x100d             |          | 21.3 5.7
        X-101 2x64d              |          | 20.7 5.5
        X-101 64x4d              |          | 20.4 5.3
    """,
    "Section 5.1, residual connections": """
        R-50 1x64d               |          | 23.9 -
        R-50 1x64d, no shortcuts |          | 31.2 -
        X-50 32x4d               |          | 22.2 -
        X-50 32x4d, no shortcuts |          | 26.1 -
    """,
    "Table 5": """
        R-101 1x64d              |          | 22.0 6.0
        R-200 1x64d              |          | 21.7 5.8
        R-200 1x64d              | crop 320 | 20.1 4.8
        X-101 64x4d              |          | 20.4 5.3
        X-101 64x4d              | crop 320 | 19.1 4.4
        X-101 64x4d              | dense    | 17.7 3.7
    """,
    "Table 6": """
        R-50 1x64d               | 5000-way | 45.5 19.4
        R-50 1x64d               | 1000-way | 27.1 8.2
        X-50 32x4d               | 5000-way | 42.3 16.8
        X-50 32x4d               | 1000-way | 24.4 6.6
        R-101 1x64d              | 5000-way | 42.4 16.9
        R-101 1x64d              | 1000-way | 24.2 6.8
        X-101 32x4d              | 5000-way | 40.1 15.1
        X-101 32x4d              | 1000-way | 22.2 5.7
    """,
    "Table 7": """
        X-29 8x64d               | cifar10  | 3.65 -
        X-29 8x64d               | cifar100 | 17.77 -
        X-29 16x64d              | cifar10  | 3.58 -
        X-29 16x64d              | cifar100 | 17.31 -
    """,
}
# A network of each table, and the set, protocol and ways of its test.
ONE_OF_EACH = {
    "Table 3": ("X-50-8x14d", "imagenet", "crop 224", 1000),
    "Table 4": ("X-101-2x64d", "imagenet", "crop 224", 1000),
    "Section 5.1, residual connections": ("R-50-plain", "imagenet", "crop 224", 1000),
    "Table 5": ("X-101-64x4d", "imagenet", DENSE, 1000),
    "Table 6": ("X-50-32x4d", "imagenet5k", "crop 224", 5000),
    "Table 7": ("X-29-8x64d", "cifar100", "crop 32", 100),
}

CONFIGS = Path(__file__).parents[2] / "configs" / "classification"
OF_THE_PAPER = ("imagenet", "no_shortcuts", "imagenet5k", "cifar10", "cifar100")

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a writer of the folder of a run that follows the paper's recipe.

    Its further keywords are configuration keys, with __ for the dots.
    """

    def write_run(
        name: str,
        network: str = "X-50-32x4d",
        error: float | None = 22.2,
        top5: float = 6.0,
        *,
        dataset: str = "imagenet",
        protocol: str = "crop 224",
        ways: int = 1000,
        images: int | None = None,
        skipped: tuple[str, ...] = (),
        checkpoint: str | None = "model_0000999.pth",
        ended: bool = True,
        tested_on: str = "",
        **keys: Any,
    ) -> Path:
        own, folder, sets = Architecture.parse(network), tmp_path / name, DATASETS[dataset]
        config = yaml.safe_load(get_classifier_cfg().dump())
        config["MODEL"]["RESNETS"].update(write_architecture(own), SHORTCUTS=own.shortcuts)
        settings = {
            **RECIPES[dataset],
            "DATASETS.TRAIN": sets.train,
            "DATASETS.TEST": sets.tests[0],
            "SEED": 0,
        }
        settings.update({key.replace("__", "."): value for key, value in keys.items()})
        for key, value in settings.items():
            *groups, leaf = key.split(".")
            node = config
            for group in groups:
                node = node[group]
            node[leaf] = value
        metrics = {
            "dataset": tested_on,
            "protocol": protocol,
            "images": sets.test_images if images is None else images,
            "ways": ways,
            "top1": None if error is None else 100 - error,
            "top5": 100 - top5,
            "skipped": skipped,
        }
        (folder / "test").mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "test" / f"{protocol}.json").write_text(json.dumps(metrics))
        if checkpoint is not None:
            (folder / "last_checkpoint").write_text(checkpoint)
            if ended:
                (folder / "model_final.pth").touch()
        return folder

    return write_run


def compare_folders(*folders: Path) -> Comparison:
    return compare_classifiers([run for folder in folders for run in read_classifier(folder)])


def list_lines(comparison: Comparison) -> list[str]:
    """List the lines of the text, with one space between words."""
    return [" ".join(line.split()) for line in format_comparison(comparison).splitlines()]


def test_a_run_is_read_from_what_a_training_writes(tmp_path: Path) -> None:
    cfg = get_classifier_cfg()
    cfg.merge_from_list(
        ["DATASETS.TRAIN", "cifar10_train", "DATASETS.TEST", "cifar10_test", "SEED", 7]
    )
    cfg.merge_from_list(["MODEL.RESNETS.DEPTH", 29, "MODEL.RESNETS.NUM_GROUPS", 8])
    cfg.merge_from_list(["MODEL.RESNETS.SHORTCUTS", False])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    tally = Tally([f"class {index}" for index in range(10)])
    generator = torch.Generator().manual_seed(0)
    tally.add(
        torch.randn(64, 10, generator=generator), torch.randint(0, 10, (64,), generator=generator)
    )
    tally.skip("broken.png")
    metrics = tally.compute_metrics("crop 32", "cifar10_test")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "crop_32_10_way.json").write_text(metrics.to_json())
    (tmp_path / "last_checkpoint").write_text("model_0000999.pth")
    (run,) = read_classifier(tmp_path)
    assert run.figures == {"top1": 100 - metrics.top1, "top5": 100 - metrics.top5}
    assert 0 < run.figures["top5"] < run.figures["top1"] < 100
    assert run.setting == ("cifar10", Architecture(29, 8, 64, shortcuts=False), "crop 32", 10)
    assert (run.test["images"], run.test["skipped"], run.seed) == (64, ["broken.png"], 7)
    assert run.last_checkpoint == "model_0000999.pth"
    assert run.config["SOLVER.EPOCHS"] == 100


def test_every_key_of_the_recipes_is_one_of_a_configuration() -> None:
    """Otherwise a departure from the recipe would never be noted."""
    defaults = get_classifier_cfg()
    for recipe in RECIPES.values():
        for key, value in recipe.items():
            default = get_value(defaults, key)
            if isinstance(value, (bool, str, list)):
                assert type(default) in (
                    (tuple, list) if isinstance(value, list) else (type(value),)
                ), key
            else:
                assert isinstance(default, (int, float)) or key == "SOLVER.WEIGHT_DECAY_NORM", key


@pytest.mark.parametrize("name", PAPER)
def test_every_figure_of_the_paper_stands_beside_one_run(name: str, write: Write) -> None:
    network, dataset, protocol, ways = ONE_OF_EACH[name]
    run = write("run", network, 33.25, 11.5, dataset=dataset, protocol=protocol, ways=ways)
    lines = list_lines(compare_folders(run))
    title = next(index for index, line in enumerate(lines) if line.startswith(f"{name}: "))
    rows = lines[
        title + 4 : lines.index("", title + 4)
    ]  # after an empty line, the headers and a rule
    expected = [
        [cell.strip() for cell in line.split("|")] for line in PAPER[name].strip().splitlines()
    ]
    assert len(rows) == len(expected)
    for row, (net, mark, figures) in zip(rows, expected):
        top1, top5 = figures.split()
        assert row.startswith(f"{net} {dataset[:5]}")
        assert (mark or "crop 224, 1000-way") in row
        assert row.endswith((f" - {top1} - {top5} -", f" 1 {top1} 33.25 {top5} 11.50"))
    assert [row.endswith("11.50") for row in rows].count(True) == 1


def test_a_run_is_in_every_table_that_has_its_setting_and_in_no_other(write: Write) -> None:
    def tables(*folders: Path) -> list[str]:
        return [title.partition(":")[0] for title in compare_folders(*folders).tables]

    shortcuts = "Section 5.1, residual connections"
    assert tables(write("a", "X-50-32x4d")) == ["Table 3", shortcuts]
    assert tables(write("b", "R-101")) == ["Table 3", "Table 4", "Table 5"]
    assert tables(write("c", "X-101-64x4d", protocol="crop 320")) == ["Table 5"]
    assert tables(write("d", "X-50-32x4d", dataset="imagenet5k")) == ["Table 6"]
    assert tables(write("e", "X-50-32x4d-plain")) == [shortcuts]
    others = [
        write("f", "X-50-32x4d", protocol="crop 320"),  # the paper has no such figure
        write("g", "X-50-32x4d", ways=100),  # a hundred of the classes
        write("h", "X-50-32x4d", MODEL__RESNETS__RES2_OUT_CHANNELS=128),
        write("i", "X-50-32x4d", DATASETS__TRAIN="shapes_train"),
        write("j", "X-29-8x64d", dataset="cifar10", DATASETS__TEST="cifar100_test"),
    ]
    for folder in others:
        assert tables(folder) == ["Other runs"]
    comparison = compare_folders(*others, write("k", "X-101-32x4d"))
    assert [len(rows) for rows in comparison.tables.values()] == [10, 6, 5]
    lines = list_lines(comparison)
    assert "X-50 32x4d imagenet crop 320, 1000-way 1 - 22.20 - 6.00" in lines
    assert "X-50 32x4d (stem 64, res2 128) imagenet crop 224, 1000-way 1 - 22.20 - 6.00" in lines
    assert (
        "X-50 32x4d imagenet_val (trained on shapes_train) crop 224, 1000-way 1 - 22.20 - 6.00"
        in lines
    )
    note = (
        "note: the paper's figures are of other sets and cannot be compared with those measured on"
    )
    assert sum(line == f"{note} imagenet_val (trained on shapes_train)" for line in lines) == 1


def test_mean_and_spread_of_seeds(write: Write) -> None:
    """By hand: 4, 4, 7 has mean 5 and variance 3; 20, 22, 24 has mean 22 and variance 4."""
    folders = [
        write(
            f"s{seed}",
            "X-29-16x64d",
            error,
            top5,
            dataset="cifar10",
            protocol="crop 32",
            ways=10,
            SEED=seed,
        )
        for seed, (error, top5) in enumerate(((4.0, 20.0), (4.0, 22.0), (7.0, 24.0)))
    ]
    comparison = compare_folders(*folders)
    row = next(row for row in comparison.rows if row.runs)
    top1, top5 = row.estimate("top1"), row.estimate("top5")
    assert top1 is not None and top5 is not None
    assert (top1.mean, top1.spread) == pytest.approx((5, math.sqrt(3)))
    assert (top5.mean, top5.spread) == pytest.approx((22, 2))
    lines = list_lines(comparison)
    assert "X-29 16x64d cifar10 crop 32, 10-way 3 3.58 5.00 ± 1.73 - 22.00 ± 2.00" in lines
    assert comparison.notes == ()
    content = json.loads(convert_to_json(comparison))
    (cells,) = [row for rows in content["tables"].values() for row in rows if row["n"]]
    assert cells["network"] == "X-29-16x64d"
    assert (cells["depth"], cells["shortcuts"], cells["dataset"], cells["ways"]) == (
        29,
        True,
        "cifar10",
        10,
    )
    assert cells["top1"]["paper"] == 3.58
    assert cells["top5"]["paper"] is None
    assert cells["top1"]["measured"] == {
        "mean": pytest.approx(5),
        "spread": pytest.approx(math.sqrt(3)),
    }
    assert [run["seed"] for run in cells["runs"]] == [0, 1, 2]
    assert [run["top1"] for run in cells["runs"]] == pytest.approx([4, 4, 7])


def test_markdown_has_the_same_cells(write: Write) -> None:
    comparison = compare_folders(write("run", "X-50-32x4d", 22.5))
    lines = [
        " ".join(line.split()) for line in format_comparison(comparison, markdown=True).splitlines()
    ]
    assert "## Table 3: cardinality against width at equal complexity, ImageNet-1K" in lines
    assert "| X-50 32x4d | imagenet | crop 224, 1000-way | 1 | 22.2 | 22.50 | - | 6.00 |" in lines
    assert (
        "- an error without ± is of one run: train with several seeds (SEED) to see its spread"
        in lines
    )


def test_every_test_of_a_run_is_read(write: Write) -> None:
    """5000 outputs, tested over all and over 1000, with a larger crop, and on another set."""
    folder = write("run", "R-50", 45.0, 19.0, dataset="imagenet5k", ways=5000, SEED=4)
    first = json.loads((folder / "test" / "crop 224.json").read_text())
    for name, changes in (
        ("1000_way", {"ways": 1000, "top1": 73.5, "top5": 92.0, "dataset": "imagenet_val"}),
        ("320", {"ways": 1000, "top1": 75.5, "top5": 93.0, "protocol": "crop 320"}),
        ("foreign", {"top1": 1.5, "top5": 3.0, "dataset": "shape_images_val"}),
    ):
        (folder / "test" / f"{name}.json").write_text(json.dumps({**first, **changes}))
    assert len(read_classifier(folder)) == 4
    assert len({run.setting for run in read_classifier(folder)}) == 4
    lines = list_lines(
        compare_folders(folder, write("other", "R-50", 44.0, 18.5, dataset="imagenet5k", ways=5000))
    )
    assert "R-50 1x64d imagenet5k crop 224, 5000-way 2 45.5 44.50 ± 0.71 19.4 18.75 ± 0.35" in lines
    assert "R-50 1x64d imagenet5k crop 224, 1000-way 1 27.1 26.50 8.2 8.00" in lines
    assert "R-50 1x64d imagenet5k crop 320, 1000-way 1 - 24.50 - 7.00" in lines
    foreign = "shape_images_val (trained on imagenet5k_train)"
    assert f"R-50 1x64d {foreign} crop 224, 5000-way 1 - 98.50 - 97.00" in lines
    (folder / "test" / "again.json").write_text(json.dumps(first))
    with pytest.raises(ValueError, match="or its folder test has as many of one protocol"):
        compare_folders(folder)


def test_a_set_with_labels_of_5000_classes_is_the_papers_too(write: Write) -> None:
    run = write("run", dataset="imagenet5k", ways=5000, tested_on="imagenet5k_val")
    assert [read.setting.dataset for read in read_classifier(run)] == ["imagenet5k"]


def test_our_configurations_have_the_papers_settings_and_recipe(tmp_path: Path) -> None:
    """Every network of the tables has one, and nothing is said against a run of it."""
    folders = []
    for file in [file for part in OF_THE_PAPER for file in sorted((CONFIGS / part).glob("*.yaml"))]:
        cfg = load_classifier_config(file, ["SEED", "1"])
        folders.append(tmp_path / file.parent.name / file.stem)
        (folders[-1] / "test").mkdir(parents=True)
        (folders[-1] / "config.yaml").write_text(cfg.dump())
        (folders[-1] / "model_final.pth").touch()
        images, size = (10_000 if "cifar" in str(file) else 50_000), cfg.INPUT.SIZE_TEST
        metrics = {
            "protocol": f"crop {size}",
            "images": images,
            "ways": cfg.MODEL.NUM_CLASSES,
            "skipped": [],
        }
        (folders[-1] / "test" / "a.json").write_text(
            json.dumps({**metrics, "top1": 75, "top5": 92})
        )
    comparison = compare_folders(*folders)
    titles = {title.partition(":")[0] for title in comparison.tables}
    assert titles == set(PAPER)  # and no other runs
    missing = [row.setting for row in comparison.rows if not row.runs]
    # Table 5's other protocols, and the 1000-way tests of 5000 outputs.
    assert len(missing) == 3 + 4
    assert all(own.protocol in (CROP_320, DENSE) or own.dataset == "imagenet5k" for own in missing)
    assert not any(note.startswith(("the recipe", str(tmp_path))) for note in comparison.notes)


def list_notes(*folders: Path) -> list[str]:
    """List the notes, other than that of single runs."""
    return [
        note
        for note in compare_folders(*folders).notes
        if not note.startswith("an error without ±")
    ]


_BATCH, _RATE = ("SOLVER.IMS_PER_BATCH is 64", 256), ("SOLVER.BASE_LR is 0.4 for 256 images", 0.1)


@pytest.mark.parametrize(
    ("keys", "departures"),
    [
        ({}, []),
        ({"SOLVER__EPOCHS": 90}, [("SOLVER.EPOCHS is 90", 100)]),
        ({"SOLVER__STEPS": [30, 60]}, [("SOLVER.STEPS is [30, 60]", [30, 60, 90])]),
        ({"SOLVER__WEIGHT_DECAY_NORM": 0.0}, [("SOLVER.WEIGHT_DECAY_NORM is 0.0", 0.0001)]),
        ({"SOLVER__WEIGHT_DECAY_NORM": None}, []),  # as of every other parameter
        ({"SOLVER__NESTEROV": False}, [("SOLVER.NESTEROV is False", True)]),
        ({"INPUT__AUGMENTATION": "modern"}, [("INPUT.AUGMENTATION is modern", "paper")]),
        ({"SOLVER__BASE_LR": 0.4}, [_RATE]),
        # A batch of 64 with a quarter of the learning rate: by hand, and by the reference batch.
        ({"SOLVER__IMS_PER_BATCH": 64, "SOLVER__BASE_LR": 0.025}, [_BATCH]),
        ({"SOLVER__IMS_PER_BATCH": 64, "SOLVER__REFERENCE_BATCH": 256}, [_BATCH]),
        ({"SOLVER__IMS_PER_BATCH": 64}, [_RATE, _BATCH]),
    ],
)
def test_a_recipe_that_is_not_the_papers_is_noted(
    keys: dict[str, Any], departures: list[tuple[str, Any]], write: Write
) -> None:
    notes = list_notes(write("a", SEED=0), write("b", SEED=1, **keys))
    told = "; ".join(f"{said} in 1 of 2, and in the paper {paper}" for said, paper in departures)
    start = "the recipe of runs on imagenet is not the paper's, so its figures are no target for "
    assert notes == ([f"{start}them: {told}"] if departures else [])


def test_figures_that_may_be_wrong_are_noted(write: Write) -> None:
    part = write("part", images=500, SEED=1)
    assert list_notes(part) == [f"{part} was tested on 500 images, and imagenet_val has 50000"]
    skipped = write("skipped", skipped=("a", "b"))
    assert list_notes(skipped) == [f"{skipped} was tested without 2 images, which were skipped"]
    killed = write("killed", ended=False)
    assert list_notes(killed) == [
        f"{killed} was interrupted: its last checkpoint is model_0000999.pth and not "
        "model_final.pth; its figures are those of the last test"
    ]
    foreign = write("foreign", checkpoint=None)
    assert list_notes(foreign) == [
        f"{foreign} has no checkpoint: it is a test of MODEL.WEIGHTS, whose training may have had "
        "another configuration"
    ]
    twins = write("a", SEED=3), write("b", SEED=3), write("c", SEED=4)
    assert list_notes(*twins) == [
        "2 runs of X-50 32x4d (crop 224, 1000-way) have SEED 3: they are no independent runs, and "
        "± is too small"
    ]
    assert list_notes(write("d", SEED=-1), write("e", SEED=-1)) == []  # drawn anew


@pytest.mark.parametrize(
    ("protocol", "shown", "notes"),
    [
        ("crop 224", {"resize": 256, "interpolation": "torch7_bicubic"}, []),
        (
            "crop 224",
            {"resize": 232, "interpolation": "bilinear"},
            [
                "was tested on images of a shorter side of 232 pixels, and the paper's of 256",
                "was tested on images resized by bilinear, and the paper's by torch7_bicubic",
            ],
        ),
        (
            "crop 320",
            {"resize": 365, "interpolation": "torch7_bicubic"},
            ["was tested on images of a shorter side of 365 pixels, and the paper's of 320"],
        ),
        ("ten-crop 224", {"resize": 256, "interpolation": "torch7_bicubic"}, []),
    ],
)
def test_images_that_were_resized_otherwise_are_noted(
    write: Write, protocol: str, shown: dict[str, Any], notes: list[str]
) -> None:
    folder = write("a", "X-101-64x4d", protocol=protocol)
    (file,) = (folder / "test").iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), **shown}))
    assert [note for note in list_notes(folder) if note.startswith(str(folder))] == [
        f"{folder} {note}" for note in notes
    ]


def test_figures_of_another_network_are_noted(write: Write) -> None:
    notes = list_notes(write("r", "R-200"))
    assert len(notes) == 2  # that of ResNet-200, of two tables, once
    assert notes[0].startswith("the paper's ResNet-200 is that of He et al. 2016")
    assert notes[1].startswith(
        "the paper's figures of dense testing are of an entry to ILSVRC 2016"
    )


def test_top5_of_five_classes_or_fewer_is_no_error(write: Write) -> None:
    """Older versions wrote a top-5 of 100, and whole paths."""
    paths = {"DATASETS__TRAIN": "/home/me/pets/train", "DATASETS__TEST": "/home/me/pets/val"}
    old = write("old", error=20.0, top5=0.0, ways=5, tested_on="/home/me/pets/val", **paths)
    new = write("new", error=30.0, ways=5, tested_on="pets/val", SEED=1, **paths)
    test = new / "test" / "crop 224.json"
    content = json.loads(test.read_text())
    del content["top5"]
    test.write_text(json.dumps(content))
    comparison = compare_folders(old, new)
    (row,) = comparison.rows
    assert row.setting.dataset == "pets/val (trained on pets/train)"
    assert len(row.runs) == 2 and row.estimate("top5") is None
    assert row.estimate("top1") == Estimate(25, pytest.approx(50**0.5))
    assert any(line.endswith("2 - 25.00 ± 7.07 - -") for line in list_lines(comparison))
    assert "top-5 of five classes or fewer is always right and says nothing, so it is left out" in (
        comparison.notes
    )
    (cells,) = next(iter(json.loads(convert_to_json(comparison))["tables"].values()))
    assert cells["top5"]["measured"] is None and "top5" not in cells["runs"][0]


def test_folders_of_no_run_are_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no run to compare"):
        compare_classifiers([])
    run = write("run")
    with pytest.raises(
        ValueError, match=r"is given 2 times, or .* \(crop 224\), which would count"
    ):
        compare_folders(run, tmp_path / "run" / ".." / "run")
    with pytest.raises(FileNotFoundError, match=r"runs within it are .*run"):
        compare_folders(tmp_path)
    metrics = run / "test" / "crop 224.json"
    whole = json.loads(metrics.read_text())
    for content, message in (
        ("{", "is not JSON"),
        ("[]", "has no protocol: it is no test of a classifier"),
        (json.dumps({key: value for key, value in whole.items() if key != "top5"}), "has no top5"),
        (json.dumps({**whole, "top1": None}), "top1 is null, as no image was tested"),
        (json.dumps({**whole, "top1": 101}), r"top1 is 101, which is no percentage \(0 to 100\)"),
        (json.dumps({**whole, "top1": "78"}), "top1 is '78', which is no percentage"),
    ):
        metrics.write_text(content)
        with pytest.raises(ValueError, match=message):
            compare_folders(run)
    metrics.unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"test holds no \*\.json: the run was not tested; write resnext-det",
    ):
        compare_folders(run)
    odd = write("odd", MODEL__RESNETS__DEPTH=51)
    with pytest.raises(
        ValueError, match=r"MODEL\.RESNETS is no network known here: no ResNeXt of depth 51"
    ):
        compare_folders(odd)


def test_the_tables_are_of_the_papers_sets_alone() -> None:
    """Compare the number of classes and the set of every setting with the sets' own."""
    ways = {"imagenet": {1000}, "imagenet5k": {1000, 5000}, "cifar10": {10}, "cifar100": {100}}
    settings = [setting for table in TABLES for setting in table.rows]
    assert len(settings) == 10 + 6 + 4 + 6 + 8 + 4
    for setting in settings:
        assert setting.ways in ways[setting.dataset]
        assert setting.network.for_small_images == setting.dataset.startswith("cifar")
