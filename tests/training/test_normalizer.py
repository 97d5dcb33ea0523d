"""The average that divides RetinaNet's losses goes with checkpoints, each process's own."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from resnext_det.training import distributed
from resnext_det.training.normalizer import collect_normalizers, restore_normalizer


def test_each_process_gets_its_own_and_others_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = nn.Module()
    assert collect_normalizers(model) == {}
    restore_normalizer(model, None)  # of detectron2's own checkpoint
    assert not hasattr(model, "loss_normalizer")
    model.loss_normalizer = 7.5
    assert collect_normalizers(model) == {"loss_normalizer": [7.5]}
    restore_normalizer(model, [30.0, 50.0])
    assert model.loss_normalizer == 40
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    restore_normalizer(model, [30.0, 50.0])
    assert model.loss_normalizer == 50


@pytest.mark.parametrize("entry", [7.5, [], [0.0], [float("nan")], ["7.5"], {"a": 1.0}])
def test_what_is_no_average_is_refused(entry: Any) -> None:
    model = nn.Module()
    with pytest.raises(ValueError, match="loss_normalizer is not one number above 0 for each"):
        restore_normalizer(model, entry)
    assert not hasattr(model, "loss_normalizer")
