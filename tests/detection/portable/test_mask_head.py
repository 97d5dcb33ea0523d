"""Mask R-CNN equals the real detectron2's, and its loss and targets are those worked out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from resnext_det.detection.portable.build import _build_roi_heads, build_detector
from resnext_det.detection.portable.compiled import compile_step
from resnext_det.detection.portable.mask_head import (
    compute_mask_loss,
    compute_mask_probabilities,
    cut_masks,
)
from resnext_det.instances import Boxes, Instances
from resnext_det.masks import BitMasks
from tests.detection.detectron2_reference import (
    assert_same_instances,
    build_detectron2_detector,
    copy_cfg_to_detectron2,
    copy_samples_to_detectron2,
    randomize,
)
from tests.detection.helpers import C4_MASKS, DC5_CHANGES, MASKS, add_masks, override
from tests.detection.portable.test_faster_rcnn import batch, configuration

VARIANTS: dict[str, list[Any]] = {
    "FPN": MASKS,
    "FPN, faster heads": [*MASKS, *override("MODEL.ROI_HEADS", NAME="ResNeXtStandardROIHeads")],
    "C4": C4_MASKS,
    "C4, shared": [
        *C4_MASKS,
        *override("MODEL.RESNETS", NORM="FrozenBN"),
        *override("MODEL.ROI_HEADS", NAME="ResNeXtSharedRes5ROIHeads"),
    ],
    "DC5": [*DC5_CHANGES, *MASKS],
    "eight keys changed": [
        *MASKS,
        *override("MODEL.ROI_MASK_HEAD", NUM_CONV=2, CONV_DIM=32, NORM="GN", POOLER_RESOLUTION=5),
        *override("MODEL.ROI_MASK_HEAD", POOLER_TYPE="ROIAlign", POOLER_SAMPLING_RATIO=2),
        *override("MODEL.ROI_MASK_HEAD", CLS_AGNOSTIC_MASK=True),
        *override("MODEL.ROI_HEADS", IOU_THRESHOLDS=[0.3, 0.55], IOU_LABELS=[0, -1, 1]),
    ],
}


def make_batch(*, as_bitmaps: bool = False) -> list[dict[str, Any]]:
    """Make the images of ``batch`` with masks; the second has no object."""
    return [
        {**add_masks(sample, as_bitmaps=as_bitmaps), "height": 100, "width": 150}
        for sample in batch()
    ]


@pytest.mark.detectron2
@pytest.mark.parametrize("name", VARIANTS)
def test_masks_losses_and_gradients_are_detectron2s(name: str) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.utils.events import EventStorage

    cfg = configuration(*VARIANTS[name], "TEST.DETECTIONS_PER_IMAGE", 12)
    torch.manual_seed(0)  # some weights find masks of hardly a pixel
    ours = build_detector(cfg)
    randomize(ours)
    theirs = build_detectron2_detector(cfg)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    for as_bitmaps in (False, True) if name == "FPN" else (False,):
        results: list[Any] = []
        samples = make_batch(as_bitmaps=as_bitmaps)
        for model, given in ((ours, samples), (theirs, copy_samples_to_detectron2(samples))):
            model.train().zero_grad()
            torch.manual_seed(7)
            with EventStorage():
                losses: dict[str, torch.Tensor] = model(given)
            torch.stack(list(losses.values())).sum().backward()
            results.append((losses, {n: p.grad for n, p in model.named_parameters()}))
        (losses, gradients), (expected_losses, expected) = results
        assert list(losses) == list(expected_losses) and "loss_mask" in losses
        assert torch.equal(losses["loss_mask"], expected_losses["loss_mask"])
        assert losses["loss_mask"].detach() > 0.2
        for key, value in expected.items():
            same = gradients[key] is None if value is None else torch.equal(gradients[key], value)
            assert same, key
    with torch.no_grad():
        found = ours.eval()(make_batch())
        wanted = theirs.eval()(copy_samples_to_detectron2(make_batch()))
    for mine, other in zip(found, wanted):
        instances = mine["instances"]
        assert instances.pred_masks.shape == (len(instances), 100, 150)
        assert 0.001 < instances.pred_masks.float().mean() < 0.9
        assert_same_instances(instances, other["instances"])


@pytest.mark.detectron2
@pytest.mark.parametrize("name", ["FPN", "eight keys changed"])
def test_the_heads_begin_with_equal_weights(name: str) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_roi_heads

    cfg = configuration(*VARIANTS[name])
    backbone: Any = build_detector(cfg).backbone
    shapes = {
        key: ShapeSpec(channels=backbone.out_channels[key], stride=stride)
        for key, stride in backbone.out_strides.items()
    }
    theirs_cfg = copy_cfg_to_detectron2(cfg)
    states = []
    for make in (
        lambda: _build_roi_heads(cfg, backbone),
        lambda: build_roi_heads(theirs_cfg, shapes),
    ):
        torch.manual_seed(5)
        part: Any = make()
        states.append(part.state_dict())
    mine, wanted = states
    assert list(mine) == list(wanted) and any("mask_head" in key for key in mine)
    assert all(torch.equal(mine[key], wanted[key]) for key in mine)


def test_the_loss_is_a_mean_over_pixels_of_the_true_class() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 5, generator=generator, requires_grad=True)
    truth, classes = torch.rand(3, 5, 5, generator=generator) > 0.5, torch.tensor([2, 0, 3])
    loss = compute_mask_loss(logits, classes, truth)
    signs = torch.where(truth, 1.0, -1.0)
    chosen = torch.stack([logits[index, label] for index, label in enumerate(classes)])
    expected = torch.log1p(torch.exp(-signs * chosen)).mean()
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0, 1].abs().max() == 0 < gradient[0, 2].abs().min()
    probabilities = compute_mask_probabilities(logits, classes)
    torch.testing.assert_close(probabilities[:, 0], 1 / (1 + torch.exp(-chosen)))
    none = compute_mask_loss(logits[:0], classes[:0], truth[:0])
    assert none == 0 and none.requires_grad


def test_masks_are_cut_out_of_the_image_of_their_region() -> None:
    """A region is the left half of the second object of the second image, which is a square."""
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[1, 4:12, 8:16] = True
    size, boxes = (20, 20), Boxes(torch.zeros(2, 4))
    targets = [
        Instances(size, gt_boxes=Boxes(torch.zeros(0, 4))),  # of an image without objects
        Instances(size, gt_boxes=boxes, gt_masks=BitMasks(masks)),
    ]
    regions = torch.tensor([[1.0, 4.0, 4.0, 12.0, 12.0], [1.0, 0.0, 0.0, 4.0, 4.0]])
    cut = cut_masks(targets, regions, torch.tensor([1, 1]), 4)
    expected = torch.zeros(2, 4, 4, dtype=torch.bool)
    expected[0, :, 2:] = True
    assert torch.equal(cut, expected)
    assert cut_masks(targets, regions[:0], torch.zeros(0, dtype=torch.int64), 4).shape == (0, 4, 4)


def test_no_object_among_the_regions_trains_without_masks() -> None:
    """The loss of masks is 0, and its layers get gradients of 0."""
    model = build_detector(configuration(*MASKS)).train()
    losses = model([make_batch()[1]])
    assert losses["loss_mask"] == 0
    torch.stack(list(losses.values())).sum().backward()
    assert model.roi_heads is not None and model.roi_heads.mask_head is not None
    gradients = [parameter.grad for parameter in model.roi_heads.mask_head.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_what_cannot_be_computed_is_refused() -> None:
    model = build_detector(configuration(*MASKS, "MODEL.RESNETS.NORM", "FrozenBN")).train()
    with pytest.raises(ValueError, match="'gt_masks' of the objects, which 64x90 lacks"):
        model(batch())
    with pytest.raises(ValueError, match=r"training step of a mask head cannot be compiled"):
        compile_step(model)


@pytest.mark.slow
@pytest.mark.detectron2
@pytest.mark.parametrize("name", ["FPN", "C4", "DC5"])
def test_a_full_size_x50_finds_the_same_masks(name: str) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    size = override("MODEL.RESNETS", DEPTH=50, NUM_GROUPS=32, STEM_OUT_CHANNELS=64)
    size += override("MODEL.RESNETS", RES2_OUT_CHANNELS=256, NORM="FrozenBN")
    head = override("MODEL.ROI_MASK_HEAD", CONV_DIM=256)
    if name != "C4":
        head += override("MODEL.ROI_MASK_HEAD", NUM_CONV=4, POOLER_RESOLUTION=14)
    cfg = configuration(*VARIANTS[name], *size, *head)
    ours = build_detector(cfg).eval()
    randomize(ours)
    theirs = build_detectron2_detector(cfg).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    with torch.no_grad():
        found, expected = ours(make_batch()), theirs(copy_samples_to_detectron2(make_batch()))
    for mine, wanted in zip(found, expected):
        assert len(mine["instances"]) > 0
        assert_same_instances(mine["instances"], wanted["instances"])
