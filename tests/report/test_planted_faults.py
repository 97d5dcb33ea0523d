"""Faults that are planted in a set or a training are named by the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.planted_faults import FAULTS, Fault, find_causes_of, find_place, train_fault


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_planted_fault_is_named(fault: Fault, folder: Path, alone: None) -> None:
    """It stands among the first three, or is refused; a sound training is not called ill."""
    try:
        causes = find_causes_of(train_fault(fault, folder))
    except ValueError as error:
        assert fault.title and fault.title in str(error)
        return
    if fault.title:
        assert 1 <= find_place(fault, causes) <= 3, [cause.title for cause in causes]
    else:
        assert not causes
