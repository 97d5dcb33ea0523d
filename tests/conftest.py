"""Settings of the whole suite: processes that run side by side share the cores."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.data import _utils

from resnext_det.data import coco
from resnext_det.training import processes
from tests import fork_server
from tests.detection.helpers import write_sets

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
    torch.set_num_threads(1)


# How long torch's loaders wait for a worker that does not end, which are 5 s.
_utils.MP_STATUS_CHECK_INTERVAL = 0.5


@pytest.fixture(autouse=True)
def _logs_are_as_in_a_new_process() -> Iterator[None]:
    """Undo, before and after each test, what other tests or module fixtures set of the logs."""
    _reset_logs()
    yield
    _reset_logs()


def _reset_logs() -> None:
    for name in ("resnext_det", "detectron2", "fvcore"):
        package = logging.getLogger(name)
        package.setLevel(logging.NOTSET)
        package.propagate = True
        for handler in [handler for handler in package.handlers if handler.name == "resnext_det"]:
            package.removeHandler(handler)
            handler.close()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """tiny_train and tiny_val: {name: (annotations, images)}."""
    return write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start each test as a new process does: no dataset is registered, and torch has one thread."""
    monkeypatch.setattr(coco, "_registered", {})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``launch`` fork its processes from a server; a spawned one loads torch for seconds."""
    monkeypatch.setattr(processes, "start_processes", fork_server.start_processes)


@pytest.fixture
def registered(sets: dict[str, tuple[Path, Path]], alone: None) -> None:
    """Do what ``alone`` does, and register the tiny sets under their names."""
    for name, paths in sets.items():
        coco.register_coco(name, *paths)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Keep the figures that are saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: object, **options: object) -> None:
        saved.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved
