"""detectron2's export by scripting takes our backbone, and gives what the model gave."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import get_cfg  # noqa: E402
from detectron2.export import scripting_with_instances  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.modeling.poolers import ROIPooler  # noqa: E402
from detectron2.structures import Boxes  # noqa: E402
from detectron2.utils.testing import convert_scripted_instances  # noqa: E402

from resnext_det.detection.detectron2.backbone import ResNeXtBackbone  # noqa: E402
from resnext_det.detection.detectron2.heads import _ROIPooler  # noqa: E402
from tests.detection.detectron2_reference import randomize  # noqa: E402
from tests.detection.helpers import STAGES, override  # noqa: E402

FIELDS: dict[str, Any] = {
    "proposal_boxes": Boxes,
    "objectness_logits": Tensor,
    "pred_boxes": Boxes,
    "scores": Tensor,
    "pred_classes": Tensor,
    "pred_masks": Tensor,
}
SMALL: list[Any] = [
    *override("MODEL", DEVICE="cpu"),
    *override("MODEL.RESNETS", DEPTH=26, NUM_GROUPS=2, WIDTH_PER_GROUP=8, STEM_OUT_CHANNELS=16),
    *override("MODEL.RESNETS", RES2_OUT_CHANNELS=16),
    *override("MODEL.RPN", POST_NMS_TOPK_TEST=30),
    *override("MODEL.ROI_HEADS", NUM_CLASSES=3, SCORE_THRESH_TEST=0.0),
    *override("MODEL.RETINANET", NUM_CLASSES=3, SCORE_THRESH_TEST=0.0),
    *override("TEST", DETECTIONS_PER_IMAGE=10),
]
DETECTORS: dict[str, list[Any]] = {
    "Mask R-CNN, C4": [  # detectron2's own C4 head scripts with masks alone
        *override("MODEL", MASK_ON=True),
        *override("MODEL.BACKBONE", NAME="build_resnext_backbone"),
        *override("MODEL.ROI_HEADS", NAME="ResNeXtRes5ROIHeads"),
        *override("MODEL.ROI_MASK_HEAD", NAME="MaskRCNNConvUpsampleHead", CONV_DIM=8),
    ],
    "Mask R-CNN, C4, shared": [
        *override("MODEL", MASK_ON=True),
        *override("MODEL.BACKBONE", NAME="build_resnext_backbone"),
        *override("MODEL.ROI_HEADS", NAME="ResNeXtSharedRes5ROIHeads"),
        *override("MODEL.ROI_MASK_HEAD", NAME="MaskRCNNConvUpsampleHead", CONV_DIM=8),
    ],
    "Mask R-CNN, FPN": [
        *override("MODEL", MASK_ON=True),
        *override("MODEL.BACKBONE", NAME="build_resnext_fpn_backbone"),
        *override("MODEL.RESNETS", OUT_FEATURES=STAGES),
        *override("MODEL.FPN", IN_FEATURES=STAGES, OUT_CHANNELS=16),
        *override("MODEL.RPN", IN_FEATURES=["p4", "p5"]),
        *override("MODEL.ANCHOR_GENERATOR", SIZES=[[32], [64]]),
        *override("MODEL.ROI_HEADS", NAME="StandardROIHeads", IN_FEATURES=["p2", "p3"]),
        *override("MODEL.ROI_BOX_HEAD", NAME="FastRCNNConvFCHead", NUM_FC=1, FC_DIM=16),
        *override("MODEL.ROI_BOX_HEAD", POOLER_RESOLUTION=7),
        *override("MODEL.ROI_MASK_HEAD", NAME="MaskRCNNConvUpsampleHead", NUM_CONV=1, CONV_DIM=8),
    ],
    "RetinaNet": [
        *override("MODEL", META_ARCHITECTURE="RetinaNet"),
        *override("MODEL.BACKBONE", NAME="build_retinanet_resnext_fpn_backbone"),
        *override("MODEL.RESNETS", OUT_FEATURES=STAGES[1:]),
        *override("MODEL.FPN", IN_FEATURES=STAGES[1:], OUT_CHANNELS=16),
        *override("MODEL.ANCHOR_GENERATOR", SIZES=[[32], [64], [128], [256], [512]]),
    ],
}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Compute on two threads: on one, 1x1 convolutions that are not scripted run other kernels."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


SLOW = "Mask R-CNN, C4, shared"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == SLOW else n for n in DETECTORS]
)
def test_a_scripted_detector_gives_what_it_gave(name: str) -> None:
    """On two images of unlike sizes, also once it was written and read back."""
    cfg = get_cfg()
    cfg.merge_from_list([*SMALL, *DETECTORS[name]])
    torch.manual_seed(0)
    model: Any = build_model(cfg).eval()
    randomize(model, seed=3)
    sizes = [(96, 128), (64, 96)]
    inputs = [{"image": torch.rand(3, *size) * 255} for size in sizes]
    fields = {k: FIELDS[k] for k in FIELDS if "mask" not in k or cfg.MODEL.MASK_ON}
    if name == "RetinaNet":
        fields = {k: FIELDS[k] for k in ("pred_boxes", "scores", "pred_classes")}
    with torch.no_grad():
        if name == "RetinaNet":
            scripted: Any = scripting_with_instances(model, fields)
            found = scripted(inputs)
            # Eagerly it also brings the boxes into the image; there they are clipped alone.
            expected = [each["instances"] for each in model(inputs)]
        else:
            heads = type(model.roi_heads)
            if "shared" in name:  # the head that shares is scripted as the exact one
                model.roi_heads.__class__ = heads.__base__
            expected = model.inference(inputs, do_postprocess=False)
            model.roi_heads.__class__ = heads
            scripted = read_back(scripting_with_instances(model, fields))
            found = scripted.inference(inputs, do_postprocess=False)
    for ours, wanted in zip(map(convert_scripted_instances, found), expected, strict=True):
        assert len(wanted) == 10
        assert torch.equal(ours.scores, wanted.scores)
        assert torch.equal(ours.pred_classes, wanted.pred_classes)
        if name != "RetinaNet":
            assert torch.equal(ours.pred_boxes.tensor, wanted.pred_boxes.tensor)
        if cfg.MODEL.MASK_ON:
            assert torch.equal(ours.pred_masks, wanted.pred_masks)


def read_back(scripted: Any) -> Any:
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("norm", ["FrozenBN", "FrozenStatisticsBN", "GN", ""])
def test_a_scripted_backbone_gives_what_it_gave(norm: str) -> None:
    """Each norm, whether it is folded or not; the backbone itself stays as it was.

    On one thread the backbone calls other kernels than its script, which round otherwise.
    """
    features = ["stem", "res2", "res3"]
    backbone = ResNeXtBackbone("X-26-4x16d", norm=norm, out_features=features, freeze_at=1).eval()
    randomize(backbone, seed=1)
    names, images = list(backbone.state_dict()), torch.randn(2, 3, 64, 50)
    scripted = read_back(torch.jit.script(backbone))
    found, expected = scripted(images), backbone(images)
    assert list(found) == list(expected) == features
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert names == list(backbone.state_dict()) == list(scripted.state_dict())
    assert all(isinstance(stage, nn.Sequential) for stage in backbone.stages)


class Cut(nn.Module):
    """Cut boxes of one image out of two maps, from tensors, of which a script needs no patches."""

    def __init__(self, kind: type[ROIPooler]) -> None:
        super().__init__()
        self.pooler = ROIPooler(7, [1 / 4, 1 / 8], 0, "ROIAlignV2")
        self.pooler.__class__ = kind

    def forward(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        return self.pooler(maps, [Boxes(boxes)])


def test_the_pooler_of_the_faster_heads_cuts_as_detectron2s_also_in_a_script() -> None:
    maps = [torch.randn(1, 4, 64, 64, requires_grad=True), torch.randn(1, 4, 32, 32)]
    boxes = torch.tensor([[1.0, 2, 50, 60], [0, 0, 20, 20], [0, 0, 255, 255]])
    ours, theirs = Cut(_ROIPooler), Cut(ROIPooler)
    expected = theirs(maps, boxes)
    assert torch.equal(ours(maps, boxes), expected)
    assert torch.equal(torch.jit.script(ours)(maps, boxes), expected)
    gradients = [
        torch.autograd.grad(cut(maps, boxes).exp().sum(), maps[0])[0] for cut in (ours, theirs)
    ]
    assert torch.equal(*gradients)
