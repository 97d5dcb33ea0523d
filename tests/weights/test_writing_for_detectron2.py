"""detectron2's own checkpointer loads what is written for it into its own networks, whole."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resnext_det.resnext import ResNeXt
from resnext_det.weights.structure import extract_detector_backbone
from resnext_det.weights.writing import write_weights
from tests.weights.helpers import (
    DETECTRON2_FPN,
    NARROW50,
    NOTES,
    THIN,
    TORCHVISION,
    classifier,
    configure_detectron2,
    drop_counters,
    fill_randomly,
    make_path,
    same_bits,
)


@pytest.fixture
def detectron2() -> Any:
    library = pytest.importorskip("detectron2", reason="detectron2 is not installed")
    import resnext_det

    assert resnext_det.__version__  # importing it registers our builders
    return library


BACKBONES = {"C4": "backbone", "FPN": "fpn_backbone"}


def load_with_detectron2(
    model: nn.Module, path: Path, caplog: pytest.LogCaptureFixture
) -> dict[str, Any]:
    """Load with detectron2's own checkpointer; return what it logged and what it gave back."""
    from detectron2.checkpoint import DetectionCheckpointer

    outcomes: list[Any] = []

    class Watched(DetectionCheckpointer):
        def _log_incompatible_keys(self, incompatible: Any) -> None:
            outcomes.append(incompatible)
            super()._log_incompatible_keys(incompatible)

    with caplog.at_level(logging.WARNING):
        beside = Watched(model).load(str(path))
    (outcome,) = outcomes
    return {
        "missing": outcome.missing_keys,
        "unexpected": outcome.unexpected_keys,
        "shapes": outcome.incorrect_shapes,
        "warnings": [record.getMessage() for record in caplog.records],
        "beside": beside,
    }


def assert_complete(outcome: dict[str, Any]) -> None:
    assert not any(outcome[key] for key in ("missing", "unexpected", "shapes", "warnings"))


@pytest.mark.detectron2
@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
@pytest.mark.parametrize("format", ["detectron2", "native"])
def test_detectron2_loads_a_backbone(
    detectron2: Any, format: str, norm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_backbone

    model = fill_randomly(ResNeXt(NARROW50, norm=norm, out_features=("res5",))).eval()
    path = make_path(format, tmp_path)
    write_weights(model, path, format, preprocessing=TORCHVISION, metadata=NOTES)
    images = torch.randn(1, 3, 64, 64)
    changes = ["MODEL.RESNETS.NORM", norm, "MODEL.RESNETS.OUT_FEATURES", ["res5"]]
    for builder in ("build_resnet_backbone", "build_resnext_backbone"):
        cfg = configure_detectron2("MODEL.BACKBONE.NAME", builder, *changes)
        theirs = build_backbone(cfg, ShapeSpec(channels=3)).eval()
        outcome = load_with_detectron2(theirs, path, caplog)
        assert_complete(outcome)
        assert outcome["beside"]["preprocessing"] == TORCHVISION.as_dict()
        assert same_bits(drop_counters(theirs.state_dict()), drop_counters(model.state_dict()))
        with torch.no_grad():
            expected, features = model(images)["res5"], theirs(images)["res5"]
        assert torch.allclose(
            features, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )


@pytest.mark.detectron2
def test_detectron2_loads_a_classifier(
    detectron2: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet

    model = classifier(norm="BN")
    write_weights(model, tmp_path / "weights.pkl", preprocessing=TORCHVISION)
    stages = [
        ResNet.make_stage(
            BottleneckBlock,
            stage.blocks,
            stride_per_block=[stage.stride] + [1] * (stage.blocks - 1),
            in_channels=stage.in_channels,
            out_channels=stage.out_channels,
            bottleneck_channels=stage.bottleneck_channels,
            num_groups=stage.cardinality,
            norm="BN",
        )
        for stage in THIN.stages()
    ]
    theirs = ResNet(BasicStem(norm="BN"), stages, num_classes=7).eval()
    assert_complete(load_with_detectron2(theirs, tmp_path / "weights.pkl", caplog))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(theirs(images)["linear"], model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.detectron2
@pytest.mark.parametrize("format", ["detectron2", "native"])
@pytest.mark.parametrize("head", ["C4", "FPN"])
@pytest.mark.parametrize("name", ["resnet", "resnext"])
def test_detectron2_finds_the_backbone_in_its_detector(
    detectron2: Any,
    name: str,
    head: str,
    format: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is left over, and what is missing is no part of the backbone."""
    from detectron2.modeling import build_model

    model = fill_randomly(ResNeXt(NARROW50, out_features=("res5",)))
    path = make_path(format, tmp_path)
    write_weights(model, path, format, preprocessing=TORCHVISION)
    changes = [] if head == "C4" else DETECTRON2_FPN
    changes = [*changes, "MODEL.BACKBONE.NAME", f"build_{name}_{BACKBONES[head]}"]
    theirs = build_model(configure_detectron2(*changes))
    outcome = load_with_detectron2(theirs, path, caplog)
    assert outcome["unexpected"] == outcome["shapes"] == []
    heads = ("proposal_generator.", "roi_heads.box", "roi_heads.mask", "backbone.fpn_")
    assert outcome["missing"]
    assert all(missing.startswith(heads) for missing in outcome["missing"])
    assert same_bits(extract_detector_backbone(theirs.state_dict()), model.state_dict())
