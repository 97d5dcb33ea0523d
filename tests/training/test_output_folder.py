"""Test what a training may do with an output folder: go on, refuse, or remove the run in it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fvcore.common.config import CfgNode

from resnext_det.config.detection import get_cfg
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.output_folder import (
    check_output_dir,
    check_settings,
    find_run,
    hold_output_dir,
    remove_run,
)
from tests.training.helpers import run_in_another_process

# What a detector's and a classifier's training leave; then what they do not remove.
RUN = [
    *("last_checkpoint", "model_0000999.pth", "model_final.pth", "model_best.pth", "metrics.json"),
    *("events.out.tfevents.17.host.1.0", "inference/metrics.json", "inference/set/metrics.json"),
    *("inference/coco_instances_results.json", "inference/set/coco_instances_results.json"),
    *("inference/instances_predictions.pth", "inference/proposals_set.pkl"),
    "test/val_crop_224_10_way.json",
]
OTHERS = [
    *("config.yaml", "log.txt", "log.txt.rank1", "notes.md", "model_final.onnx", "model_12.pth"),
    *("model_best_of_may.pth", "my/model_final.pth", "inference/drawn.png", "metrics.json.bak"),
    *("inference/mine/deep/metrics.json", "test/photo.jpg"),
]


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x\n")


def check(
    folder: Path | str, weights: str = "", proposals: tuple[str, ...] = (), **how: Any
) -> None:
    node = {
        "OUTPUT_DIR": str(folder),
        "MODEL": {"WEIGHTS": weights},
        "DATASETS": {"PROPOSAL_FILES_TRAIN": proposals},
    }
    check_output_dir(CfgNode(node), **{"resume": False, "overwrite": False, **how})


@pytest.mark.parametrize(
    ("name", "words"),
    [("", "is no folder; write one"), ("a\0", "null character"), ("\udcff", "no UTF-8")],
)
def test_a_name_that_no_folder_has(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"OUTPUT_DIR = .* {words}"):
        check(name)


@pytest.mark.parametrize("name", ["last_checkpoint", "model_final.pth", "environment.json"])
def test_a_folder_in_the_place_of_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match=rf"{name} is a folder, and a training writes a file"):
            check(tmp_path, **how)


def list_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [name for name in RUN if "/" not in name and "events" not in name])
def test_a_run_is_refused_by_any_of_its_files(tmp_path: Path, name: str) -> None:
    write(tmp_path, *OTHERS)
    (tmp_path / "metrics.json").touch()  # has no rows
    check(tmp_path)
    write(tmp_path, name)
    assert find_run(tmp_path) == [name]
    words = rf"OUTPUT_DIR = '.*' holds a run \({name}\).*--resume.*another OUTPUT_DIR.*--overwrite"
    with pytest.raises(ValueError, match=words):
        check(tmp_path)
    check(tmp_path, overwrite=True)


def test_a_missing_folder_and_the_results_of_an_evaluation_are_no_run(tmp_path: Path) -> None:
    assert find_run(tmp_path / "nowhere") == []
    check(tmp_path / "nowhere", resume=True)
    write(tmp_path, "config.yaml", "log.txt", "inference/metrics.json")
    check(tmp_path)


def test_the_run_is_removed_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, *RUN, *OTHERS)
    with caplog.at_level(logging.WARNING):
        remove_run(tmp_path)
    assert f"the earlier run in {tmp_path} is removed, {len(RUN)} files (last_check" in caplog.text
    assert list_files(tmp_path) == set(OTHERS)
    caplog.clear()
    remove_run(tmp_path)
    assert not caplog.text


def test_what_does_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write one"):
        check(tmp_path, resume=True, overwrite=True)
    write(tmp_path, "metrics.json")  # ended before its first checkpoint: resuming begins anew
    check(tmp_path, resume=True)
    write(tmp_path, "model_final.pth")
    with pytest.raises(ValueError, match=r"but no checkpoint to go on from.*MODEL\.WEIGHTS"):
        check(tmp_path, resume=True)
    write(tmp_path, "last_checkpoint", "inference/proposals_a.pkl", "other.pth")
    check(tmp_path, resume=True)
    check(tmp_path, str(tmp_path / "other.pth"), overwrite=True)
    for given in (
        {"weights": str(tmp_path / "my" / ".." / "model_final.pth")},
        {"proposals": (str(tmp_path / "inference" / "proposals_a.pkl"),)},
    ):
        with pytest.raises(ValueError, match=r"--overwrite removes, and this training begins with"):
            check(tmp_path, **given, overwrite=True)


def hold_and_die(folder: str) -> None:
    with hold_output_dir(folder):
        fork = multiprocessing.get_context("fork")
        worker = fork.Process(target=time.sleep, args=(60,))  # as one that loads images
        worker.start()
        Path(folder, "worker").write_text(str(worker.pid))
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(os.name != "posix", reason="processes are killed and forked")
def test_one_training_a_folder(tmp_path: Path) -> None:
    """Refuse a second training; a killed one leaves no lock, though its worker lives."""
    folder = tmp_path / "out"
    with hold_output_dir(folder):
        words = rf"another training writes to OUTPUT_DIR.*process {os.getpid()} on .*, since 20"
        with pytest.raises(ValueError, match=words), hold_output_dir(folder):
            pass
    assert list_files(tmp_path) == set()
    assert run_in_another_process(hold_and_die, str(folder)) == -signal.SIGKILL
    worker = int((folder / "worker").read_text())
    write(folder, ".model_best.pth.77.partial", "inference/x/.metrics.json.77.partial")
    os.kill(worker, 0)
    with hold_output_dir(folder):
        assert not list(folder.rglob("*.partial"))
    os.kill(worker, signal.SIGKILL)


def test_other_settings_are_not_resumed(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED, cfg.SOLVER.STEPS = str(tmp_path), 7, (5, 50)
    state = {"model": {}, "optimizer": {}, "iteration": 9}
    Checkpointer(tmp_path).save("model_0000009", state)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    free = ["SOLVER.MAX_ITER", 99, "SOLVER.STEPS", (5, 60), "TEST.EVAL_PERIOD", 3, "SEED", -1]
    free += ["DATASETS.TEST", ("other",), "INPUT.MIN_SIZE_TEST", 9, "DATALOADER.NUM_WORKERS", 0]
    changed = cfg.clone()
    changed.merge_from_list(free)
    assert check_settings(cfg) == check_settings(changed) == []
    for key, value in (
        ("DATASETS.TRAIN", ("other",)),
        ("SOLVER.IMS_PER_BATCH", 2),
        ("SOLVER.STEPS", (6, 50)),
        ("SEED", 8),
        ("INPUT.MIN_SIZE_TRAIN", (64,)),
        ("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0]),
        ("MODEL.RESNETS.STRIDE_IN_1X1", False),
    ):
        other = cfg.clone()
        other.merge_from_list([key, value])
        with pytest.raises(ValueError, match=rf"{key} was .* and is .*--resume-anyway"):
            check_settings(other)
        (told,) = check_settings(other, anyway=True)
        assert key in told and "goes on" in told
    (tmp_path / "config.yaml").unlink()
    (told,) = check_settings(other)
    assert "config.yaml is not there, so nothing tells" in told
    state["detector"] = {"config": yaml.safe_load(cfg.dump())}
    Checkpointer(tmp_path).save("model_0000009", state)
    assert check_settings(changed) == []
    for text in (None, ""):
        if text is not None:
            (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=rf"{key} was .* those of .*model_0000009\.pth"):
            check_settings(other)
