"""The command: its numbers, its files, and its errors without a traceback."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from resnext_det.evaluation.coco import evaluate_coco
from tests.evaluation.helpers import random_set
from tests.tools.helpers import finish, fork_tool, read_error, run_tool, start_tool

run = partial(run_tool, "evaluate_coco")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    annotations, results = random_set(0)
    paths = tmp_path / "annotations.json", tmp_path / "results.json"
    for path, content in zip(paths, (annotations, results)):
        path.write_text(json.dumps(content))
    return paths


def test_the_command_prints_the_table(files: tuple[Path, Path]) -> None:
    printed = finish(start_tool("evaluate_coco", *files, "--per-category"))
    assert printed == (evaluate_coco(*files).format_table() + "\n", "")


@pytest.mark.parametrize("backend", ["auto", "pycocotools"])
def test_the_numbers_go_into_a_json_file(
    files: tuple[Path, Path], backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "metrics.json"
    assert run(*files, "--backend", backend, "--json", out, "--max-detections", 20) == 0
    metrics = evaluate_coco(*files, max_detections_per_image=20)
    numbers = {**metrics.as_dict(recalls=True), "max_detections": 20}
    assert json.loads(out.read_text()) == numbers and "AR20" in numbers
    assert capsys.readouterr().out == metrics.format_table(per_category=False) + "\n"


def test_a_file_that_cannot_be_written_does_not_cost_the_table(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*files, "--json", tmp_path) == 1
    shown = capsys.readouterr()
    assert shown.out == evaluate_coco(*files).format_table(per_category=False) + "\n"
    assert shown.err == f"error: {tmp_path} is a folder; write the name of a file\n"
    assert run(*files, "--plot", tmp_path / "curves.xyz") == 1
    assert capsys.readouterr().err.startswith("error: Format 'xyz' is not supported")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii:strict"])
def test_a_console_that_lacks_letters_gets_escapes(files: tuple[Path, Path], encoding: str) -> None:
    content = json.loads(files[0].read_text())
    content["categories"][0]["name"] = "红细胞"
    files[0].write_text(json.dumps(content))
    started = fork_tool("evaluate_coco", *files, "--per-category", PYTHONIOENCODING=encoding)
    output, errors = finish(started)
    assert r"\u7ea2\u7ec6\u80de " in output and errors == ""


def test_a_reader_that_leaves_early_is_no_error(files: tuple[Path, Path]) -> None:
    process = start_tool("evaluate_coco", *files)
    assert process.stdout is not None
    process.stdout.close()  # as head does once it has its lines
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(timeout=120)) == ("", 0)


def test_the_curves_are_drawn(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(*files, "--plot", tmp_path / "plots" / "curves.png") == 0
    assert (tmp_path / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none.json results.json", "annotation file none.json does not exist"),
        ("annotations.json none.json", "result file none.json does not exist"),
        (
            "results.json annotations.json",
            "results.json is a file of results (detections); give the annotations",
        ),
        ("annotations.json cut.json", "result file cut.json is not JSON: the text ends too early"),
        (
            "annotations.json results.json --max-detections 0",
            "max_detections_per_image is 0",
        ),
    ],
)
def test_an_error_is_one_line(
    files: tuple[Path, Path],
    arguments: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files[0].parent)
    Path("cut.json").write_text("[")
    assert run(*arguments.split()) == 1
    assert message in read_error(capsys)
