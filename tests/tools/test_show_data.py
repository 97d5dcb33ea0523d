"""The command: a page where a training would begin, and the status of one that would fail."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fvcore.common.config import CfgNode

from resnext_det.report import data_page
from resnext_det.report.data_findings import Finding
from resnext_det.report.data_page import DataPage
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


def test_an_error_of_a_training_is_the_status_of_the_command(
    sets: Sets,
    alone: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = (Finding("error", "an image is gone"), Finding("note", "it is large"))

    def write(cfg: CfgNode, path: Path, **options: Any) -> DataPage:
        assert path == tmp_path / "page.html" and options["check_data"]
        assert [len(cfg.DATASETS[split]) for split in ("TRAIN", "TEST")] == [1, 1]
        return DataPage(path, found, "12 images")

    monkeypatch.setattr(data_page, "write_data_page", write)
    train, test = sets.values()
    data = ["--train-data", *train, "--test-data", *test, "--check-data"]
    config = ["--config-file", write_config(tmp_path)]
    assert run(*config, *data, "--output", tmp_path / "page.html") == 1
    output, errors = capsys.readouterr()
    assert output.splitlines()[:3] == ["12 images", "error: an image is gone", "note: it is large"]
    assert errors == "error: a training would end with the errors above; mend them first\n"
