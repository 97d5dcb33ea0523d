"""Run the commands where Linux looks like Windows or macOS; the numbers stay those of Linux."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from resnext_det.training.checkpoint import Checkpointer
from tests.detection.helpers import as_flags, write_config
from tests.other_systems import list_names, make_start_up
from tests.tools.helpers import ROOT, make_environment
from tests.training.helpers import assert_same

SCHEDULE = ("SOLVER.MAX_ITER", 6, "SOLVER.STEPS", "(3,)", "SOLVER.CHECKPOINT_PERIOD", 2)
WORKERS = ("DATALOADER.NUM_WORKERS", 1)


@pytest.fixture(scope="module", params=["win32", "darwin"])
def system(request: pytest.FixtureRequest) -> str:
    """Name a system as ``sys.platform`` does."""
    pytest.importorskip("mypy", reason="typeshed, which mypy brings, tells the names of systems")
    if sys.platform != "linux":
        pytest.skip("Linux is made to look like another system")
    return str(request.param)


def run(folder: Path, system: str | None, *command: object) -> str:
    """Run a command to its end; returns what it wrote to stderr."""
    environment = make_environment()
    if system is not None:
        start_up = folder / f"as_{system}"
        start_up.mkdir(exist_ok=True)
        environment |= make_start_up(start_up, system)
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


@pytest.mark.slow
def test_commands_work_and_give_the_same_numbers(
    sets: dict[str, tuple[Path, Path]], tmp_path: Path, system: str
) -> None:
    """Some two minutes. Every new process imports torch, as on these systems."""
    config = write_config(tmp_path)
    common = ("tools/train_net.py", "--config-file", config, *as_flags(sets))
    whole, parts, two = (tmp_path / name for name in ("whole", "parts", "two"))
    run(tmp_path, None, *common, *SCHEDULE, "OUTPUT_DIR", whole)

    def imitate(*command: object) -> str:
        return run(tmp_path, system, *command)

    imitate(*common, *WORKERS, *SCHEDULE[2:], "SOLVER.MAX_ITER", 4, "OUTPUT_DIR", parts)
    imitate(*common, "--resume", *WORKERS, *SCHEDULE, "OUTPUT_DIR", parts)
    ends = [Checkpointer(path).load(path / "model_final.pth") for path in (whole, parts)]
    assert_same(ends[0]["model"], ends[1]["model"])
    assert_same(ends[0]["optimizer"], ends[1]["optimizer"])

    final = parts / "model_final.pth"
    imitate(*common, "--overwrite", "--num-gpus", 2, *SCHEDULE, "OUTPUT_DIR", two)
    imitate(*common, "--eval-only", "MODEL.WEIGHTS", final, "OUTPUT_DIR", tmp_path / "tested")
    images = sets["tiny_val"][1]
    imitate("tools/predict.py", images, "--weights", final, "--output", tmp_path / "seen")
    imitate("tools/convert_weights.py", final, tmp_path / "weights.pth")
    imitate("tools/inspect_weights.py", final)
    assert not list(tmp_path.rglob("*.partial"))


def test_names_of_a_system_are_hidden(system: str) -> None:
    hidden = list_names("os", "linux") - list_names("os", system)
    lacking = {"win32": {"fork", "killpg", "setpgrp"}, "darwin": {"sched_getaffinity"}}
    assert lacking[system] <= hidden
    assert not hidden & {"replace", "fsync", "getpid", "path"}
