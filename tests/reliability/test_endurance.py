"""Train for some hundred steps; ``tests.reliability.endurance`` trains for as many as asked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.reliability.endurance import Sample, find_growth, train


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_grows_in_a_training(tmp_path: Path) -> None:
    grown = find_growth(train(tmp_path, 1000))
    assert not [line for line in grown if not line.startswith("milliseconds")], grown


def test_what_grows_is_found() -> None:
    still = [Sample(step, 500.0, 20, 9, 3, 30.0) for step in range(50)]
    assert find_growth(still) == []
    leaking = [Sample(step, 500.0 + step, 20 + step, 9, 3, 30.0 + step) for step in range(50)]
    names = [line.partition(":")[0] for line in find_growth(leaking)]
    assert names == ["memory", "handles", "milliseconds of a step"]
