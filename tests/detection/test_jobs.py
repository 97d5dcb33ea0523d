"""A job gives metrics, by either engine and in one process or several; errors stay themselves."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from resnext_det.detection.jobs import Job, Metrics, evaluate, train
from resnext_det.training import distributed
from tests.detection.helpers import as_datasets, write_config, write_sets

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, str, str], ...]:
    return as_datasets(write_sets(tmp_path_factory.mktemp("sets")))


def test_a_job_is_trained_and_evaluated(
    datasets: tuple[tuple[str, str, str], ...], tmp_path: Path
) -> None:
    job = Job(
        write_config(tmp_path),
        output_dir=tmp_path / "out",
        overrides=("SOLVER.MAX_ITER", "20", "OUTPUT_DIR", "not here"),
        datasets=datasets,
    )
    metrics = train(job)
    assert metrics.output_dir == tmp_path / "out" == Path(job.configuration().OUTPUT_DIR)
    assert list(metrics.per_dataset) == ["tiny_val"]
    written = json.loads((tmp_path / "out" / "inference" / "metrics.json").read_text())
    found = metrics.per_dataset["tiny_val"]
    assert (written["AP"], written["AR100"]) == (found.AP, found.AR100)
    assert str(metrics).startswith("tiny_val\n|") and found.format_table() in str(metrics)

    weights = str(tmp_path / "out" / "model_final.pth")
    again = Job(job.config_file, tmp_path / "again", ("MODEL.WEIGHTS", weights), datasets=datasets)
    assert as_texts(evaluate(again)) == as_texts(metrics)
    resumed = Job(
        job.config_file, tmp_path / "out", ("SOLVER.MAX_ITER", "20"), resume=True, datasets=datasets
    )
    assert as_texts(train(resumed)) == as_texts(evaluate(resumed)) == as_texts(metrics)


def as_texts(metrics: Metrics) -> dict[str, str]:
    """Write the numbers as text, in which nan equals nan."""
    return {name: found.to_json() for name, found in metrics.per_dataset.items()}


def test_without_a_test_set_there_are_no_numbers(
    datasets: tuple[tuple[str, str, str], ...], tmp_path: Path
) -> None:
    overrides = ("SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()")
    metrics = train(Job(write_config(tmp_path), tmp_path, overrides, datasets=datasets))
    assert metrics == Metrics(tmp_path, {}) and str(metrics) == ""


def test_engines(tmp_path: Path) -> None:
    words = "engine 'd2' is unknown; choose auto, portable, detectron2"
    with pytest.raises(ValueError, match=words):
        train(Job(write_config(tmp_path), tmp_path, engine="d2"))


def test_auto_is_detectron2_where_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.util.find_spec("detectron2") is not None
    job = Job(write_config(tmp_path))
    assert type(job.configuration()).__module__.startswith("detectron2") == installed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not type(job.configuration()).__module__.startswith("detectron2")


def test_detectron2_is_asked_for_and_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    loaded = ("detectron2.", "resnext_det.detection.detectron2.")
    for name in [name for name in sys.modules if name.startswith(loaded)]:
        monkeypatch.delitem(sys.modules, name)
    words = r"'detectron2' cannot be used here .*install.* write --engine portable"
    with pytest.raises(ValueError, match=words):
        train(Job(write_config(tmp_path), tmp_path, engine="detectron2"))


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore lines"),
            ValueError,
            r"is full \(CUDA .* Tried to allocate 2 GiB\.\); lower SOLVER\.IMS_PER_BATCH",
        ),
        (
            RuntimeError("DataLoader worker (pid 77) is killed by signal: Bus error. "),
            ChildProcessError,
            r"pid 77.*/dev/shm.*DATALOADER\.NUM_WORKERS.*--resume",
        ),
        (RuntimeError("a bug"), RuntimeError, "^a bug$"),
        (KeyError("a bug"), KeyError, "^'a bug'$"),
    ],
)
def test_a_machine_that_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type, words: str
) -> None:
    """An error that a user can mend says how; a bug keeps its error."""

    def fail(cfg: Any, **how: Any) -> None:
        raise error

    monkeypatch.setattr("resnext_det.detection.portable.engine.train", fail)
    with pytest.raises(raised, match=words):
        train(Job(write_config(tmp_path), tmp_path, engine="portable"))


def kill_itself(*_: Any) -> None:
    if distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


@pytest.mark.usefixtures("quick_start")
def test_a_process_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the killed process, not the lost connection of the other one."""
    monkeypatch.setattr("resnext_det.detection.jobs._run_task", kill_itself)
    with pytest.raises(ChildProcessError, match=r"SIGKILL.*NUM_WORKERS.*--resume"):
        train(Job(write_config(tmp_path), tmp_path, num_gpus=2))


def test_ctrl_c_that_ended_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``launch`` passes it on as SIGTERM, which kills a process that is in no step."""

    def die(*_: Any) -> None:
        raise ProcessExitedException("process 1", 1, 1, exit_code=-15, signal_name="SIGTERM")

    monkeypatch.setattr("resnext_det.training.processes._spawn", die)
    with pytest.raises(KeyboardInterrupt):
        train(Job(write_config(tmp_path), tmp_path, num_gpus=2))


def test_registered_sets_that_nothing_names(
    datasets: tuple[tuple[str, str, str], ...], tmp_path: Path
) -> None:
    """Else a job would train on the sets of its configuration, and say nothing."""
    others = tuple((f"my_{name}", *files) for name, *files in datasets)
    job = Job(write_config(tmp_path), tmp_path / "out", datasets=others)
    with pytest.raises(ValueError, match=r"my_tiny_\w+ are not used: DATASETS.TRAIN is \('tiny_tr"):
        train(job)
    assert not (tmp_path / "out").exists()
    named = replace(job, datasets=(*datasets, *others), overrides=("DATASETS.TEST", "()"))
    assert named.configuration().DATASETS.TRAIN == ("tiny_train",)


@pytest.mark.parametrize(("given", "told"), [("backend", "folded"), ("dtype", "bfloat16")])
def test_a_backend_for_given_proposals_is_refused_first(
    tmp_path: Path, given: str, told: str
) -> None:
    """Before proposals, images and weights are looked for."""
    job = Job("two_step/fast_rcnn_R50_1x64d.yaml", tmp_path, ("MODEL.DEVICE", "cpu"), "portable")
    job = replace(job, **{given: told})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"{given} '{told}' is for whole detectors, and MODEL\.L"):
        evaluate(job)
    assert not any(tmp_path.iterdir())
