"""Compare exported detectors in every runtime with torch on 50 images of random sizes.

pytest -m slow -n0 -s tests/deploy/test_export_table.py prints the table.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext_det.deploy.agreement import compare_detectors
from resnext_det.deploy.export import _write, describe, trace
from resnext_det.deploy.formats import write_openvino
from resnext_det.deploy.verification import detect_with_probabilities, open_in_runtimes
from resnext_det.detection.inference import Predictor
from resnext_det.detection.results import ImageDetections
from tests.deploy.test_export import make_predictor
from tests.detection.helpers import C4_CHANGES, C4_MASKS, DC5_CHANGES, MASKS, override

# The heads that the configurations under configs/modern name.
FAST_RPN = override("MODEL.RPN", HEAD_NAME="ResNeXtSparseRPNHead")
FAST_HEADS = [*FAST_RPN, *override("MODEL.ROI_HEADS", NAME="ResNeXtStandardROIHeads")]
SHARED_HEADS = [*FAST_RPN, *override("MODEL.ROI_HEADS", NAME="ResNeXtSharedRes5ROIHeads")]
KINDS: dict[str, list[Any]] = {
    "FPN": FAST_HEADS,
    "C4, exact": C4_CHANGES,
    "C4, shared": [*C4_CHANGES, *SHARED_HEADS],
    "C4, RoIPool": [*C4_CHANGES, *override("MODEL.ROI_BOX_HEAD", POOLER_TYPE="ROIPool")],
    "DC5": [*DC5_CHANGES, *FAST_HEADS],
    "FPN, masks": [*FAST_HEADS, *MASKS],
    "C4, masks": [*C4_MASKS, *SHARED_HEADS],
}
MANY = [
    *override("TEST", DETECTIONS_PER_IMAGE=100),
    *override("MODEL.RPN", PRE_NMS_TOPK_TEST=3000, POST_NMS_TOPK_TEST=1000, NMS_THRESH=0.95),
    *override("MODEL.ROI_HEADS", NMS_THRESH_TEST=0.95),
    *override("INPUT", MIN_SIZE_TEST=128, MAX_SIZE_TEST=192),
]


def draw_images() -> list[np.ndarray]:
    """Draw noise, fine or in squares, over colors, of many contrasts."""
    random = np.random.default_rng(0)
    images = []
    for number in range(50):
        height, width = random.integers(24, 260, 2)
        noise = random.integers(0, 256, (height, width, 3)).astype(float)
        if number % 2:
            squares = random.integers(0, 256, (height // 12 + 1, width // 12 + 1, 3))
            noise = np.kron(squares, np.ones((12, 12, 1)))[:height, :width]
        color = random.uniform(0, 255, 3) * (number % 5 != 0)
        contrast = (number // 5) / 9
        images.append(((1 - contrast) * color + contrast * noise).astype(np.uint8))
    return images


def choose_threshold(found: list[ImageDetections]) -> float:
    """Choose the score above which one image has no detection, one has one, and one has 100."""
    for threshold in sorted({float(s) for one in found for s in one.scores[:2]}):
        counts = [int((one.scores > threshold + 1e-3).sum()) for one in found]
        if 0 in counts and 1 in counts and max(counts) >= 100:
            return threshold + 1e-3
    raise AssertionError("no threshold gives 0, 1 and 100 detections")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_runtime_finds_what_torch_finds(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    changes = [*KINDS[kind], *MANY]
    images = draw_images()
    limit = override("TEST", DETECTIONS_PER_IMAGE=2000)
    predictor = make_predictor(tmp_path, [*changes, *limit])
    threshold = choose_threshold([predictor.detect(Image.fromarray(one)) for one in images])
    chosen = override("MODEL.ROI_HEADS", SCORE_THRESH_TEST=threshold)
    predictor = make_predictor(tmp_path, [*changes, *chosen])
    expected, seconds = detect_all(predictor, images)
    counts = [len(one) for one in expected]
    assert 0 in counts and 1 in counts and max(counts) == 100
    metadata = describe(predictor)
    assert metadata.detector == kind.split(",")[0]
    print(f"\n{kind}, torch: {sum(counts)} detections, {1000 * seconds:.0f} ms an image")
    for suffix in (".onnx", ".xml", ".pt2"):
        path = tmp_path / f"model{suffix}"
        if suffix == ".xml":  # made of the .onnx, as an export makes it
            write_openvino(path.with_suffix(".onnx"), path, metadata)
        else:
            _write(trace(predictor), path, metadata)
        size = path.stat().st_size
        if suffix == ".xml":
            size += path.with_suffix(".bin").stat().st_size
        for runtime, detect in open_in_runtimes(path).items():
            began = time.process_time()
            agreement = compare_detectors(
                detect,
                zip(images, expected, strict=True),
                runtime=runtime,
                score_threshold=threshold,
            )
            seconds = (time.process_time() - began) / len(images)
            print(
                f"{kind}, {suffix} in {runtime}: {agreement.images} images, of which "
                f"{counts.count(0)} with 0, {counts.count(1)} with 1 and {counts.count(100)} with "
                f"100 detections; classes equal, boxes within {agreement.distance:.5f} pixels, "
                f"scores within {agreement.score_difference:.1e}, masks within "
                f"{agreement.mask_difference or 0:.1e}; "
                f"{size / 2**20:.1f} MiB, {1000 * seconds:.0f} ms an image"
            )
            assert agreement.images == 50


def detect_all(
    predictor: Predictor, images: list[np.ndarray]
) -> tuple[list[ImageDetections], float]:
    """Detect on images; return what is found, and the seconds that an image takes."""
    began = time.process_time()
    found = [detect_with_probabilities(predictor, image) for image in images]
    return found, (time.process_time() - began) / len(images)
