"""A local server of files, and a cache folder of its own, for the tests of downloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from resnext_det.weights.published import downloading
from tests.weights.file_server import Server, run_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setattr(downloading, "_PAUSE", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("RESNEXT_DET_CACHE", str(tmp_path))
    with run_server() as server:
        yield server
