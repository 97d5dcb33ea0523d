"""Test that keys, defaults and scaled schedules are detectron2's."""

from __future__ import annotations

from typing import Any

import pytest

from resnext_det.config import get_cfg
from resnext_det.config.detection import PARTS_SWITCHED_OFF, scale_to_processes
from resnext_det.config.rules import get_value, list_keys


@pytest.mark.detectron2
def test_keys_types_and_defaults_are_those_of_detectron2() -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg as get_detectron2_cfg

    ours, theirs = get_cfg(), get_detectron2_cfg()
    for key in list_keys(ours):
        mine, other = get_value(ours, key), get_value(theirs, key)
        assert mine == other and type(mine) is type(other), key
    # What detectron2 has besides belongs to parts that are switched off here.
    beyond = set(list_keys(theirs)) - set(list_keys(ours))
    assert {key for key in beyond if not key.startswith(PARTS_SWITCHED_OFF)} == set()
    assert all(any(key.startswith(part) for key in beyond) for part in PARTS_SWITCHED_OFF)


def test_each_configuration_is_a_fresh_one() -> None:
    first = get_cfg()
    first.MODEL.RESNETS.OUT_FEATURES.append("res5")
    first.MODEL.PIXEL_MEAN[0] = 0.0
    first.SOLVER.BASE_LR = 5.0
    assert get_cfg().MODEL.RESNETS.OUT_FEATURES == ["res4"]
    assert get_cfg().MODEL.PIXEL_MEAN[0] == 103.53
    assert get_cfg().SOLVER.BASE_LR == 0.001


PAPER = """SOLVER.IMS_PER_BATCH 8 SOLVER.BASE_LR 0.005 SOLVER.STEPS (120000,)
    SOLVER.MAX_ITER 180000"""
ODD = """SOLVER.IMS_PER_BATCH 24 SOLVER.STEPS (61,4999) SOLVER.MAX_ITER 5003
    TEST.EVAL_PERIOD 777"""


def make_config(reference: int, changes: list[Any]) -> Any:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.REFERENCE_WORLD_SIZE", reference, *changes])
    return cfg


@pytest.mark.detectron2
@pytest.mark.parametrize(
    "changes", [[], PAPER.split(), ODD.split()], ids=["default", "paper", "odd"]
)
@pytest.mark.parametrize(
    ("reference", "processes"), [(8, 1), (4, 2), (2, 6), (1, 3), (4, 4), (0, 5)]
)
def test_a_scaled_schedule_equals_detectron2(
    reference: int, processes: int, changes: list[Any]
) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg as get_detectron2_cfg
    from detectron2.engine import DefaultTrainer

    cfg = make_config(reference, changes)
    cfg.freeze()
    ours = scale_to_processes(cfg, processes)
    original = get_detectron2_cfg()
    original.merge_from_list(["SOLVER.REFERENCE_WORLD_SIZE", reference, *changes])
    theirs = DefaultTrainer.auto_scale_workers(original, processes)
    for key in list_keys(ours):
        assert get_value(ours, key) == get_value(theirs, key), key
    assert reference == cfg.SOLVER.REFERENCE_WORLD_SIZE  # the one given is not changed
    assert ours.is_frozen()


def test_periods_stay_above_zero() -> None:
    changes = ["SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 3, "SOLVER.MAX_ITER", 3]
    scaled = scale_to_processes(make_config(1, changes), 8)
    assert scaled.SOLVER.CHECKPOINT_PERIOD == scaled.TEST.EVAL_PERIOD == scaled.SOLVER.MAX_ITER == 1


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    words = r"IMS_PER_BATCH = 16 is no multiple of .*REFERENCE_WORLD_SIZE = 3; write one"
    with pytest.raises(ValueError, match=words):
        scale_to_processes(make_config(3, []), 2)
