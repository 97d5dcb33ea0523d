"""Compare attributes, norms and freezing of our backbone with those of detectron2's ResNet."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import LazyCall as L  # noqa: E402
from detectron2.config import LazyConfig, instantiate  # noqa: E402
from detectron2.layers import CNNBlockBase, FrozenBatchNorm2d  # noqa: E402
from detectron2.modeling import Backbone, build_model  # noqa: E402
from detectron2.solver.build import get_default_optimizer_params  # noqa: E402
from fvcore.nn.precise_bn import update_bn_stats  # noqa: E402

from resnext_det.detection.detectron2.backbone import (  # noqa: E402
    NORMS,
    ResNeXtBackbone,
    make_stage,
)
from resnext_det.forms import convert  # noqa: E402
from resnext_det.layers import FROZEN_NORMS, FrozenStatisticsBatchNorm2d  # noqa: E402
from tests.detection.detectron2.test_draw import build_both, configure, name_ours  # noqa: E402
from tests.detection.helpers import override  # noqa: E402


def list_norms(module: nn.Module) -> dict[str, type[nn.Module]]:
    return {n: type(norm) for n, norm in module.named_modules() if n.endswith("norm")}


@pytest.mark.parametrize("norm", [name for name in NORMS if name != "FrozenStatisticsBN"])
def test_norms_are_of_detectron2s_types(norm: str) -> None:
    """Made by its own get_norm and, up to res2, which FREEZE_AT freezes, by its own conversion."""
    changes = ["MODEL.RESNETS.NORM", norm, "MODEL.BACKBONE.FREEZE_AT", 2]
    with torch.device("meta"):
        cfg = configure("narrow R-50", *changes)
        ours, theirs = build_both(cfg)
        cfg.MODEL.DEVICE = "meta"
        stage = build_model(name_ours(cfg)).roi_heads.res5
    assert list_norms(ours) == list_norms(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert {*list_norms(stage).values()} == {*list_norms(theirs.res4).values()}


def test_every_norm_computes_what_detectron2s_does() -> None:
    images = torch.randn(2, 3, 32, 64)
    for norm in ("nnSyncBN", "naiveSyncBN_N", "LN", ""):
        ours, theirs = build_both(configure("narrow R-50", "MODEL.RESNETS.NORM", norm))
        found, expected = (model.double()(images.double())["res4"] for model in (ours, theirs))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-9, atol=1e-9)


class LearnedScale(nn.Module):
    """A norm of a user's own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class HalfFrozen(FrozenBatchNorm2d):
    """A frozen norm of a user's own, whose forward differs: it must not be folded as its base."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


@pytest.mark.parametrize("norm", [LearnedScale, HalfFrozen, None, lambda channels: None])
def test_a_norm_may_be_a_callable(norm: Any) -> None:
    from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock

    images = torch.randn(1, 3, 64, 64)
    ours = ResNeXtBackbone("X-50-4x8d", norm=norm, out_features=["res2"])
    blocks = {"bottleneck_channels": 32, "num_groups": 4, "norm": norm}
    theirs = nn.Sequential(
        BasicStem(norm=norm),
        BottleneckBlock(64, 256, **blocks),
        *(BottleneckBlock(256, 256, **blocks) for _ in range(2)),
    )
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values())))
    torch.testing.assert_close(ours(images)["res2"], theirs(images))


def test_a_norm_may_be_a_callable_in_lazy_config() -> None:
    backbone = L(ResNeXtBackbone)(architecture="X-50-4x8d", norm=L(nn.GroupNorm)(num_groups=8))
    backbone.norm = LearnedScale
    with torch.device("meta"):
        model = instantiate(LazyConfig.apply_overrides(backbone, ["out_features=[res2]"]))
    assert {*list_norms(model).values()} == {LearnedScale}


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'LRN' is not known; choose one of 'FrozenBN', .*'LN'"):
        ResNeXtBackbone("X-50-4x8d", norm="LRN")
    with pytest.raises(ValueError, match=r"32 groups.*40 channels"):
        ResNeXtBackbone("X-50-4x10d", norm="GN")


def test_frozen_norms_are_unfrozen_by_detectron2s_conversion() -> None:
    """They then train, as those of its own network; convert_frozen_batchnorm freezes them again."""
    ours, theirs = build_both(configure("narrow R-50"))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for backbone in (ours, theirs):
        norms = [m for m in backbone.modules() if isinstance(m, FrozenBatchNorm2d)]
        assert len(norms) == 43
        FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(backbone)
        assert not any(isinstance(m, FrozenBatchNorm2d) for m in backbone.modules())
        backbone.double().train()
        optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            backbone(images)["res4"].square().mean().backward()
            optimizer.step()
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-7, atol=1e-7)
    norm = ours.res3[0].conv1.norm
    assert norm.running_mean.any() and norm.bias.any()

    FrozenBatchNorm2d.convert_frozen_batchnorm(ours)
    assert sum(isinstance(m, FrozenBatchNorm2d) for m in ours.modules()) == 43
    found = ours(images)["res4"]
    assert torch.equal(found, ours(images)["res4"])
    torch.testing.assert_close(found, theirs.eval()(images)["res4"], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("feature", ["stem", "res3", "res5"])
def test_attributes_are_those_of_detectron2s_network(feature: str) -> None:
    dilation = 2 if feature == "res5" else 1
    changes = override("MODEL.RESNETS", OUT_FEATURES=[feature], RES5_DILATION=dilation)
    with torch.device("meta"):
        ours, theirs = build_both(configure("narrow R-50", *changes))
    for name in (
        *("_out_features", "_out_feature_channels", "_out_feature_strides", "stage_names"),
        *("size_divisibility", "padding_constraints"),
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.output_shape() == theirs.output_shape()
    assert isinstance(ours, Backbone)
    assert [len(stage) for stage in ours.stages] == [len(stage) for stage in theirs.stages]
    assert all(a is getattr(ours, name) for a, name in zip(ours.stages, ours.stage_names))
    blocks = {n: m for n, m in ours.named_modules() if isinstance(m, CNNBlockBase)}
    expected = {n: m for n, m in theirs.named_modules() if isinstance(m, CNNBlockBase)}
    for name, block in expected.items():
        for attribute in ("in_channels", "out_channels", "stride"):
            assert getattr(blocks[name], attribute) == getattr(block, attribute)
    assert list(blocks) == list(expected)


def test_a_block_is_frozen_as_detectron2s() -> None:
    with torch.device("meta"):
        ours, theirs = build_both(configure("narrow R-50", "MODEL.RESNETS.NORM", "BN"))
        for backbone in (ours, theirs):
            assert backbone.res4[1].freeze() is backbone.res4[1]
            assert backbone.stem.freeze() is backbone.stem
            assert backbone.freeze(freeze_at=3) is backbone.freeze() is backbone
    assert list_norms(ours) == list_norms(theirs)
    found, expected = ([p.requires_grad for p in model.parameters()] for model in (ours, theirs))
    assert found == expected


def test_a_stage_alone_is_of_detectron2s_types() -> None:
    """The res5 of a C4 detector in LazyConfig, whatever its norm."""
    with torch.device("meta"):
        frozen, trained = (
            make_stage("X-50-4x8d", "res5", norm=norm) for norm in ("FrozenBN", "BN")
        )
        assert isinstance(trained[0].freeze(), CNNBlockBase)
    norms = [m for m in frozen.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 10
    assert {*list_norms(trained[0]).values()} == {FrozenBatchNorm2d}
    assert {*list_norms(trained[1]).values()} == {nn.BatchNorm2d}


def test_hooks_see_frozen_norms_where_nothing_is_folded() -> None:
    backbone = ResNeXtBackbone("X-26-2x4d", out_features=["res2"])
    images, seen = torch.randn(1, 3, 32, 32), []
    backbone.stem.conv1.norm.register_forward_hook(lambda *given: seen.append(given))
    expected = backbone(images)["res2"]
    assert not seen
    folded = {*FROZEN_NORMS}
    FROZEN_NORMS.clear()
    try:
        found = backbone(images)["res2"]
    finally:
        FROZEN_NORMS.update(folded)
    assert len(seen) == 1
    torch.testing.assert_close(found, expected)


def test_blocks_of_another_form_are_frozen() -> None:
    backbone = convert(ResNeXtBackbone("X-26-2x4d", norm="BN"), "A")
    backbone.freeze(2)
    assert not any(p.requires_grad for p in backbone.res2.parameters())
    assert all(p.requires_grad for p in backbone.res3.parameters())


def make_frozen_statistics() -> ResNeXtBackbone:
    torch.manual_seed(0)
    backbone = ResNeXtBackbone("X-26-2x4d", norm="FrozenStatisticsBN", out_features=["res2"])
    return backbone.train()


def test_weight_decay_norm_holds_for_frozen_statistics() -> None:
    backbone = make_frozen_statistics()
    groups = get_default_optimizer_params(
        backbone, base_lr=0.1, weight_decay=1e-4, weight_decay_norm=0.5
    )
    found = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    decays = {name: found[id(p)] for name, p in backbone.named_parameters()}
    assert len(decays) == 24
    assert decays == {name: 0.5 if ".norm." in name else 1e-4 for name in decays}


def test_frozen_statistics_are_not_computed_anew() -> None:
    """PreciseBN computes no statistics, and synchronized norms do not take their place."""
    backbone = make_frozen_statistics()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    update_bn_stats(backbone, [torch.randn(2, 3, 32, 32)], 1)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)
    kinds = {*list_norms(converted).values()}
    assert kinds == {FrozenStatisticsBatchNorm2d}
    assert all(torch.equal(backbone.state_dict()[name], value) for name, value in before.items())
    converted.freeze(2)
    assert not any(p.requires_grad for p in converted.parameters())
