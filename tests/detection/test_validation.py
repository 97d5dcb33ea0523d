"""Losses on test sets: what they are, and that no training depends on their being measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.data.coco import load_coco, register_coco
from resnext_det.data.transforms import DetectionMapper
from resnext_det.detection.jobs import Job, find_engine
from resnext_det.detection.jobs import train as run_job
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.validation import measure_losses, prepare_sets
from resnext_det.training.checkpoint import Checkpointer, load_model_state
from resnext_det.training.interruption import StopAsked, TrainingInterrupted
from tests.detection.helpers import (
    EXHAUSTIVE,
    as_datasets,
    as_overrides,
    json_lines,
    write_config,
)
from tests.training.helpers import assert_same

pytestmark = pytest.mark.usefixtures("registered")
slow = pytest.mark.slow

SHORT = ["SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ()]
SHOWN = [*SHORT, "TEST.LOSS_PERIOD", 1, "TEST.EVAL_PERIOD", 1]


def configure(folder: Path, *changes: Any) -> CfgNode:
    overrides = as_overrides(["TEST.LOSS_PERIOD", 1, *changes])
    return find_engine("portable").load_config(write_config(folder), overrides)


def train(folder: Path, *changes: Any, engine: str = "portable", resume: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    module = find_engine(engine)
    overrides = as_overrides(["OUTPUT_DIR", folder / "out", *changes])
    module.train(module.load_config(write_config(folder), overrides), resume=resume)
    return folder / "out"


def read_state(out: Path) -> dict[str, Any]:
    content = Checkpointer(out).load(out / "model_final.pth")
    return {name: content[name] for name in ("model", "optimizer", "random_state", "iteration")}


def read_losses(out: Path) -> dict[int, dict[str, float]]:
    lines = json_lines(out / "metrics.json")
    kept = [line for line in lines if "validation/total_loss" in line]
    return {x["iteration"]: {k: v for k, v in x.items() if "validation/" in k} for x in kept}


@pytest.mark.parametrize(
    "engine", ["portable", pytest.param("detectron2", marks=[pytest.mark.detectron2, slow])]
)
def test_a_training_is_the_same_with_all_of_it_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Weights, momentum and random numbers are equal to the last bit."""
    if engine == "detectron2":
        pytest.importorskip("detectron2", reason="detectron2 is not installed")
    shown = train(tmp_path / "shown", *SHOWN, engine=engine)
    monkeypatch.setattr("resnext_det.training.metrics._open_tensorboard", lambda *given: None)
    plain = train(tmp_path / "plain", *SHORT, "DATASETS.TEST", (), engine=engine)
    assert_same(read_state(shown), read_state(plain))
    losses = read_losses(shown)
    assert list(losses) == [0, 1] and not read_losses(plain)
    for numbers in losses.values():
        total = numbers.pop("validation/total_loss")
        assert len(numbers) == 4 and total == pytest.approx(sum(numbers.values()))
    assert list(shown.glob("events*")) and not list(plain.glob("events*"))


@pytest.mark.detectron2
def test_both_engines_measure_the_same(tmp_path: Path) -> None:
    """detectron2's mapper, loader and model give the portable engine's losses, to the last bit."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.utils.events import EventStorage

    from resnext_det.detection.detectron2 import engine
    from resnext_det.detection.detectron2.datasets import open_data, prepare_validation

    cfg = configure(tmp_path)
    model = build_detector(cfg)
    ours = measure_losses(model, prepare_sets(cfg, [load_coco("tiny_val")]))
    theirs_cfg = engine.load_config(write_config(tmp_path), ["TEST.LOSS_PERIOD", "1"])
    theirs = engine.build_detector(theirs_cfg)
    theirs.load_state_dict(model.state_dict())
    for by_detectron2 in (False, True):
        with open_data(theirs_cfg, by_detectron2, None, training=True) as data:
            sets = prepare_validation(theirs_cfg, data)
            assert measure_losses(theirs, sets, around=lambda: EventStorage(1)) == ours


def test_they_are_means_over_images_of_the_tests_size(tmp_path: Path) -> None:
    """Against a loop, with losses that are of every anchor and region, so that nothing is drawn."""
    cfg = configure(tmp_path, *EXHAUSTIVE)
    torch.manual_seed(5)
    model = build_detector(cfg)
    for module in model.modules():  # which a training would have moved
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    dataset = load_coco("tiny_val")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    found = measure_losses(model, prepare_sets(cfg, [dataset]))
    assert [module.training for module in model.modules()] == modes and model.training
    assert_same(dict(model.state_dict()), before)
    assert found == measure_losses(model, prepare_sets(cfg, [dataset]))
    assert all(parameter.grad is None for parameter in model.parameters())
    in_test = DetectionMapper(False, min_sizes=64, max_size=96)
    mapper = DetectionMapper(True, min_sizes=64, max_size=96, flip="none")
    for module in model.modules():
        module.train(not isinstance(module, nn.BatchNorm2d))
    rows = []
    for record in dataset.records:
        sample = mapper(record, np.random.RandomState(7))
        assert torch.equal(sample["image"], in_test(record)["image"])
        rows.append({name: loss.item() for name, loss in model([sample]).items()})
    for name in rows[0]:
        mean = np.mean([row[name] for row in rows])
        assert found[f"validation/{name}"] == pytest.approx(mean, rel=1e-6), name


class Counting(nn.Module):
    """Note in training what detectron2's RetinaNet does; the loss is a draw."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.noted = 5.0

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        assert self.training and not self.norm.training and not torch.is_grad_enabled()
        self.noted *= 2
        self.other = 1
        self.norm(torch.ones(1, 1))
        return {"loss": torch.rand(()) + self.noted}


def test_what_a_model_notes_in_training_comes_back() -> None:
    model = Counting()
    model.norm.eval()  # as a norm that is frozen
    samples: list[list[dict[str, Any]]] = [[{"image_id": 3}], [{"image_id": "a"}]]
    sets = {name: lambda: samples for name in ("one", "other")}
    found = measure_losses(model, sets)
    assert set(found) == {f"{x}/validation/{y}" for x in sets for y in ("loss", "total_loss")}
    assert found["one/validation/loss"] == found["other/validation/loss"]
    assert 10 < found["one/validation/loss"] < 11
    assert (model.noted, hasattr(model, "other"), model.norm.training) == (5.0, False, False)
    assert model.norm.state_dict()["num_batches_tracked"] == 0 and model.training


@slow
def test_a_run_that_stopped_in_it_makes_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", *SHOWN)
    measured: list[int] = []

    def stop_in_the_first(model: nn.Module, sets: Any) -> dict[str, float]:
        measured.append(1)
        if len(measured) == 1:
            raise StopAsked
        return measure_losses(model, sets)

    with monkeypatch.context() as patched, pytest.raises(TrainingInterrupted, match="iteration 0"):
        patched.setattr("resnext_det.detection.portable.engine.measure_losses", stop_in_the_first)
        train(tmp_path / "stopped", *SHOWN)
    stopped = train(tmp_path / "stopped", *SHOWN, resume=True)
    assert_same(read_state(stopped), read_state(whole))
    assert read_losses(stopped) == read_losses(whole)
    iterations = [line["iteration"] for line in json_lines(stopped / "metrics.json")]
    assert iterations == sorted(set(iterations))


@slow
@pytest.mark.usefixtures("quick_start")
def test_two_processes_train_and_measure_alike(
    tmp_path: Path, sets: dict[str, tuple[Path, Path]]
) -> None:
    """The weights are the same with it and without, and the losses those of one process."""
    datasets = as_datasets(sets)
    states = []
    for name, changes in (("shown", SHOWN), ("plain", [*SHORT, "DATASETS.TEST", ()])):
        file, overrides = write_config(tmp_path), tuple(as_overrides(changes))
        two = Job(file, tmp_path / name, overrides, "portable", datasets=datasets, num_gpus=2)
        run_job(two)
        states.append(read_state(tmp_path / name))
    assert_same(*states)
    cfg = configure(tmp_path)
    model = build_detector(cfg)
    load_model_state(model, states[0]["model"])
    alone = measure_losses(model, prepare_sets(cfg, [load_coco("tiny_val")]))
    assert read_losses(tmp_path / "shown")[1] == alone


def test_a_set_without_objects_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = configure(tmp_path)
    monkeypatch.setattr("resnext_det.detection.validation.filter_empty", lambda records: [])
    with pytest.raises(ValueError, match=r"LOSS_PERIOD measures losses on tiny_val, none of whose"):
        prepare_sets(cfg, [load_coco("tiny_val")])
    assert prepare_sets(find_engine("portable").load_config(write_config(tmp_path)), []) == {}


@pytest.mark.detectron2
def test_a_set_without_objects_is_refused_where_detectron2_loads_it(
    tmp_path: Path, sets: dict[str, tuple[Path, Path]]
) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from resnext_det.detection.detectron2 import engine
    from resnext_det.detection.detectron2.datasets import open_data, prepare_validation

    content = json.loads(sets["tiny_val"][0].read_text())
    (tmp_path / "empty.json").write_text(json.dumps({**content, "annotations": []}))
    register_coco("no_objects", tmp_path / "empty.json", sets["tiny_val"][1])
    changes = ["TEST.LOSS_PERIOD", 1, "DATASETS.TEST", ("no_objects",)]
    cfg = engine.load_config(write_config(tmp_path), as_overrides(changes))
    with (
        open_data(cfg, True, None, training=True) as data,
        pytest.raises(ValueError, match="on no_objects, none of whose images has an object"),
    ):
        prepare_validation(cfg, data)
