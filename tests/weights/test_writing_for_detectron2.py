"""What is written for detectron2, loaded by its own checkpointer into its own networks: nothing missing, nothing left over."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resnext_det.architecture import Architecture
from resnext_det.resnext import ResNeXt
from resnext_det.weights.file import extract_detector_backbone
from resnext_det.weights.writing import write_weights
from tests.weights.helpers import (
    NOTES,
    THIN,
    TORCHVISION,
    classifier,
    in_format,
    randomized,
    same_bits,
    without_counters,
)


@pytest.fixture
def detectron2() -> Any:
    library = pytest.importorskip("detectron2", reason="detectron2 is not installed")
    import resnext_det

    assert resnext_det.__version__  # importing it registers our builders
    return library


def loaded_by_detectron2(
    model: nn.Module, path: Path, caplog: pytest.LogCaptureFixture
) -> dict[str, Any]:
    """What its own checkpointer says it did, and what it gives back."""
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
    assert [outcome[key] for key in ("missing", "unexpected", "shapes", "warnings")] == [
        [],
        [],
        [],
        [],
    ]


def of_detectron2(*changes: Any) -> Any:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", 0])
    cfg.merge_from_list(
        ["MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4, *changes]
    )
    cfg.merge_from_list(["MODEL.RESNETS.STRIDE_IN_1X1", False])
    return cfg


@pytest.mark.detectron2
@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
@pytest.mark.parametrize("format", ["detectron2", "native"])
def test_detectron2_loads_a_backbone(
    detectron2: Any, format: str, norm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_backbone

    architecture = Architecture(50, 32, 4)
    model = randomized(ResNeXt(architecture, norm=norm, out_features=("res5",))).eval()
    path = in_format(format, tmp_path)
    write_weights(model, path, format, preprocessing=TORCHVISION, metadata=NOTES)
    images = torch.randn(1, 3, 64, 64)
    changes = ["MODEL.RESNETS.NORM", norm, "MODEL.RESNETS.OUT_FEATURES", ["res5"]]
    for builder in ("build_resnet_backbone", "build_resnext_backbone"):
        cfg = of_detectron2("MODEL.BACKBONE.NAME", builder, *changes)
        theirs = build_backbone(cfg, ShapeSpec(channels=3)).eval()
        outcome = loaded_by_detectron2(theirs, path, caplog)
        assert_complete(outcome)
        assert outcome["beside"]["preprocessing"] == TORCHVISION.as_dict()
        assert same_bits(
            without_counters(theirs.state_dict()), without_counters(model.state_dict())
        )
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
    assert_complete(loaded_by_detectron2(theirs, tmp_path / "weights.pkl", caplog))
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

    model = randomized(ResNeXt(Architecture(50, 32, 4), out_features=("res5",)))
    path = in_format(format, tmp_path)
    write_weights(model, path, format, preprocessing=TORCHVISION)
    changes = ["MODEL.BACKBONE.NAME", f"build_{name}_backbone"]
    if head == "FPN":
        stages = ["res2", "res3", "res4", "res5"]
        changes = [
            "MODEL.BACKBONE.NAME",
            f"build_{name}_fpn_backbone",
            "MODEL.FPN.IN_FEATURES",
            stages,
        ]
        changes += [
            "MODEL.RESNETS.OUT_FEATURES",
            stages,
            "MODEL.ROI_HEADS.NAME",
            "StandardROIHeads",
        ]
        changes += [
            "MODEL.RPN.IN_FEATURES",
            ["p2", "p3"],
            "MODEL.ROI_HEADS.IN_FEATURES",
            ["p2", "p3"],
        ]
        changes += [
            "MODEL.ROI_BOX_HEAD.NAME",
            "FastRCNNConvFCHead",
            "MODEL.ROI_BOX_HEAD.NUM_FC",
            1,
        ]
    theirs = build_model(of_detectron2(*changes))
    outcome = loaded_by_detectron2(theirs, path, caplog)
    assert outcome["unexpected"] == outcome["shapes"] == []
    heads = ("proposal_generator.", "roi_heads.box", "roi_heads.mask", "backbone.fpn_")
    assert outcome["missing"]
    assert all(missing.startswith(heads) for missing in outcome["missing"])
    assert same_bits(extract_detector_backbone(theirs.state_dict()), model.state_dict())
