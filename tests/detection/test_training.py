"""Trainings that a file stops, and trainings over one another, in the files of detection."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fvcore.common.config import CfgNode

from resnext_det.config import load_config
from resnext_det.data.coco import load_coco
from resnext_det.detection.datasets import build_train_batches, load_datasets
from resnext_det.detection.portable import engine
from resnext_det.training.checkpoint import Checkpointer
from tests.detection.helpers import as_overrides, json_lines, write_config
from tests.training.helpers import assert_same

pytestmark = pytest.mark.usefixtures("registered")


def configure(folder: Path, *changes: Any) -> CfgNode:
    folder.mkdir(exist_ok=True)
    given = ["TEST.EVAL_PERIOD", 4, "SOLVER.CHECKPOINT_PERIOD", 99, *changes]
    overrides = as_overrides([*given, "OUTPUT_DIR", folder / "out"])
    return load_config(write_config(folder), overrides)


@contextmanager
def hidden(path: Path) -> Iterator[None]:
    """Take a file away for a while."""
    path.rename(path.with_suffix(".away"))
    yield
    path.with_suffix(".away").rename(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


def read_last(folder: Path) -> dict[str, Any]:
    return dict(Checkpointer(folder).load(folder / "out" / "model_final.pth"))


@pytest.mark.parametrize(("split", "workers"), [("train", 0), ("train", 2), ("val", 0)])
def test_a_file_that_is_gone_stops_and_changes_nothing(
    tmp_path: Path, whole: Path, split: str, workers: int
) -> None:
    """The checkpoint that the error names goes on as if there had been no error."""
    if not (whole / "out").exists():
        engine.train(configure(whole))
    cfg = configure(tmp_path, "DATALOADER.NUM_WORKERS", workers)
    if split == "train":
        batches = build_train_batches(cfg, load_datasets(cfg, "TRAIN"), 0)
        file, iteration = next(itertools.islice(batches, 3, None))[0]["file_name"], 2
    else:
        file, iteration = load_coco("tiny_val").records[3]["file_name"], 3
    words = rf"{Path(file).name} does not exist.*model_000000{iteration}\.pth.*--resume"
    with hidden(Path(file)), pytest.raises(FileNotFoundError, match=words):
        engine.train(cfg)
    engine.train(cfg, resume=True)
    assert_same(read_last(tmp_path), read_last(whole))
    found, expected = (
        [(line["iteration"], line["bbox/AP"]) for line in lines if "bbox/AP" in line]
        for lines in (json_lines(folder / "out/metrics.json") for folder in (tmp_path, whole))
    )
    assert found == expected and [iteration for iteration, _ in found] == [3, 7, 9]
