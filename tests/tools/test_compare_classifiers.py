"""The command: the paper's tables on the screen and in a file; errors without a traceback."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import yaml

from resnext_det.paper.comparison import compare_classifiers
from resnext_det.paper.presentation import convert_to_json, format_comparison
from resnext_det.paper.runs import read_classifier, read_detector
from tests.tools.helpers import finish, fork_tool, read_error, run_tool

run = partial(run_tool, "compare_classifiers")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two seeds of X-29 on CIFAR-10, and a run that was not tested, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, seed, error in (("s1", 1, 3.5), ("s2", 2, 3.7), ("new", 3, None)):
        resnets = {"DEPTH": 29, "NUM_GROUPS": 8, "WIDTH_PER_GROUP": 64, "SHORTCUTS": True}
        resnets.update(STEM_OUT_CHANNELS=64, RES2_OUT_CHANNELS=256)
        datasets = {"TRAIN": "cifar10_train", "TEST": "cifar10_test"}
        config = {"MODEL": {"RESNETS": resnets}, "DATASETS": datasets, "SEED": seed}
        (tmp_path / name / "test").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
        (tmp_path / name / "model_final.pth").touch()
        if error is not None:
            metrics = {"protocol": "crop 32", "images": 10000, "ways": 10, "skipped": []}
            metrics.update(top1=100 - error, top5=99.9)
            (tmp_path / name / "test" / "crop_32_10_way.json").write_text(json.dumps(metrics))
    return ["s1", "s2"]


def test_the_command_prints_the_table(folders: list[str]) -> None:
    output, errors = finish(fork_tool("compare_classifiers", *folders))
    assert errors == ""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert lines[0].startswith("Table 7: CIFAR-10 and CIFAR-100")
    assert "X-29 8x64d cifar10 crop 32, 10-way 2 3.65 3.60 ± 0.14 - 0.10 ± 0.00" in lines
    assert "X-29 16x64d cifar100 crop 32, 100-way - 17.31 - - -" in lines
    assert not any(line.startswith("note:") for line in lines)


def test_markdown_and_json(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*folders, "--markdown", "--json", "new_folder/tables.json") == 0
    comparison = compare_classifiers([run for folder in folders for run in read_classifier(folder)])
    assert capsys.readouterr().out == format_comparison(comparison, markdown=True) + "\n"
    assert (
        Path("new_folder/tables.json").read_text(encoding="utf-8")
        == convert_to_json(comparison) + "\n"
    )


def test_what_was_not_tested_is_left_out_and_told(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*folders, "new") == 0
    said = capsys.readouterr().out
    assert "3.60 ± 0.14" in said
    assert "new/model_final.pth DATASET --output-dir new" in said
    assert "note: left out: new/test holds no *.json: the run was not tested" in said


def test_a_run_that_has_not_ended_is_to_go_on(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("new/model_final.pth").unlink()
    assert run("new") == 1
    said = capsys.readouterr().err
    assert "new/test holds no *.json: the run has not ended; wait for it" in said
    assert "repeat its command with --resume" in said


def test_a_detectors_folder_is_told_apart(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(Path("s2/config.yaml").read_text())
    config["DATASETS"]["TEST"] = ["coco_2017_val"]
    Path("s2/config.yaml").write_text(yaml.safe_dump(config))
    assert run("s1", "s2") == 1
    assert "s2 is of a detector; compare those with resnext-det compare" in capsys.readouterr().err
    with pytest.raises(
        ValueError,
        match=r"s1 is of a classifier; compare those with resnext-det compare-classifiers",
    ):
        read_detector("s1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone",), "there is no folder gone; give the OUTPUT_DIR of a training"),
        (("s1", "s1"), "is given 2 times"),
        (("new",), "new/test holds no *.json: the run was not tested; write resnext-det "),
        (("s1/test",), "s1/test holds no config.yaml"),
        (("s1", "--json", "s1/config.yaml/tables.json"), "a part of it is a file"),
    ],
)  # fmt: skip
def test_an_error_is_one_line(
    folders: list[str], arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 1
    assert message in read_error(capsys)
