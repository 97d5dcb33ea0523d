"""Every key and its default are detectron2's."""

from __future__ import annotations

import pytest

from resnext_det.config import get_cfg
from resnext_det.config.detection import PARTS_SWITCHED_OFF
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
