"""The command: both steps from one line, one line of numbers, and an exit status."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.detection.helpers import C4_CHANGES, as_flags, as_overrides, write_sets
from tests.detection.test_two_step import make_jobs
from tests.tools.helpers import fork_like_torchrun, load_tool

pytestmark = pytest.mark.usefixtures("alone")

main = load_tool("train_two_step")["main"]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    sets = write_sets(tmp_path / "sets")
    rpn, fast_rcnn = make_jobs(sets, tmp_path)
    files = ["--rpn", str(rpn.config_file), "--fast-rcnn", str(fast_rcnn.config_file)]
    flags = ["--no-report", "--engine", "portable", *as_flags(sets)]
    return [*files, *flags, "--output-dir", str(tmp_path / "both")]


def test_both_steps(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """KEY VALUE hold for both, and --resume goes on."""
    assert main([*command, "SOLVER.MAX_ITER", "2"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert re.fullmatch(r"tiny_val: AP .*, AP50 .*; everything is in .*both/fast_rcnn", last)
    for step in ("rpn", "fast_rcnn"):
        assert (tmp_path / "both" / step / "model_final.pth").is_file()
        assert "MAX_ITER: 2" in (tmp_path / "both" / step / "config.yaml").read_text()
    trained = (tmp_path / "both" / "rpn" / "model_final.pth").stat().st_mtime_ns
    assert main([*command, "--resume", "SOLVER.MAX_ITER", "2"]) == 0
    assert (tmp_path / "both" / "rpn" / "model_final.pth").stat().st_mtime_ns == trained


def test_sets_that_are_given_by_their_files(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replace the sets of both configurations, and ask for a test set that both steps share."""
    given = [word for word in command if word != "--register-coco"]
    train, val = given.index("tiny_train"), given.index("tiny_val")
    given[train], given[val] = "--train-data", "--test-data"
    assert main([*given, "SOLVER.MAX_ITER", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("instances_val: AP ")
    written = {path.name for path in (tmp_path / "both" / "rpn" / "inference").glob("*.pkl")}
    assert written == {"proposals_instances_train.pkl", "proposals_instances_val.pkl"}
    del given[val : val + 3]
    assert main([*given, "SOLVER.MAX_ITER", "2"]) == 1
    assert "--train-data needs --test-data in two steps" in capsys.readouterr().err


def test_two_processes_under_torchrun(command: list[str], tmp_path: Path) -> None:
    """They meet once for both steps; there are several sets to propose on."""
    several = ["DATASETS.TRAIN", "('tiny_train', 'tiny_val')", "SOLVER.MAX_ITER", 2]
    given = (*command, *several, *as_overrides(C4_CHANGES))
    output, _ = fork_like_torchrun("train_two_step", *given)
    assert output.count("everything is in") == 1
    written = {path.name for path in (tmp_path / "both" / "rpn" / "inference").glob("*.pkl")}
    assert written == {"proposals_tiny_train.pkl", "proposals_tiny_val.pkl"}
    end = torch.load(tmp_path / "both" / "fast_rcnn" / "model_final.pth", weights_only=True)
    assert len(end["random_state"]) == 2


def test_a_user_error(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "DATASETS.PROPOSAL_FILES_TRAIN", "('mine.pkl',)"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "error: DATASETS.PROPOSAL_FILES_TRAIN = ('mine.pkl',) would not be read"
    )


@pytest.mark.parametrize("missing", ["--rpn", "--fast-rcnn"])
def test_both_configurations_are_needed(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--rpn": "a.yaml", "--fast-rcnn": "b.yaml"}
    del given[missing]
    with pytest.raises(SystemExit) as stopped:
        main([word for pair in given.items() for word in pair])
    assert stopped.value.code == 2 and missing in capsys.readouterr().err
