"""An exported detector finds what the eager one finds, on images of all sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resnext_det.config import load_config
from resnext_det.deploy.agreement import Agreement, compare_detectors
from resnext_det.deploy.export import export_detector, trace
from resnext_det.deploy.exported import ExportedDetector
from resnext_det.deploy.formats import write_program
from resnext_det.deploy.graph import DetectorGraph
from resnext_det.deploy.metadata import Metadata
from resnext_det.deploy.pasting import paste_masks
from resnext_det.deploy.verification import detect_with_probabilities, open_in_runtimes
from resnext_det.detection.inference import Predictor
from resnext_det.detection.portable.boxes import suppress_overlaps
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.portable.roi_pooler import ROIPooler
from resnext_det.detection.results import ImageDetections
from tests.detection.detectron2_reference import randomize
from tests.detection.helpers import (
    C4_CHANGES,
    C4_MASKS,
    CASCADE_CHANGES,
    DC5_CHANGES,
    MASKS,
    RETINANET_CHANGES,
    as_overrides,
    override,
    write_config,
)
from tests.tools.helpers import read_error, run_tool

KINDS: dict[str, list[Any]] = {
    "FPN": [],
    "C4": C4_CHANGES,
    "cascade": CASCADE_CHANGES,
    "RetinaNet, torchvision's": [
        *(
            *RETINANET_CHANGES,
            *override("MODEL.ANCHOR_GENERATOR", NAME="TorchvisionAnchorGenerator"),
        ),
        *override("MODEL.RETINANET", SCORE_THRESH_TEST=0.02, AS_TORCHVISION=True),
        *override("MODEL.BACKBONE", NAME="build_retinanet_resnext_fpn_p5_backbone"),
    ],
    "FPN, masks": MASKS,
    "C4, masks": C4_MASKS,
    "DC5, masks": [*DC5_CHANGES, *MASKS],
    "cascade, masks": [*CASCADE_CHANGES, *MASKS],
    "RetinaNet": [*RETINANET_CHANGES, *override("MODEL.RETINANET", SCORE_THRESH_TEST=0.02)],
}
SCALE = 2
SIZES = [(50, 70), (64, 64), (200, 60), (40, 160), (301, 222)]
TINY_SIZES = [(1, 1), (1, 2), (90, 1)]


def make_predictor(folder: Path, changes: Sequence[Any]) -> Predictor:
    """Make a predictor with random weights, whose scores differ from image to image."""
    file = folder / "random.pth"
    cfg = load_config(write_config(folder), as_overrides(changes))
    torch.manual_seed(0)
    model: Any = build_detector(cfg)
    randomize(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("cls_score.weight", "objectness_logits.weight")):
                parameter *= SCALE
            elif "_subnet." in name:  # RetinaNet's towers, which begin near 0
                parameter *= 10
        # Statistics of images, without which random norms make all regions alike.
        norms = [layer for layer in model.eval().modules() if isinstance(layer, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for size in SIZES:
            model([{"image": torch.from_numpy(draw(*size).transpose(2, 0, 1).copy())}])
    torch.save({"model": model.state_dict()}, file)
    return Predictor(cfg, ["MODEL.WEIGHTS", str(file)])


def draw(height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(height * 1000 + width)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_finds_what_the_predictor_finds(kind: str, tmp_path: Path) -> None:
    """As plain eager code, without a tracer."""
    predictor = make_predictor(tmp_path, KINDS[kind])
    cfg = predictor.cfg
    graph = DetectorGraph(
        predictor.model,
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        image_format=cfg.INPUT.FORMAT,
    )

    @torch.no_grad()
    def detect(image: np.ndarray) -> ImageDetections:
        boxes, scores, classes, *masks = (each.numpy() for each in graph(torch.from_numpy(image)))
        pasted = (paste_masks(each, boxes, image.shape[:2]) for each in masks)
        return ImageDetections(image.shape[:2], boxes, scores, classes, *pasted, *masks)

    sizes = [*SIZES, *TINY_SIZES]
    images = [draw(*size) for size in sizes]
    expected = [(image, detect_with_probabilities(predictor, image)) for image in images]
    agreement = compare_detectors(detect, expected, runtime="graph", score_threshold=0.02)
    assert agreement.images == len(sizes) and agreement.detections > 50
    assert agreement.distance < 1e-3 and agreement.score_difference < 1e-5
    check_masks(kind, agreement, detect, expected)


def check_masks(
    kind: str,
    agreement: Agreement,
    detect: Callable[[np.ndarray], ImageDetections],
    expected: Sequence[tuple[np.ndarray, ImageDetections]],
) -> None:
    """Check that masks are given, alike, and pasted as the portable engine pastes them."""
    if not kind.endswith("masks"):
        assert agreement.mask_difference is None
        return
    assert agreement.mask_difference is not None and agreement.mask_difference < 1e-4
    different = pixels = 0
    for image, wanted in expected:
        found = detect(image)
        assert found.masks is not None and wanted.masks is not None
        assert found.masks.shape == (len(found), *image.shape[:2])
        if len(found) == len(wanted) and np.allclose(found.scores, wanted.scores, atol=1e-5):
            different += int((found.masks != wanted.masks).sum())
            pixels += int(wanted.masks.sum())
    assert pixels > 10000 and different <= 1e-4 * pixels


class Suppression(nn.Module):
    def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = (scores > 0.5).nonzero().flatten()
        groups = torch.zeros_like(chosen)
        return suppress_overlaps(boxes[chosen], scores[chosen], groups, 0.5)


def test_a_program_of_torch_keeps_one_box_or_none(tmp_path: Path) -> None:
    """Their numbers are torchvision's, whose operator claims to keep two boxes at least."""
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], [20.0, 20.0, 30.0, 30.0]])
    example = (boxes, torch.ones(3))
    program = torch.export.export(Suppression(), example, strict=False)
    metadata = Metadata(
        **{"version": "0", "class_names": ("nut",), "architecture": "", "detector": "FPN"},
        **{"min_size": 64, "max_size": 96, "score_threshold": 0.05, "max_detections": 100},
    )
    write_program(program, tmp_path / "model.pt2", metadata)
    run = torch.export.load(tmp_path / "model.pt2").module()
    for scores in ([0.9, 0.8, 0.7], [0.9, 0.8, 0.1], [0.1, 0.1, 0.1]):
        kept = Suppression()(boxes, torch.tensor(scores))
        assert run(boxes, torch.tensor(scores)).tolist() == kept.tolist()


def detections(*rows: tuple[float, int, list[float]]) -> ImageDetections:
    scores, classes, boxes = (list(each) for each in zip(*rows)) if rows else ([], [], [])
    return ImageDetections(
        (50, 50),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.int64),
    )


def compare(found: ImageDetections, wanted: ImageDetections) -> Any:
    image = np.zeros((50, 50, 3), np.uint8)
    return compare_detectors(
        lambda _: found, [(image, wanted)], runtime="here", score_threshold=0.05
    )


BEST, NEXT = (0.9, 1, [0.0, 0.0, 20.0, 20.0]), (0.5, 2, [5.0, 5.0, 9.0, 9.0])


class Pooling(nn.Module):
    """Cut regions of a number that depends on values, as suppression leaves, out of two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.pooler = ROIPooler(
            resolution=2, strides=(4, 8), sampling_ratio=2, pooler_type="ROIAlignV2"
        )

    def forward(
        self, fine: torch.Tensor, coarse: torch.Tensor, regions: torch.Tensor
    ) -> torch.Tensor:
        return self.pooler.pool([fine, coarse], regions[regions[:, 0] == 0])


def test_the_number_of_regions_stays_a_size_of_the_graph() -> None:
    maps = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 8, 8)
    regions = torch.tensor([[0.0, 1, 2, 30, 40], [1, 0, 0, 9, 9], [0, 0, 0, 60, 60]])
    module = Pooling()
    program = torch.export.export(module, (*maps, regions), strict=False)
    for images in ([0.0, 1, 0], [0.0, 0, 0], [1.0, 1, 1]):
        regions[:, 0] = torch.tensor(images)
        found = program.module()(*maps, regions)
        assert len(found) == images.count(0)
        assert torch.equal(found, module(*maps, regions))


def test_a_suffix_is_refused_before_the_detector_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onx"
    assert run_tool("export", "--weights", tmp_path / "none.pth", "--output", path) == 1
    assert read_error(capsys) == (
        f"{path}: the suffix says what is written; end it in one of .onnx, .xml, .pt2\n"
    )


def test_stretched_images_are_refused(tmp_path: Path) -> None:
    changes = [*RETINANET_CHANGES, *override("INPUT", STRETCH=(80, 112))]
    cfg = load_config(write_config(tmp_path), as_overrides(changes))
    torch.save({"model": build_detector(cfg).state_dict()}, tmp_path / "weights.pth")
    predictor = Predictor(cfg, ["MODEL.WEIGHTS", str(tmp_path / "weights.pth")])
    with pytest.raises(ValueError, match=r"INPUT\.STRETCH is \(80, 112\), and no detector with it"):
        export_detector(predictor, tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()


def test_a_difference_is_found() -> None:
    assert compare(detections(BEST, NEXT), detections(BEST, NEXT)).detections == 2
    moved = (0.9, 1, [0.0, 0.02, 20.0, 20.0])
    renamed = (0.9, 3, [0.0, 0.0, 20.0, 20.0])
    surer = (0.901, 1, [0.0, 0.0, 20.0, 20.0])
    for wrong in ([moved, NEXT], [renamed, NEXT], [surer, NEXT], [NEXT], [BEST, BEST, NEXT], []):
        with pytest.raises(ValueError, match="on an image of 50 x 50 pixels here finds"):
            compare(detections(*wrong), detections(BEST, NEXT))
        with pytest.raises(ValueError, match="without their like"):
            compare(detections(BEST, NEXT), detections(*wrong))


def test_a_difference_of_masks_is_found() -> None:
    found, wanted = (
        replace(detections(BEST, NEXT), mask_probabilities=np.full((2, 4, 4), 0.5, np.float32))
        for _ in range(2)
    )
    assert found.mask_probabilities is not None
    found.mask_probabilities[1, 2, 3] += 5e-4
    assert compare(found, wanted).mask_difference == pytest.approx(5e-4, rel=1e-3)
    for wrong in (0.51, np.nan):
        found.mask_probabilities[1, 2, 3] = wrong
        with pytest.raises(ValueError, match="50 x 50 pixels here gives masks whose probabilities"):
            compare(found, wanted)


def test_rounding_may_decide_at_the_threshold_and_between_equals() -> None:
    brink = (0.05001, 0, [30.0, 30.0, 40.0, 40.0])
    assert compare(detections(BEST, brink), detections(BEST)).detections == 1
    twin = (0.90001, 1, [1.0, 1.0, 30.0, 30.0])
    agreement = compare(detections(BEST, twin), detections(twin, BEST))
    assert agreement.detections == 2 and agreement.distance == 0


def test_nearly_equal_scores_are_named_as_the_cause() -> None:
    equal = [(0.2 - 1e-6 * number, 1, [10.0 * number, 0.0, 50.0, 50.0]) for number in range(5)]
    other = (0.9, 0, [0.0, 0.0, 20.0, 20.0])
    with pytest.raises(ValueError, match=r"without their like; most of torch's scores .* rounding"):
        compare(detections(other), detections(*equal))
    with pytest.raises(ValueError, match=r"without their like$"):
        compare(detections(other), detections(BEST, NEXT))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_finds_what_the_predictor_finds(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    predictor = make_predictor(tmp_path, KINDS[kind])
    report = export_detector(predictor, tmp_path / "model.onnx")
    assert report.agreements[0].runtime == "onnxruntime"
    exported = ExportedDetector(tmp_path / "model.onnx")
    family, _, more = kind.partition(", ")
    assert exported.metadata.detector == ("FPN" if family == "cascade" else family)
    assert (exported.metadata.mask_size > 0) == (more == "masks")
    assert exported.metadata.architecture == "X-26-2x4d"
    images = [draw(*size) for size in (*SIZES, *TINY_SIZES)]
    expected = [(image, detect_with_probabilities(predictor, image)) for image in images]
    agreement = compare_detectors(
        exported.detect, expected, runtime="onnxruntime", score_threshold=0.02
    )
    assert agreement.detections > 50
    check_masks(kind, agreement, exported.detect, expected)
    write_program(trace(predictor), tmp_path / "model.pt2", exported.metadata)
    detect = open_in_runtimes(tmp_path / "model.pt2")["torch.export"]
    assert compare_detectors(detect, expected, runtime="torch.export", score_threshold=0.02)
