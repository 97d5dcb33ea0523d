"""Trainings that a file stops, and trainings over one another, in the files of detection."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fvcore.common.config import CfgNode

from resnext_det.config import load_config
from resnext_det.data.coco import load_coco
from resnext_det.detection.datasets import build_train_batches, load_datasets
from resnext_det.detection.jobs import Job, find_engine, train
from resnext_det.detection.portable import engine
from resnext_det.training.checkpoint import Checkpointer
from tests.detection.helpers import as_overrides, json_lines, write_config
from tests.training.helpers import assert_same, drop_log, read_files

pytestmark = pytest.mark.usefixtures("registered")


def configure(folder: Path, *changes: Any) -> CfgNode:
    folder.mkdir(exist_ok=True)
    given = ["TEST.EVAL_PERIOD", 4, "SOLVER.CHECKPOINT_PERIOD", 99, *changes]
    overrides = as_overrides([*given, "OUTPUT_DIR", folder / "out"])
    return load_config(write_config(folder), overrides)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


def read_last(folder: Path) -> dict[str, Any]:
    """Read the last checkpoint, without the configuration, which names the folder."""
    content = dict(Checkpointer(folder).load(folder / "out" / "model_final.pth"))
    return {**content, "detector": repr(content["detector"]["metrics"])}  # nan is not nan


@pytest.mark.parametrize(("split", "workers"), [("train", 0), ("train", 2), ("val", 0)])
def test_a_file_that_is_cut_off_stops_and_changes_nothing(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, split: str, workers: int
) -> None:
    """Cut a file off after the look at the data; the resumed run ends like an uninterrupted one."""
    if not (whole / "out").exists():
        engine.train(configure(whole))
    cfg = configure(tmp_path, "DATALOADER.NUM_WORKERS", workers)
    if split == "train":
        batches = build_train_batches(cfg, load_datasets(cfg, "TRAIN"), 0)
        file, iteration = next(itertools.islice(batches, 3, None))[0]["file_name"], 2
    else:
        file, iteration = load_coco("tiny_val").records[3]["file_name"], 3
    content = Path(file).read_bytes()

    def cut_and_load(*arguments: Any) -> Any:
        Path(file).write_bytes(content[: len(content) // 2])
        return build_train_batches(*arguments)

    words = rf"{Path(file).name} cannot be read.*model_000000{iteration}\.pth.*--resume"
    with monkeypatch.context() as patched, pytest.raises(ValueError, match=words):
        patched.setattr(engine, "build_train_batches", cut_and_load)
        engine.train(cfg)
    Path(file).write_bytes(content)
    engine.train(cfg, resume=True)
    assert_same(read_last(tmp_path), read_last(whole))
    found, expected = (
        [(line["iteration"], line["bbox/AP"]) for line in lines if "bbox/AP" in line]
        for lines in (json_lines(folder / "out/metrics.json") for folder in (tmp_path, whole))
    )
    assert found == expected and [iteration for iteration, _ in found] == [3, 7, 9]


@pytest.mark.parametrize(
    "engine_name", ["portable", pytest.param("detectron2", marks=pytest.mark.detectron2)]
)
def test_a_run_does_not_destroy_a_run(tmp_path: Path, engine_name: str) -> None:
    if engine_name == "detectron2":
        pytest.importorskip("detectron2", reason="detectron2 is not installed")
    out = tmp_path / "out"
    short = ["SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "DATASETS.TEST", ()]
    job = Job(write_config(tmp_path), out, tuple(as_overrides(short)), engine=engine_name)
    train(job)
    before = read_files(out)
    run_again = find_engine(engine_name).train
    for again in (lambda: train(job), lambda: run_again(job.configuration())):
        with pytest.raises(ValueError, match=r"holds a run .*--resume.*--overwrite"):
            again()
        assert read_files(out) == before
    # So does one that is told to go on or to overwrite, and fails before it trains.
    for change, how in (
        (("MODEL.WEIGHTS", "nowhere.pth"), {"overwrite": True}),
        (("MODEL.RESNETS.NUM_GROUPS", "1"), {"resume": True}),
    ):
        with pytest.raises((ValueError, FileNotFoundError)):
            train(replace(job, overrides=(*job.overrides, *change), **how))
        assert drop_log(read_files(out)) == drop_log(before)
    (out / "notes.txt").write_text("mine")
    train(replace(job, overwrite=True))
    assert (out / "notes.txt").read_text() == "mine"
    assert [line["iteration"] for line in json_lines(out / "metrics.json")] == [1]
    assert len(list(out.glob("events*"))) == 1


def test_an_evaluation_changes_nothing_of_a_training(tmp_path: Path) -> None:
    cfg = configure(tmp_path, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ())
    engine.train(cfg)
    before = read_files(tmp_path / "out")
    engine.evaluate(cfg, resume=True)
    changed = {name for name, file in read_files(tmp_path / "out").items() if file != before[name]}
    assert {Path(name).name for name in changed} == {
        *("log.txt", "metrics.json", "coco_instances_results.json")
    }
    assert str(tmp_path / "out" / "metrics.json") not in changed  # it is that of inference/
