"""The detector takes every norm, gray images, images without objects, and mixed precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode

from resnext_det.config import get_cfg
from resnext_det.config.rules import get_value, list_keys
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.portable.faster_rcnn import FasterRCNN
from resnext_det.training.loop import train_loop
from tests.detection.detectron2_reference import randomize
from tests.detection.helpers import C4_CHANGES, EXHAUSTIVE, FPN, draw_sample, override

GRAY = ["INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [110.0], "MODEL.PIXEL_STD", [60.0]]
WIDE = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
WIDE += ["MODEL.RESNETS.NUM_GROUPS", 8]  # 32 groups divide these channels
GN = [*WIDE, "MODEL.RESNETS.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.FPN.NORM", "GN"]


def configuration(*changes: Any) -> CfgNode:
    cfg = get_cfg()
    tiny = CfgNode(FPN)
    cfg.merge_from_list([item for key in list_keys(tiny) for item in (key, get_value(tiny, key))])
    cfg.merge_from_list(list(changes))
    return cfg


def batch(channels: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    """Draw three images of several sizes; the second has no object."""
    generator, boxes = torch.Generator().manual_seed(seed), [[10.0, 12.0, 40.0, 50.0]]
    return [
        draw_sample(generator, 64, 90, [*boxes, [50.0, 5.0, 80.0, 30.0]], channels),
        draw_sample(generator, 80, 56, [], channels),
        draw_sample(generator, 48, 48, [[5.0, 9.0, 21.0, 30.0]], channels),
    ]


def losses_and_gradients(
    model: FasterRCNN, samples: list[dict[str, Any]], dtype: torch.dtype | None = None
) -> tuple[dict[str, float], torch.Tensor]:
    model.train().zero_grad()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        losses = model(samples)
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return {name: float(value.detach()) for name, value in losses.items()}, torch.cat(gradients)


VARIANTS: dict[str, list[Any]] = {
    "FPN": [],
    "C4": C4_CHANGES,
    "frozen norms": ["MODEL.RESNETS.NORM", "FrozenBN"],
    "frozen statistics": ["MODEL.RESNETS.NORM", "FrozenStatisticsBN"],
    "synchronized": ["MODEL.RESNETS.NORM", "SyncBN"],
    "group norm": GN,
    "group norm, C4": [*C4_CHANGES, *GN],
    "gray": GRAY,
    "class-agnostic": ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True],
    "ROIPool": ["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"],
    "one class": ["MODEL.ROI_HEADS.NUM_CLASSES", 1],
    "no truth among the regions": ["MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False],
    "no box is proposed": [
        *override("MODEL.PROPOSAL_GENERATOR", MIN_SIZE=1000),
        *override("MODEL.ROI_HEADS", PROPOSAL_APPEND_GT=False),
    ],
    "giou": [
        *override("MODEL.RPN", BBOX_REG_LOSS_TYPE="giou"),
        *override("MODEL.ROI_BOX_HEAD", BBOX_REG_LOSS_TYPE="giou"),
    ],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_is_trained_and_detections_are_sane(name: str) -> None:
    """Every parameter gets a finite gradient (zero where no region is), and moves the losses."""
    cfg = configuration(*VARIANTS[name], "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    torch.manual_seed(0)
    model = build_detector(cfg)
    channels, classes = len(cfg.MODEL.PIXEL_MEAN), cfg.MODEL.ROI_HEADS.NUM_CLASSES
    samples = batch(channels)
    for sample in samples:
        sample["instances"].gt_classes.clamp_(max=classes - 1)
    losses, gradients = losses_and_gradients(model, samples)
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert bool(torch.isfinite(gradients).all()) and float(gradients.abs().max()) > 0
    empty = name == "no box is proposed"
    assert (losses["loss_cls"] == 0.0) == empty and losses["loss_rpn_cls"] > 0

    model.eval()
    with torch.no_grad():
        found = model([{**sample, "height": 100, "width": 200} for sample in samples])
    assert len(found) == 3
    for output in found:
        instances = output["instances"]
        assert instances.image_size == (100, 200)
        boxes, scores = instances.pred_boxes.tensor, instances.scores
        assert (len(boxes) == 0) == empty
        assert bool((boxes >= 0).all())
        assert bool((boxes <= torch.tensor([200.0, 100.0, 200.0, 100.0])).all())
        assert bool((boxes[:, 2:] > boxes[:, :2]).all())
        assert bool((scores[:-1] >= scores[1:]).all())
        assert set(instances.pred_classes.tolist()) <= set(range(classes))


def test_an_image_alone_is_an_image_in_a_batch() -> None:
    """Images of equal sizes are not padded, and so do not depend on the others of a batch."""
    torch.manual_seed(0)
    model = build_detector(configuration("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0))
    randomize(model)
    model.eval()
    generator = torch.Generator().manual_seed(5)
    samples = [draw_sample(generator, 64, 96, [[10.0, 10.0, 40.0, 40.0]]) for _ in range(3)]
    with torch.no_grad():
        together = model(samples)
        alone = [model([sample])[0] for sample in samples]
    for one, other in zip(alone, together):
        assert len(one["instances"]) > 10
        torch.testing.assert_close(one["instances"].scores, other["instances"].scores)
        boxes, others = (output["instances"].pred_boxes.tensor for output in (one, other))
        torch.testing.assert_close(boxes, others, rtol=1e-4, atol=1e-3)


def test_padding_is_zero_after_normalization() -> None:
    model = build_detector(configuration())
    images, sizes = model.preprocess(batch())
    assert sizes == [(64, 90), (80, 56), (48, 48)]
    assert images.shape == (3, 3, 96, 96)  # multiples of 32, which res5 needs
    for image, (height, width), sample in zip(images, sizes, batch()):
        expected = (sample["image"] - model.pixel_mean) / model.pixel_std
        assert torch.equal(image[:, :height, :width], expected)
        assert not image[:, height:].any() and not image[:, :, width:].any()
    c4 = build_detector(configuration(*C4_CHANGES))
    assert c4.preprocess(batch())[0].shape == (3, 3, 80, 90)


def test_mixed_precision_is_close_to_float32() -> None:
    """Parameters and gradients stay float32; losses differ by a part in a hundred."""
    for changes in ([], C4_CHANGES, GN):
        torch.manual_seed(0)
        model = build_detector(configuration(*changes, *EXHAUSTIVE))
        exact, exact_gradients = losses_and_gradients(model, batch())
        mixed, gradients = losses_and_gradients(model, batch(), torch.bfloat16)
        assert mixed != exact
        assert mixed == pytest.approx(exact, rel=0.02)
        assert gradients.dtype == torch.float32
        assert float(torch.cosine_similarity(gradients, exact_gradients, dim=0)) > 0.9


@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16])
def test_it_learns_its_batch(amp_dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    model = build_detector(configuration())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    totals: list[float] = []
    train_loop(
        model=model,
        optimizer=optimizer,
        schedule=lambda iteration: 1.0,
        batches=[batch()] * 30,
        start=0,
        stop=30,
        device=torch.device("cpu"),
        amp_dtype=amp_dtype,
        after_step=[lambda step: totals.append(float(sum(step.losses.values())))],
    )
    assert sum(totals[-5:]) < 0.6 * sum(totals[:5])


def test_wrong_samples_are_named() -> None:
    model = build_detector(configuration())
    (sample, *_) = batch()
    with pytest.raises(ValueError, match=r"64x90 has the shape \(1, 64, 90\); give \(3, H, W\)"):
        model([{**sample, "image": sample["image"][:1]}])
    with pytest.raises(ValueError, match="holds no image"):
        model([])
    del sample["instances"]
    with pytest.raises(ValueError, match=r"'instances'.*64x90.*is_train=True"):
        model([sample])
    model.eval()
    assert model([sample])[0]["instances"].image_size == (64, 90)


@pytest.mark.parametrize(
    "part", ["proposal_generator.rpn_head.anchor_deltas", "roi_heads.box_predictor.bbox_pred"]
)
def test_what_is_not_finite(part: str) -> None:
    """Diverged proposals are an error in training; what is not finite is left out in inference."""
    model = build_detector(configuration("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0))
    layer = model.get_submodule(part)
    with torch.no_grad():
        layer.bias[0] = float("nan")  # type: ignore[index]
    if "rpn" in part:
        with pytest.raises(FloatingPointError, match="not finite"):
            model.train()(batch())
    model.eval()
    with torch.no_grad():
        found = model(batch())
    assert all(len(output["instances"]) == 0 for output in found)


def test_settings_that_do_not_fit_each_other() -> None:
    with pytest.raises(ValueError, match=r"MODEL\.RPN\.IN_FEATURES.*'res3': 32.*'res4': 64"):
        both = ["res3", "res4"]
        changes = ["MODEL.RESNETS.OUT_FEATURES", both, "MODEL.RPN.IN_FEATURES", both]
        build_detector(configuration(*C4_CHANGES, *changes))
