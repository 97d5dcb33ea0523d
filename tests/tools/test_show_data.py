"""The command: a page where a training would begin, and the status of one that would fail."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.detection.helpers import as_flags, write_config
from tests.tools.helpers import run_tool

run = partial(run_tool, "show_data", "--engine", "portable", "--images", "2")
Sets = dict[str, tuple[Path, Path]]


def test_the_page_is_written_where_a_run_would_be(
    sets: Sets, alone: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    assert run("--config-file", config, *as_flags(sets), "OUTPUT_DIR", tmp_path / "run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("12 training images with ") and "5 test images" in lines[0]
    assert lines[-1] == f"The page is {tmp_path / 'run' / 'data.html'}"
    assert (tmp_path / "run" / "data.html").stat().st_size > 10_000


def test_errors_of_a_training_are_errors_of_the_command(
    sets: Sets, alone: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _ = sets["tiny_train"]
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "gone.png"
    (tmp_path / "broken.json").write_text(json.dumps(content))
    images = str(sets["tiny_train"][1])
    page = tmp_path / "page.html"
    data = ["--train-data", tmp_path / "broken.json", images, "--test-data", file, images]
    assert run("--config-file", write_config(tmp_path), *data, "--output", page) == 1
    output, errors = capsys.readouterr()
    assert "error: " in output and "gone.png" in output and page.is_file()
    assert errors == "error: a training would end with the errors above; mend them first\n"
