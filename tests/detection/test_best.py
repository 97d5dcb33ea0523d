"""Compare the best checkpoint and the early end of killed and resumed trainings with whole ones."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fvcore.common.config import CfgNode

from resnext_det.config import get_cfg, load_config
from resnext_det.config.detection import OWN_KEYS, add_own_keys
from resnext_det.config.loading import override_config
from resnext_det.config.rules import list_keys
from resnext_det.detection.best import check_best
from resnext_det.detection.jobs import find_engine
from resnext_det.detection.memory_saving import NO_SAVING
from resnext_det.detection.training import train_detector
from resnext_det.training import metrics
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.optimizer import OptimizerSettings, build_optimizer
from resnext_det.training.setup import CONFIG_FILE, record_config
from resnext_det.weights.trained_detector import describe_training
from tests.detection.helpers import as_overrides, json_lines, write_config
from tests.training.helpers import Batches, Toy, assert_same

VALUES = (10.0, 30.0, 30.0, float("nan"), 29.0, 50.0)
"""Of the evaluations after 2, 4 ... iterations: the second is the best until the sixth."""


@dataclass(frozen=True)
class Score:
    """Numbers of a test set, as far as a training looks at them."""

    AP: float

    def as_dict(self) -> dict[str, float]:
        return {"AP": self.AP}

    def format_table(self) -> str:
        return str(self.AP)

    summarize = to_json = format_table


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_open_tensorboard", lambda *arguments: None)


def configure(folder: Path, **changed: Any) -> CfgNode:
    cfg = get_cfg()
    add_own_keys(cfg)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "DATASETS.TEST", ("set",)])
    cfg.OUTPUT_DIR = str(folder)
    cfg.SOLVER.merge_from_list(["IMS_PER_BATCH", 6, "MAX_ITER", 12, "CHECKPOINT_PERIOD", 3])
    cfg.TEST.merge_from_list(["EVAL_PERIOD", 2, "BEST_METRIC", "bbox/AP"])
    for key, value in changed.items():
        node = cfg.SOLVER if key in cfg.SOLVER else cfg.TEST
        node[key] = value
    return cfg


def run(
    cfg: CfgNode,
    *,
    resume: bool = False,
    measure: Callable[[], Mapping[str, float]] = dict,
) -> None:
    """Train the toy; the number of steps that it has seen tells which evaluation it is."""
    torch.manual_seed(99 if Checkpointer(cfg.OUTPUT_DIR).latest() else 3)
    model = Toy()
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)

    def evaluate(look: Any) -> dict[str, Score]:
        steps = int(model.state_dict()["body.1.num_batches_tracked"])
        return {"set": Score(VALUES[steps // 2 - 1])}

    train_detector(
        cfg,
        model,
        recorded=cfg,
        optimizer=build_optimizer(model, OptimizerSettings(base_lr=0.02)),
        schedule=lambda iteration: 1.0,
        load_batches=lambda start: iter(Batches(start)),
        evaluate=evaluate,
        measure=measure,
        resume=resume,
        overwrite=False,
        saving=NO_SAVING,
        draw_anchors=lambda *arguments: None,
    )


def read(folder: Path) -> tuple[set[str], dict[str, Any], list[tuple[int, float]]]:
    """Read the checkpoints' names, the best and the last one, and the evaluations."""
    names = {path.name for path in folder.glob("*.pth")}
    files = {
        name: dict(Checkpointer(folder).load(folder / f"model_{name}.pth"))
        for name in ("best", "final")
    }
    for content in files.values():
        content["detector"] = content["detector"]["metrics"]
    lines = json_lines(folder / "metrics.json")
    return names, files, [(x["iteration"], x["bbox/AP"]) for x in lines if "bbox/AP" in x]


def test_the_best_is_kept_and_patience_ends_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "resnext_det")
    cfg = configure(tmp_path, PATIENCE=3, CHECKPOINT_KEEP=1, LOSS_PERIOD=4)
    run(cfg, measure=lambda: {"validation/total_loss": 1.0})
    names, files, rows = read(tmp_path)
    assert names == {"model_0000008.pth", "model_best.pth", "model_final.pth"}
    assert rows == [(1, 10.0), (3, 30.0), (5, 30.0), (7, None), (9, 29.0)]
    assert files["best"]["iteration"] == 3 and files["best"]["detector"] == {"set": {"AP": 30.0}}
    assert files["final"]["iteration"] == 9 and files["final"]["detector"] == {"set": {"AP": 29.0}}
    assert "optimizer" not in files["best"]
    lines = json_lines(tmp_path / "metrics.json")
    losses = [line["iteration"] for line in lines if "validation/total_loss" in line]
    assert losses == [3, 7, 9]  # at the early end too
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    words = "ends early: 3 evaluations brought no bbox/AP above the 30.000 of iteration 3"
    assert words in caplog.text and "bbox/AP is not defined after iteration 7" in caplog.text
    # It has ended, unless more patience is asked for.
    run(cfg, resume=True)
    assert read(tmp_path)[0] == names and "had ended after 10" in caplog.text
    assert_same(read(tmp_path)[1], files)
    run(configure(tmp_path, PATIENCE=4, CHECKPOINT_KEEP=1), resume=True)
    names, files, rows = read(tmp_path)
    assert rows[-1] == (11, 50.0) and len(rows) == 6
    assert files["best"]["iteration"] == files["final"]["iteration"] == 11
    assert "model_0000011.pth" in names and len(names) == 3


def test_a_run_killed_at_any_name_equals_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill before or after a renaming, resume, and find last_checkpoint's file all the time."""
    replace = os.replace

    def count(into: list[int], deadly: int | None) -> Callable[..., None]:
        def replace_or_die(source: Any, target: Any) -> None:
            into.append(len(into))
            after = len(into) % 2
            if not after and len(into) == deadly:
                raise Killed
            replace(source, target)
            pointer = Path(target).with_name("last_checkpoint")
            assert not pointer.exists() or pointer.with_name(pointer.read_text()).is_file()
            if after and len(into) == deadly:
                raise Killed

        return replace_or_die

    def train(folder: Path, deadly: int | None = None, resume: bool = False) -> int:
        calls: list[int] = []
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", count(calls, deadly))
            run(configure(folder, PATIENCE=3, CHECKPOINT_KEEP=2), resume=resume)
        return len(calls)

    number = train(tmp_path / "whole")
    expected = read(tmp_path / "whole")
    assert number >= 12
    for deadly in range(5, number + 1, 3):
        folder = tmp_path / str(deadly)
        with pytest.raises(Killed):
            train(folder, deadly)
        train(folder, resume=True)
        found = read(folder)
        assert found[0] == expected[0], deadly
        assert found[2][:5] == expected[2], deadly
        assert_same(found[1], expected[1])


def test_losses_are_measured_when_due_and_made_up_for(tmp_path: Path) -> None:
    """A run that stops in measuring them, or is killed before, has the lines of a whole one."""
    calls: list[int] = []

    def measure(dies: int = 0) -> Mapping[str, float]:
        calls.append(1)
        if len(calls) == dies:
            raise Killed
        return {"validation/total_loss": float(torch.rand(())) > 2}

    expected, lines = None, {}
    for dies in (0, 3):
        calls.clear()
        cfg = configure(tmp_path / str(dies), LOSS_PERIOD=5, CHECKPOINT_PERIOD=5, EVAL_PERIOD=10)
        with pytest.raises(Killed) if dies else nullcontext():
            run(cfg, measure=partial(measure, dies))
        if dies:
            run(cfg, resume=True, measure=measure)
        rows = json_lines(tmp_path / str(dies) / "metrics.json")
        lines[dies] = [x["iteration"] for x in rows if "validation/total_loss" in x]
        content = Checkpointer(tmp_path / str(dies)).load(tmp_path / str(dies) / "model_final.pth")
        found = {name: content[name] for name in ("model", "optimizer", "random_state")}
        assert_same(found, expected := expected or found)
    # What is made up for after the last step stands at the number of steps, as in detectron2.
    assert lines == {0: [4, 9, 11], 3: [4, 9, 12]}


def test_the_best_evaluation_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "resnext_det")
    run(configure(tmp_path / "kept", MAX_ITER=8))
    assert "iteration 3, 30.000; at the end it is nan. These weights are in" in caplog.text
    assert f"are in {tmp_path / 'kept' / 'model_best.pth'}." in caplog.text
    caplog.clear()
    run(configure(tmp_path / "lost", MAX_ITER=10, BEST_METRIC="", CHECKPOINT_PERIOD=10))
    assert "With TEST.BEST_METRIC bbox/AP a training keeps the best weights." in caplog.text


REFUSED = {
    "TEST.BEST_METRIC box/AP": r"BEST_METRIC = 'box/AP' is no .*one of bbox/AP, bbox/AP50, bbox/A",
    "TEST.BEST_METRIC bbox/AP DATASETS.TEST ()": r"computed on DATASETS\.TEST, which is empty",
    "TEST.BEST_METRIC bbox/AP TEST.PATIENCE 2 TEST.EVAL_PERIOD 0": r"EVAL_PERIOD = 0 evaluates",
    "TEST.PATIENCE 2": r"TEST\.BEST_METRIC is empty",
    "TEST.BEST_METRIC bbox/AP DATASETS.TEST ('a','b')": r"one of a/bbox/AP, .*b/bbox/APl$",
    "TEST.BEST_METRIC bbox/AP TEST.DETECTIONS_PER_IMAGE -1": r"sets no limit; write 100",
    "TEST.BEST_METRIC bbox/AP TEST.DETECTIONS_PER_IMAGE 300": r"one of bbox@300/AP, ",
    "TEST.BEST_METRIC bbox/AP MODEL.META_ARCHITECTURE ProposalNetwork": r"box_proposals/AR@100, ",
    "TEST.LOSS_PERIOD 5 DATASETS.TEST ()": r"LOSS_PERIOD = 5 measures losses on .* is empty; name",
    "TEST.LOSS_PERIOD -1": r"TEST\.LOSS_PERIOD = -1 is out of range; write 0 or more",
    "TEST.PATIENCE -1": r"TEST\.PATIENCE = -1 is out of range; write 0 or more",
    "SOLVER.CHECKPOINT_KEEP -2": r"CHECKPOINT_KEEP = -2 is out of range; write 0 or more",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_cannot_be_followed_is_refused(tmp_path: Path, engine: str, overrides: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[overrides]):
        check_best(find_engine(engine).load_config(write_config(tmp_path), overrides.split()))


def test_masks_and_keypoints_have_numbers_of_their_own(tmp_path: Path) -> None:
    cfg = configure(tmp_path, BEST_METRIC="segm/AP")
    with pytest.raises(ValueError, match=r"'segm/AP' is no number"):
        check_best(cfg)
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    for metric in ("bbox/AP", "segm/AP", "segm/APs", "keypoints/AP50"):
        cfg.TEST.BEST_METRIC = metric
        check_best(cfg)
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    cfg.TEST.BEST_METRIC = "segm@300/AP"
    check_best(cfg)


def test_both_engines_read_the_keys_and_detectron2_what_leaves_them_out(
    tmp_path: Path, engine: str
) -> None:
    file = write_config(tmp_path)
    out = ["OUTPUT_DIR", tmp_path]
    used = ["SOLVER.CHECKPOINT_KEEP", 3, "TEST.PATIENCE", 2, "TEST.BEST_METRIC", "bbox/AP50"]
    load = find_engine(engine).load_config
    record_config(load(file, as_overrides([*out, *used])))
    again = load(tmp_path / CONFIG_FILE)
    assert [again.SOLVER.CHECKPOINT_KEEP, again.TEST.PATIENCE] == [3, 2]
    assert describe_training(again, (), {}).config["TEST"]["BEST_METRIC"] == "bbox/AP50"
    plain = load(file, as_overrides(out))
    record_config(plain)
    written = CfgNode(yaml.safe_load((tmp_path / CONFIG_FILE).read_text()))
    assert set(list_keys(plain)) == set(list_keys(written))
    assert not set(OWN_KEYS) & set(list_keys(plain))
    assert override_config(plain, ["SOLVER.CHECKPOINT_KEEP", 3]).SOLVER.CHECKPOINT_KEEP == 3
    assert not re.search("|".join(OWN_KEYS), str(describe_training(plain, (), {}).config))
    if engine == "detectron2":
        from detectron2.config import get_cfg as get_detectron2_cfg

        get_detectron2_cfg().merge_from_file(str(tmp_path / CONFIG_FILE))
    else:
        assert load_config(tmp_path / CONFIG_FILE) == plain
