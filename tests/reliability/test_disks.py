"""Fill the disk of a training at some writes; ``tests.reliability.disks`` is the whole proof."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.reliability.disks import Result, can_mount, fill, list_limits
from tests.reliability.kills import KINDS, Killer


@pytest.mark.slow
def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    if sys.platform != "linux" or not can_mount():
        pytest.skip("only root can mount a small file system")
    killer, result = Killer(KINDS["portable"], tmp_path / "portable", random.Random(0)), Result()
    for limit in list_limits(killer.whole, 12, killer.chance)[::5]:
        fill(killer, limit, result)
    assert not result.faults
    assert result.refused > 0
