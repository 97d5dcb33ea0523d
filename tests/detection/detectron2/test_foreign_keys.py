"""Keys that other projects add to detectron2's nodes are off, or refused: none is ignored."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import CfgNode, get_cfg  # noqa: E402
from detectron2.layers import ShapeSpec  # noqa: E402
from detectron2.modeling import build_backbone  # noqa: E402
from detectron2.projects.deeplab import add_deeplab_config, build_resnet_deeplab_backbone  # noqa: E402

from resnext_det.detection.detectron2.backbone import ResNeXtRes5ROIHeads  # noqa: E402
from tests.detection.detectron2_reference import randomize  # noqa: E402
from tests.detection.helpers import STAGES  # noqa: E402

BUILDERS = ("resnext", "resnext_fpn", "retinanet_resnext_fpn")


def configure(builder: str = "resnext") -> Any:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = f"build_{builder}_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = list(STAGES)
    return cfg


def build(cfg: Any) -> Any:
    with torch.device("meta"):
        return build_backbone(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("dilation", [1, 2])
def test_deeplabs_keys_at_their_neutral_values_build_deeplabs_network(dilation: int) -> None:
    cfg = configure()
    add_deeplab_config(cfg)
    cfg.MODEL.RESNETS.STEM_TYPE, cfg.MODEL.RESNETS.RES5_MULTI_GRID = "basic", [1, 1, 1]
    cfg.MODEL.RESNETS.RES5_DILATION = dilation
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 32, 8
    ours = build_backbone(cfg, ShapeSpec(channels=3)).eval()
    theirs = build_resnet_deeplab_backbone(cfg, ShapeSpec(channels=3)).eval()
    randomize(ours, seed=0)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = ours(images), theirs(images)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert (found[name] - value).abs().max() < 1e-5 * value.abs().max()


RESNETS, BACKBONE, FPN = "MODEL.RESNETS", "MODEL.BACKBONE", "MODEL.FPN"
REFUSED = [
    (RESNETS, "STEM_TYPE", "deeplab", "write 'basic'"),
    (RESNETS, "RES4_DILATION", 2, "write 1"),
    (RESNETS, "RES5_MULTI_GRID", [1, 2, 4], r"write \[1, 1, 1\]"),
    (RESNETS, "RES5_MULTI_GRID", (), r"write \[1, 1, 1\]"),
    (RESNETS, "DEFORM_INTERVAL", 3, "write 1"),
    (RESNETS, "RADIX", 2, "write 1"),
    (RESNETS, "AVG_DOWN", True, r"leave it out \(cfg.MODEL.RESNETS.pop\('AVG_DOWN'\)\)"),
    (RESNETS, "DROPOUT", 0.1, "leave it out"),
    (RESNETS, "DCN", CfgNode({"GROUPS": 2}), "leave it out"),
    (BACKBONE, "ANTI_ALIAS", True, "leave it out"),
    (BACKBONE, "PRETRAINED", "resnext.pth", "leave it out"),
]


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize(("node", "key", "value", "remedy"), REFUSED)
def test_what_would_be_ignored_is_refused(
    builder: str, node: str, key: str, value: Any, remedy: str
) -> None:
    cfg = configure(builder)
    cfg.MODEL[node.removeprefix("MODEL.")][key] = value
    with pytest.raises(ValueError, match=f"^{node}.{key}.* would be ignored.*{remedy}.*NAME$"):
        build(cfg)
    if node == RESNETS:
        with pytest.raises(ValueError, match=f"^{node}.{key}.* would be ignored"):
            ResNeXtRes5ROIHeads._build_res5_block(cfg)


def test_keys_of_deeplab_as_it_adds_them_are_refused() -> None:
    cfg = configure()
    add_deeplab_config(cfg)
    with pytest.raises(ValueError, match=r"MODEL.RESNETS.RES5_MULTI_GRID = .1, 2, 4."):
        build(cfg)


def test_keys_of_a_pyramid_are_held_to_what_builds_one() -> None:
    """Someone else's pyramid over our network may read keys of MODEL.FPN that ours does not."""
    for builder in BUILDERS[1:]:
        cfg = configure(builder)
        cfg.MODEL.FPN.TOP_LEVELS = 2
        with pytest.raises(ValueError, match=r"^MODEL.FPN.TOP_LEVELS = 2 would be ignored"):
            build(cfg)
    cfg = configure()
    cfg.MODEL.FPN.TOP_LEVELS = 2
    assert build(cfg).output_shape().keys() == set(STAGES)


@pytest.mark.parametrize("builder", BUILDERS)
def test_what_is_off_changes_nothing(builder: str) -> None:
    """The defaults of AdelaiDet, ResNeSt and Mask2Former."""
    plain, cfg = configure(builder), configure(builder)
    cfg.MODEL.BACKBONE.ANTI_ALIAS = False
    cfg.MODEL.BACKBONE.PRETRAINED = None
    cfg.MODEL.RESNETS.update(
        DEFORM_INTERVAL=1, RADIX=1, AVG_DOWN=False, STEM_TYPE="basic", RES5_MULTI_GRID=[1, 1, 1]
    )
    assert list(build(cfg).state_dict()) == list(build(plain).state_dict())


def test_a_dilation_without_a_res5_to_dilate_is_refused() -> None:
    cfg = configure()
    cfg.MODEL.RESNETS.RES5_DILATION = 2
    with pytest.raises(ValueError, match=r"RES5_DILATION = 2, but .*Res5ROIHeads .* write 1"):
        ResNeXtRes5ROIHeads._build_res5_block(cfg)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    with pytest.raises(ValueError, match=r"RES5_DILATION = 2, but there is no res5 .* write 1"):
        build(cfg)
