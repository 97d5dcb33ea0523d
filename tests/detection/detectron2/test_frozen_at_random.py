"""In a user's own training on detectron2, what is frozen at random is warned of once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec  # noqa: E402
from detectron2.modeling import build_backbone  # noqa: E402

from resnext_det import write_weights  # noqa: E402
from tests.detection.detectron2_reference import randomize  # noqa: E402
from tests.detection.helpers import SMALL, STAGES  # noqa: E402

IMAGES = torch.zeros(2, 3, 64, 64)


def build(norm: str = "FrozenBN", at: int = 2) -> Any:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_resnext_fpn_backbone", at
    cfg.MODEL.RESNETS.update(SMALL, DEPTH=26, NORM=norm, OUT_FEATURES=STAGES, NUM_GROUPS=2)
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS = STAGES, 16
    return build_backbone(cfg, ShapeSpec(channels=3))


def list_warnings(model: Any, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    for _ in range(2):
        model.train()(IMAGES)
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("resnext_det") and record.levelno == logging.WARNING
    ]


def test_random_weights_under_frozen_norms(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = list_warnings(build(), caplog)
    assert message.startswith("29 of 29 convolutions of the backbone are frozen, or their norms")


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "naiveSyncBN"])
def test_norms_that_are_trained(norm: str, caplog: pytest.LogCaptureFixture) -> None:
    assert list_warnings(build(norm, at=0), caplog) == []


def test_norms_that_a_user_unfreezes(caplog: pytest.LogCaptureFixture) -> None:
    model = build(at=0)
    FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(model)
    assert list_warnings(model, caplog) == []


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_weights_of_detectron2s_checkpointer(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint of its own, and a file of a backbone that was converted for it."""
    source, model = build(), build()
    randomize(source)
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"model": source.state_dict()}, file)
    else:
        write_weights(source.bottom_up, file)
    DetectionCheckpointer(model).load(str(file))
    assert list_warnings(model, caplog) == []


def test_a_checkpoint_goes_on_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also that of a run that was told of at its start."""
    torch.save({"model": build().state_dict()}, tmp_path / "model_0000009.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    model = build()
    DetectionCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert list_warnings(model, caplog) == []


def test_a_file_that_fits_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """detectron2's checkpointer loads nothing of it and goes on."""
    torch.save({"model": {"encoder.weight": torch.ones(3)}}, tmp_path / "weights.pth")
    model = build()
    DetectionCheckpointer(model).load(str(tmp_path / "weights.pth"))
    assert len(list_warnings(model, caplog)) == 1
