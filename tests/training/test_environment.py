"""What a run was computed with is read as it was written; a damaged record is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from resnext_det.training.environment import (
    ENVIRONMENT_FILE,
    read_environment,
    record_environment,
)


def test_a_record_is_read_as_it_was_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_environment(tmp_path) is None
    sets = {"cells": (tmp_path / "a.json", Path("images"))}
    command = ["resnext-det", "train", "two words"]
    record_environment(tmp_path, sets, device=torch.device("cpu"), processes=2, command=command)
    found = read_environment(tmp_path)
    assert found is not None and found.command == "resnext-det train 'two words'"
    assert found.sets == {"cells": (str(tmp_path / "a.json"), str(Path("images").absolute()))}
    assert found.processes == 2 and found.machine.versions["torch"] and found.machine.cpu
    for damaged in ("[]", '{"sets": 3}', "", '{"machine": {"cpu": 1}}'):
        (tmp_path / ENVIRONMENT_FILE).write_text(damaged)
        assert read_environment(tmp_path) is None
    assert caplog.text.count("is damaged") == 4
