"""The registered builders equal detectron2's own ResNet of the same groups, width and weights."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import get_cfg  # noqa: E402
from detectron2.layers import ShapeSpec  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.modeling.backbone import build_backbone  # noqa: E402

from resnext_det.detection.detectron2.backbone import ResNeXtBackbone  # noqa: E402
from tests.detection.detectron2_reference import randomize  # noqa: E402
from tests.detection.helpers import STAGES, override  # noqa: E402

NETS = {"R50": (50, 1, 64), "X50-32x4d": (50, 32, 4), "X101-32x8d": (101, 32, 8)}
HEADS: dict[str, list[Any]] = {
    "C4": override("MODEL.RESNETS", OUT_FEATURES=["stem", "res2", "res4"]),
    "DC5": override("MODEL.RESNETS", OUT_FEATURES=["res5"], RES5_DILATION=2),
    "FPN": [
        *override("MODEL.RESNETS", OUT_FEATURES=STAGES),
        *override("MODEL.FPN", IN_FEATURES=STAGES),
    ],
}
NORMS = ("FrozenBN", "BN", "GN")


def configuration(net: str, head: str, *changes: Any) -> Any:
    depth, groups, width = NETS[net]
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    size = override("MODEL.RESNETS", DEPTH=depth, NUM_GROUPS=groups, WIDTH_PER_GROUP=width)
    cfg.merge_from_list([*size, *HEADS[head], *changes])
    return cfg


def build_both(cfg: Any, head: str) -> tuple[nn.Module, nn.Module]:
    """Build our backbone and detectron2's own."""
    built = []
    for name in ("resnext", "resnet"):
        fpn = "_fpn" if head == "FPN" else ""
        cfg.MODEL.BACKBONE.NAME = f"build_{name}{fpn}_backbone"
        built.append(build_backbone(cfg, ShapeSpec(channels=3)))
    return built[0], built[1]


def compute_largest_difference(net: str, head: str, norm: str, stride_in_1x1: bool) -> float:
    """Compare the features of both, each relative to the largest value of its map."""
    options = override("MODEL.RESNETS", NORM=norm, STRIDE_IN_1X1=stride_in_1x1)
    cfg = configuration(net, head, *options, "MODEL.BACKBONE.FREEZE_AT", 0)
    ours, theirs = (model.eval() for model in build_both(cfg, head))
    randomize(ours, seed=0)
    theirs.load_state_dict(ours.state_dict())  # strict: the same keys and shapes
    images = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = ours(images), theirs(images)
    assert list(found) == list(expected)
    return max(
        float((found[k] - expected[k]).abs().max() / expected[k].abs().max()) for k in expected
    )


QUICK = [
    ("R50", "C4", "FrozenBN", True),
    ("R50", "FPN", "GN", False),
    ("X50-32x4d", "DC5", "FrozenBN", False),
    ("X50-32x4d", "FPN", "BN", True),
    ("X101-32x8d", "C4", "FrozenBN", False),
]
ALL = [case for case in itertools.product(NETS, HEADS, NORMS, (False, True)) if case not in QUICK]


@pytest.mark.parametrize(("net", "head", "norm", "stride_in_1x1"), QUICK)
def test_features_equal_detectron2s(net: str, head: str, norm: str, stride_in_1x1: bool) -> None:
    assert compute_largest_difference(net, head, norm, stride_in_1x1) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("net", "head", "norm", "stride_in_1x1"), ALL)
def test_features_equal_detectron2s_in_every_combination(
    net: str, head: str, norm: str, stride_in_1x1: bool
) -> None:
    assert compute_largest_difference(net, head, norm, stride_in_1x1) < 1e-5


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("head", HEADS)
def test_the_same_is_frozen_under_the_same_keys(net: str, head: str) -> None:
    """Try every depth on the pyramid, which has all stages, and some on networks without res5.

    Which stages are frozen depends on neither the groups nor the number of blocks.
    """
    depths = (2,) if net != "X50-32x4d" else (*range(6), 99, -1) if head == "FPN" else (0, 2, 5)
    for norm, at in itertools.product(NORMS, depths):
        cfg = configuration(net, head, "MODEL.RESNETS.NORM", norm, "MODEL.BACKBONE.FREEZE_AT", at)
        with torch.device("meta"):
            ours, theirs = build_both(cfg, head)
        found, expected = (
            (
                [(name, value.shape) for name, value in model.state_dict().items()],
                [name for name, p in model.named_parameters() if p.requires_grad],
                {name for name, layer in model.named_modules() if "Frozen" in type(layer).__name__},
            )
            for model in (ours, theirs)
        )
        assert found == expected
        assert ours.output_shape() == theirs.output_shape()
        assert ours.size_divisibility == theirs.size_divisibility


ARCHITECTURES: dict[str, list[Any]] = {
    "GeneralizedRCNN": [],
    "Mask R-CNN": ["MODEL.MASK_ON", True],
    "Mask R-CNN, C4": [
        *override("MODEL", MASK_ON=True),
        *override("MODEL.BACKBONE", NAME="build_resnext_backbone"),
        *override("MODEL.RESNETS", OUT_FEATURES=["res4"]),
        *override("MODEL.RPN", IN_FEATURES=["res4"]),
        *override("MODEL.ROI_HEADS", IN_FEATURES=["res4"]),
        *override("MODEL.ANCHOR_GENERATOR", SIZES=[[32, 64, 128]]),
        *override("MODEL.ROI_BOX_HEAD", NAME="", POOLER_RESOLUTION=14),
        *override("MODEL.ROI_MASK_HEAD", NUM_CONV=0),
    ],
    "Cascade R-CNN": [
        *override("MODEL.ROI_HEADS", NAME="CascadeROIHeads"),
        *override("MODEL.ROI_BOX_HEAD", CLS_AGNOSTIC_BBOX_REG=True),
    ],
    "RetinaNet": [
        *override("MODEL", META_ARCHITECTURE="RetinaNet"),
        *override("MODEL.BACKBONE", NAME="build_retinanet_resnext_fpn_backbone"),
        *override("MODEL.RESNETS", OUT_FEATURES=["res3", "res4", "res5"]),
        *override("MODEL.FPN", IN_FEATURES=["res3", "res4", "res5"]),
        *override("MODEL.ANCHOR_GENERATOR", SIZES=[[32], [64], [128], [256], [512]]),
    ],
}
WITH_C4_HEAD = [(name, "Res5ROIHeads") for name in ARCHITECTURES]
OUR_C4_HEADS = ("ResNeXtRes5ROIHeads", "ResNeXtSharedRes5ROIHeads")
WITH_C4_HEAD += [("Mask R-CNN, C4", name) for name in OUR_C4_HEADS]


@pytest.mark.parametrize(("name", "c4_head"), WITH_C4_HEAD)
def test_detectron2s_detectors_run_on_it_as_on_their_own(name: str, c4_head: str) -> None:
    """The same weights give the same detections on both backbones and with all C4 heads."""
    cfg = configuration("X50-32x4d", "FPN", *DETECTOR, *ARCHITECTURES[name])
    if name.endswith("C4"):
        cfg.MODEL.ROI_HEADS.NAME = c4_head
    torch.manual_seed(0)
    ours = build_model(cfg)
    assert isinstance(getattr(ours.backbone, "bottom_up", ours.backbone), ResNeXtBackbone)
    cfg.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME.replace("resnext", "resnet")
    if c4_head in OUR_C4_HEADS:
        cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
    theirs = build_model(cfg)
    randomize(ours, seed=2)
    theirs.load_state_dict(ours.state_dict())
    image = torch.randint(0, 255, (3, 96, 128), generator=torch.Generator().manual_seed(0))
    models = (ours.eval(), theirs.eval())
    found, expected = (model([{"image": image}])[0]["instances"] for model in models)
    assert len(found) == len(expected) > 0
    assert found.get_fields().keys() == expected.get_fields().keys()
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    boxes, expected_boxes = found.pred_boxes.tensor, expected.pred_boxes.tensor
    torch.testing.assert_close(boxes, expected_boxes, rtol=1e-3, atol=1e-2)
    if "Mask" in name:
        # A pixel whose probability is 0.5 may fall to either side.
        assert int((found.pred_masks != expected.pred_masks).sum()) <= 2


DETECTOR: list[Any] = [
    *override("MODEL.RESNETS", WIDTH_PER_GROUP=2, STEM_OUT_CHANNELS=16, RES2_OUT_CHANNELS=64),
    *override("MODEL.BACKBONE", NAME="build_resnext_fpn_backbone"),
    *override("MODEL.ROI_HEADS", NAME="StandardROIHeads", IN_FEATURES=["p2", "p3"], NUM_CLASSES=3),
    *override("MODEL.RPN", IN_FEATURES=["p3", "p4", "p5"], POST_NMS_TOPK_TEST=50),
    *override("MODEL.ANCHOR_GENERATOR", SIZES=[[32], [64], [128]]),
    *override("MODEL.ROI_BOX_HEAD", NAME="FastRCNNConvFCHead", NUM_FC=1, POOLER_RESOLUTION=7),
    *override("MODEL.RESNETS", STRIDE_IN_1X1=False),
    *override("MODEL.ROI_MASK_HEAD", NAME="MaskRCNNConvUpsampleHead"),
    *override("MODEL.ROI_HEADS", SCORE_THRESH_TEST=0.0),
    *override("MODEL.RETINANET", NUM_CLASSES=3, SCORE_THRESH_TEST=0.0),
    *override("TEST", DETECTIONS_PER_IMAGE=10),
]

REFUSED = {
    ("MODEL.RESNETS.DEPTH", 34): "DEPTH = 34 is not supported; write .* 50 .*basic blocks",
    ("MODEL.RESNETS.NORM", "LRN"): "NORM = 'LRN' is not supported; write 'FrozenBN' .*'LN'",
    ("MODEL.RESNETS.RES5_DILATION", 4): "RES5_DILATION = 4 is not supported; write 1 or 2",
    (
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
        (True,),
    ): "has 1 entries; write .* res2, res3, res4, res5",
    (
        "MODEL.RESNETS.DEFORM_NUM_GROUPS",
        0,
    ): "GROUPS = 0 is out of range; write a number from 1",
    ("MODEL.RESNETS.OUT_FEATURES", ("res6",)): "= .'res6'.: write one or more of stem, res2",
    ("MODEL.RESNETS.NUM_GROUPS", 0): "NUM_GROUPS = 0 is out of range; write a number from 1",
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_is_not_honored_is_refused(change: tuple[str, Any]) -> None:
    cfg = configuration("X50-32x4d", "C4", "MODEL.BACKBONE.NAME", "build_resnext_backbone", *change)
    with pytest.raises(ValueError, match=REFUSED[change]):
        build_model(cfg)


def test_a_traced_detector_gives_what_it_gave(tmp_path: Path) -> None:
    """detectron2's export by tracing: run on an image of another size, read back from a file."""
    from detectron2.export import TracingAdapter

    torch.manual_seed(0)
    model = build_model(configuration("X50-32x4d", "FPN", *DETECTOR)).eval()
    randomize(model, seed=3)
    images = [
        torch.randint(0, 255, (3, *size), generator=torch.Generator().manual_seed(seed)).float()
        for seed, size in enumerate([(96, 128), (128, 96)])
    ]

    def infer(model: Any, inputs: Any) -> Any:
        return model.inference(inputs, do_postprocess=False)

    adapter = TracingAdapter(model, [{"image": images[0]}], infer)
    with torch.no_grad():
        torch.jit.trace(adapter, adapter.flattened_inputs).save(str(tmp_path / "model.ts"))
        traced = torch.jit.load(str(tmp_path / "model.ts"))
        boxes, classes, scores = traced(images[1])[:3]
        (expected,) = infer(model, [{"image": images[1]}])
    assert len(expected) > 0
    torch.testing.assert_close(boxes, expected.pred_boxes.tensor)
    assert torch.equal(classes, expected.pred_classes)
    torch.testing.assert_close(scores, expected.scores)
