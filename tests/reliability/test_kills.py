"""Kill some trainings of every kind; ``tests.reliability.kills`` is the command that kills more."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.reliability.kills import KINDS, kill_all

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_killed_training_is_resumed_as_if_it_had_not_been(tmp_path: Path, name: str) -> None:
    if KINDS[name].engine == "detectron2" and importlib.util.find_spec("detectron2") is None:
        pytest.skip("detectron2 is not installed")
    result = kill_all(tmp_path, 4, [name])[name]
    assert not result.faults
    assert sum(result.killed.values()) > 0
