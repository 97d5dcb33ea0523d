"""The command: its tables and files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resnext_det.benchmark import comparison, trunks
from tests.tools.helpers import load_tool, read_error, run_tool

SIZES = ("--height", 32, "--width", 32, "--repeats", 1)


def test_a_table_and_files(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(comparison, "PRODUCT_SIZES", {"cpu": 16})
    monkeypatch.setattr(trunks, "list_runtimes", list)
    files = ("--json", tmp_path / "times.json", "--png", tmp_path / "times.png")
    words = ("--networks", "x-26-2x4d", "--backends", "none", *SIZES)
    assert run_tool("benchmark", *words, *files) == 0
    said = capsys.readouterr().out
    assert "X-26-2x4d: trunk (stem to res5), inference, 1x3x32x32, cpu" in said
    assert "Building X-26-2x4d, resnext_det, float32 and comparing" in caplog.text
    assert "in 1 turns, after turn 0, which does not count" in caplog.text
    assert "| resnext_det " in said and "Speed-up: how many times faster" in said
    content = json.loads((tmp_path / "times.json").read_text())
    names = [timing["name"] for timing in content["comparisons"][0]["timings"]]
    assert "resnext_det" in names and "torchvision" in names
    assert (tmp_path / "times.png").stat().st_size > 1000


def test_the_table_of_gpus(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnext_det.benchmark import gpu_table

    monkeypatch.setattr(gpu_table, "PRODUCT_SIZES", {"cpu": 16})
    words = ("--mode", "gpu-table", "--device", "cpu", "--networks", "R-26", "--batch", 1)
    assert run_tool("benchmark", *words, *SIZES, "--minutes", "0.01") == 0
    assert "Not timed, as 0.01 minutes were over" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--mode", "loading", "--batch", "4", "--networks", "R-101"),
            "--networks, --batch: of no effect with --mode loading",
        ),
        (("--proposals", "300"), "--proposals: of no effect with networks alone; add --detectors"),
        (("--mode", "gpu-table", "--png", "a.png"), "--png: of no effect with --mode gpu-table"),
        (("--cudnn-benchmark",), "--cudnn-benchmark: of no effect with --mode inference"),
        (("--mode", "training", "--dtype", "int8"), "--dtype int8: in inference alone"),
        (("--backends", "none", "folded"), "--backends none stands alone"),
        (("--png", "times.jpeg"), "--png times.jpeg: the name ends in .png, .pdf, .svg"),
        *(((f"--{name}", "0"), f"--{name} 0: write 1 or more") for name in ("batch", "repeats")),
        (("--detectors", "C4", "--proposals", "300", "0"), "--proposals 0: write 1 or more"),
    ],
)
def test_words_that_are_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        load_tool("benchmark")["main"](list(words))
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_what_is_wrong_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tool("benchmark", "--json", tmp_path) == 1
    assert read_error(capsys) == f"--json {tmp_path} is a folder; write the name of a file\n"
    assert run_tool("benchmark", "--png", tmp_path / "none" / "a.png") == 1
    assert "there is no folder" in read_error(capsys)
    assert run_tool("benchmark", "--networks", "X-51") == 1
    assert "'X-51' does not say its cardinality" in capsys.readouterr().err
