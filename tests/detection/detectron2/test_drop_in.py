"""What a user's program touches on detectron2's own ResNet is there on ours, and does the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import LazyCall as L  # noqa: E402
from detectron2.config import LazyConfig, get_cfg, instantiate  # noqa: E402
from detectron2.layers import CNNBlockBase, FrozenBatchNorm2d, ShapeSpec  # noqa: E402
from detectron2.modeling import Backbone, build_backbone, build_model  # noqa: E402
from detectron2.solver.build import get_default_optimizer_params  # noqa: E402
from fvcore.nn.precise_bn import update_bn_stats  # noqa: E402

from resnext_det.detection.detectron2.backbone import (  # noqa: E402
    NORMS,
    ResNeXtBackbone,
    make_stage,
)
from resnext_det.forms import convert  # noqa: E402
from resnext_det.layers import FROZEN_NORMS, FrozenStatisticsBatchNorm2d  # noqa: E402
from tests.detection.helpers import STAGES, override  # noqa: E402

NARROW = override("MODEL.RESNETS", WIDTH_PER_GROUP=8, STEM_OUT_CHANNELS=32, RES2_OUT_CHANNELS=64)
SIZES: dict[str, list[Any]] = {
    "narrow R-50": [*NARROW, *override("MODEL.RESNETS", NUM_GROUPS=4)],
    "R-50": override("MODEL.RESNETS", NUM_GROUPS=1, WIDTH_PER_GROUP=64),
    "X-50": override("MODEL.RESNETS", NUM_GROUPS=32, WIDTH_PER_GROUP=4),
}
FPN = [*override("MODEL.RESNETS", OUT_FEATURES=STAGES), *override("MODEL.FPN", IN_FEATURES=STAGES)]
PYRAMID = ["p2", "p3", "p4", "p5"]
DETECTORS: dict[str, list[Any]] = {
    "C4": [],
    "Mask R-CNN C4": [
        "MODEL.MASK_ON",
        True,
        *override("MODEL.ROI_MASK_HEAD", POOLER_RESOLUTION=14),
    ],
    "DC5": [
        *override("MODEL.RESNETS", OUT_FEATURES=["res5"], RES5_DILATION=2),
        *override("MODEL.RPN", IN_FEATURES=["res5"]),
        *override("MODEL.ROI_HEADS", NAME="StandardROIHeads", IN_FEATURES=["res5"]),
        *override("MODEL.ROI_BOX_HEAD", NAME="FastRCNNConvFCHead", NUM_FC=1, FC_DIM=8),
    ],
    "FPN": [
        *FPN,
        *override("MODEL.BACKBONE", NAME="build_resnet_fpn_backbone"),
        *override("MODEL.FPN", OUT_CHANNELS=16, NORM="BN"),
        *override("MODEL.RPN", IN_FEATURES=PYRAMID),
        *override("MODEL.ANCHOR_GENERATOR", SIZES=[[32], [64], [128], [256]]),
        *override("MODEL.ROI_HEADS", NAME="StandardROIHeads", IN_FEATURES=PYRAMID),
        *override("MODEL.ROI_BOX_HEAD", NAME="FastRCNNConvFCHead", NUM_FC=1, FC_DIM=8),
    ],
    "RetinaNet": [
        *override("MODEL", META_ARCHITECTURE="RetinaNet"),
        *override("MODEL.BACKBONE", NAME="build_retinanet_resnet_fpn_backbone"),
        *override("MODEL.RESNETS", OUT_FEATURES=STAGES[1:]),
        *override("MODEL.FPN", IN_FEATURES=STAGES[1:], OUT_CHANNELS=16),
        *override("MODEL.ANCHOR_GENERATOR", SIZES=[[32], [64], [128], [256], [512]]),
    ],
    "RPN on the stem": [
        *override("MODEL", META_ARCHITECTURE="ProposalNetwork"),
        *override("MODEL.RESNETS", OUT_FEATURES=["stem"]),
        *override("MODEL.RPN", IN_FEATURES=["stem"]),
    ],
}


def configure(size: str, *changes: Any) -> Any:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *SIZES[size], *changes])
    return cfg


def name_ours(cfg: Any) -> Any:
    """Copy a configuration of detectron2's own network, with our names in it."""
    cfg = cfg.clone()
    cfg.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME.replace("resnet", "resnext")
    if cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads":
        cfg.MODEL.ROI_HEADS.NAME = "ResNeXtRes5ROIHeads"
    return cfg


def build_both(cfg: Any, *, seed: int = 7) -> tuple[Any, Any]:
    """Build our backbone and detectron2's from one seed."""
    built = []
    for each in (name_ours(cfg), cfg):
        torch.manual_seed(seed)
        built.append(build_backbone(each, ShapeSpec(channels=3)))
    return built[0], built[1]


def assert_one_draw(size: str, detector: str) -> None:
    cfg = configure(size, *DETECTORS[detector])
    states: list[dict[str, Tensor]] = []
    for each in (name_ours(cfg), cfg):
        torch.manual_seed(7)
        model = build_model(each)
        states.append({**model.state_dict(), "generator": torch.get_rng_state()})
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.mark.parametrize("detector", DETECTORS)
def test_one_seed_gives_one_detector(detector: str) -> None:
    """To the last bit; and the generator stands as after detectron2's own network."""
    assert_one_draw("narrow R-50", detector)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["R-50", "X-50"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_one_seed_gives_one_detector_of_full_size(size: str, detector: str) -> None:
    assert_one_draw(size, detector)


def test_one_seed_gives_one_detector_in_the_portable_engine() -> None:
    """Of every part, also behind a C4 network, whose res5 is drawn and thrown away."""
    from resnext_det import build_detector
    from resnext_det import get_cfg as get_portable_cfg

    portable = get_portable_cfg()
    portable.merge_from_list([*SIZES["narrow R-50"], "MODEL.DEVICE", "cpu"])
    models = []
    for build in (
        lambda: build_detector(portable),
        lambda: build_model(configure("narrow R-50")),
    ):
        torch.manual_seed(7)
        models.append((build().state_dict(), torch.get_rng_state()))
    (ours, our_generator), (theirs, their_generator) = models
    assert set(ours) <= set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(our_generator, their_generator)


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
