"""Deformable stages equal those of detectron2's DeformBottleneckBlock."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import LazyCall, get_cfg, instantiate  # noqa: E402
from detectron2.layers import DeformConv, ShapeSpec, deform_conv  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.modeling.backbone import build_backbone  # noqa: E402

from resnext_det.architecture import Deformable  # noqa: E402
from resnext_det.deformable import DeformableConvNorm  # noqa: E402
from resnext_det.detection.detectron2.backbone import ResNeXtBackbone  # noqa: E402
from tests.detection.detectron2.test_zoo import convolve_modulated, describe  # noqa: E402
from tests.detection.detectron2_reference import move_points, randomize  # noqa: E402
from tests.detection.helpers import STAGES, override  # noqa: E402

DEFORMED = (False, True, True, True)
SMALL: list[Any] = [
    *override("MODEL", DEVICE="cpu"),
    *override("MODEL.BACKBONE", NAME="build_resnext_backbone"),
    *override("MODEL.RESNETS", DEPTH=50, NUM_GROUPS=8, WIDTH_PER_GROUP=4, RES2_OUT_CHANNELS=64),
    *override("MODEL.RESNETS", STEM_OUT_CHANNELS=32, OUT_FEATURES=STAGES),
    *override("MODEL.RESNETS", DEFORM_ON_PER_STAGE=DEFORMED, STRIDE_IN_1X1=False),
]
DILATED = override("MODEL.RESNETS", RES5_DILATION=2)
MODULATED = override("MODEL.RESNETS", DEFORM_MODULATED=True, DEFORM_NUM_GROUPS=2)


def build_both(*changes: Any) -> list[nn.Module]:
    """Build our backbone and detectron2's own, each from the same seed."""
    cfg = get_cfg()
    cfg.merge_from_list([*SMALL, *changes])
    built = []
    for name in ("build_resnext_backbone", "build_resnet_backbone"):
        cfg.MODEL.BACKBONE.NAME = name
        torch.manual_seed(0)
        built.append(build_backbone(cfg, ShapeSpec(channels=3)))
    return built


@pytest.mark.parametrize(("groups", "stride", "dilation"), [(1, 1, 1), (4, 2, 1), (2, 1, 2)])
def test_the_layer_equals_detectron2s_to_the_bit(groups: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"stride": stride, "padding": dilation, "dilation": dilation}
    ours = DeformableConvNorm(Deformable(()), 8, 12, groups=groups, bias=False, **options)
    theirs = DeformConv(8, 12, 3, groups=groups, **options)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 9, 11)
    sampling = 2 * torch.randn(2, 18, -(-9 // stride), -(-11 // stride))
    with torch.no_grad():
        assert torch.equal(ours(x, sampling), theirs(x, sampling))


@pytest.mark.parametrize(
    ("norm", "changes"),
    [
        ("FrozenBN", []),
        ("GN", DILATED),
        ("BN", override("MODEL.RESNETS", STRIDE_IN_1X1=True)),
        ("FrozenBN", MODULATED),
    ],
    ids=str,
)
def test_features_equal_detectron2s(
    norm: str, changes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deform_conv, "modulated_deform_conv", convolve_modulated)
    ours, theirs = (model.eval() for model in build_both("MODEL.RESNETS.NORM", norm, *changes))
    randomize(ours)
    move_points(ours)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        with torch.no_grad():
            found, expected = (model.to(dtype)(images.to(dtype)) for model in (ours, theirs))
        assert list(found) == list(expected) == STAGES
        for name, value in expected.items():
            assert float((found[name] - value).abs().max() / value.abs().max()) < tolerance


def test_one_seed_gives_detectron2s_numbers() -> None:
    for changes in ([], MODULATED):
        ours, theirs = build_both(*changes)
        expected = theirs.state_dict()
        assert list(ours.state_dict()) == list(expected)
        assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())


def test_a_last_stage_that_is_not_built_is_drawn_as_detectron2_draws_it() -> None:
    rolled = []
    for name in ("build_resnext_backbone", "build_resnet_backbone"):
        cfg = get_cfg()
        cfg.merge_from_list([*SMALL, "MODEL.RESNETS.OUT_FEATURES", ["res4"]])
        cfg.MODEL.BACKBONE.NAME = name
        torch.manual_seed(0)
        build_backbone(cfg, ShapeSpec(channels=3))
        rolled.append(torch.rand(3))
    assert torch.equal(*rolled)


@pytest.mark.parametrize(
    ("norm", "at", "changes"), [("FrozenBN", 2, DILATED), ("BN", 4, MODULATED), ("BN", 9, [])]
)
def test_the_same_is_frozen_under_the_same_keys(norm: str, at: int, changes: list[Any]) -> None:
    freeze = ["MODEL.RESNETS.NORM", norm, "MODEL.BACKBONE.FREEZE_AT", at]
    with torch.device("meta"):
        ours, theirs = build_both(*changes, *freeze)
    assert describe(ours) == describe(theirs)


def test_a_key_without_a_deformable_stage_has_no_effect() -> None:
    plain = ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False] * 4]
    with torch.device("meta"):
        ours, theirs = build_both(*plain, *MODULATED)
        assert describe(ours) == describe(theirs) == describe(build_both(*plain)[0])


def test_a_c4_head_has_no_deformable_res5() -> None:
    """detectron2's own asserts it."""
    cfg = get_cfg()
    cfg.merge_from_list([*SMALL, "MODEL.RESNETS.OUT_FEATURES", ["res4"]])
    cfg.MODEL.ROI_HEADS.NAME = "ResNeXtRes5ROIHeads"
    words = (
        r"ResNeXtRes5ROIHeads runs a res5 without deformable .* write \[False, True, True, False"
    )
    with torch.device("meta"):
        cfg.MODEL.DEVICE = "meta"
        with pytest.raises(ValueError, match=words):
            build_model(cfg)
        cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False, True, True, False]
        build_model(cfg)


def test_a_lazy_configuration_takes_it() -> None:
    deformable = LazyCall(Deformable)(stages=["res4"], modulated=True, groups=2)
    lazy = LazyCall(ResNeXtBackbone)(
        architecture="X-26-8x4d", out_features=["res4"], deformable=deformable
    )
    with torch.device("meta"):
        model = instantiate(lazy)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes["res4.1.conv2_offset.weight"] == (54, 128, 3, 3)
    assert "res3.1.conv2_offset.weight" not in shapes
