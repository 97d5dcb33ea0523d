"""Fixtures of the tests of detectors."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["portable", pytest.param("detectron2", marks=pytest.mark.detectron2)])
def engine(request: pytest.FixtureRequest) -> str:
    """Name each engine that can be used here."""
    if request.param == "detectron2":
        pytest.importorskip("detectron2", reason="detectron2 is not installed")
    return request.param
