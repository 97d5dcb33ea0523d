"""The command: table 8 on the screen and in files, and its errors without a traceback."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import yaml

from resnext_det.paper.comparison import compare_detectors
from resnext_det.paper.presentation import convert_to_json, format_comparison
from resnext_det.paper.runs import read_detector
from tests.tools.helpers import finish, fork_tool, read_error, run_tool

run = partial(run_tool, "compare")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A ResNet, a ResNeXt, and a run that was not evaluated, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, groups, width, AP in (
        ("R50", 1, 64, 26.1),
        ("X50", 32, 4, 27.2),
        ("new", 1, 64, None),
    ):
        resnets = {"DEPTH": 50, "NUM_GROUPS": groups, "WIDTH_PER_GROUP": width}
        resnets.update(STEM_OUT_CHANNELS=64, RES2_OUT_CHANNELS=256)
        config = {"MODEL": {"RESNETS": resnets}, "DATASETS": {"TEST": ["coco_2017_val"]}, "SEED": 1}
        (tmp_path / name / "inference").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
        if AP is not None:
            (tmp_path / name / "inference" / "metrics.json").write_text(
                json.dumps({"AP": AP, "AP50": AP + 20})
            )
    return ["R50", "X50"]


def test_the_command_prints_the_table(folders: list[str]) -> None:
    output, errors = finish(fork_tool("compare", *folders))
    assert errors == ""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "R-50 1x64d joint 1 47.6 46.10 26.5 26.10" in lines
    assert "X-50 32x4d - R-50 1x64d joint 1, 1 +2.1 +1.10 +1.0 +1.10" in lines
    assert "X-101 32x4d - R-101 1x64d - - +0.8 - +0.2 -" in lines


def test_the_table_goes_into_files(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [
        "--markdown",
        "new_folder/table8.md",
        "--png",
        "plots/table8.png",
        "--json",
        "table8.json",
    ]
    assert run(*folders, *outputs) == 0
    comparison = compare_detectors([read_detector(folder) for folder in folders])
    assert capsys.readouterr().out == format_comparison(comparison) + "\n"
    assert (
        Path("new_folder/table8.md").read_text(encoding="utf-8")
        == format_comparison(comparison, markdown=True) + "\n"
    )
    assert Path("table8.json").read_text(encoding="utf-8") == convert_to_json(comparison) + "\n"
    assert Path("plots/table8.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone",), "there is no folder gone; give the OUTPUT_DIR of a training"),
        (("R50", "R50"), "is given 2 times"),
        (("R50", "new"), "new/inference/metrics.json does not exist: the run has not ended"),
        (("R50/inference",), "R50/inference holds no config.yaml"),
        (("R50", "--dataset", "bccd_val"), "R50 was not tested on bccd_val"),
        (("R50", "X50", "--png", "table8.xyz"), "Format 'xyz' is not supported"),
        (("R50", "--markdown", "R50/config.yaml/table8.md"), "a part of it is a file"),
    ],
)
def test_an_error_is_one_line(
    folders: list[str], arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 1
    assert message in read_error(capsys)
