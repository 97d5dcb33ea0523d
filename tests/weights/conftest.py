"""Give tests of weights networks of random numbers, and those of downloads a server of files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from torchvision.models import ResNet

from resnext_det.weights.published import downloading
from tests.weights.file_server import Server, run_server
from tests.weights.foreign_names import random_network


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setattr(downloading, "_PAUSE", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("RESNEXT_DET_CACHE", str(tmp_path))
    with run_server() as server:
        yield server


@pytest.fixture(scope="module")
def network() -> ResNet:
    return random_network(26, 2, 4)


@pytest.fixture(scope="module")
def other() -> ResNet:
    return random_network(26, 4, 4)
