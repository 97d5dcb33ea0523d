"""Verify that an exported file finds, in every runtime, what the detector finds in torch."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from resnext_det.data.pixels import AnyImage, to_pixels
from resnext_det.data.shape_drawing import draw_scene
from resnext_det.deploy.agreement import Agreement, compare_detectors
from resnext_det.deploy.evaluation import Detect, Files, measure_ap
from resnext_det.deploy.exported import ExportedDetector
from resnext_det.deploy.pasting import paste_masks
from resnext_det.detection.inference import Predictor
from resnext_det.detection.results import ImageDetections
from resnext_det.instances import Instances

logger = logging.getLogger(__name__)

# Sides of the images of the check, in parts of the detector's MIN_SIZE_TEST: a landscape, a tall
# one that is shrunk, and a wide one whose longer side MAX_SIZE_TEST may limit.
_CHECKED_SIZES = ((0.6, 0.9), (2.4, 1.1), (0.5, 1.3))
_SMALLEST_SIDE = 60  # of the images of the check, on which shapes are drawn
_LARGEST_DIFFERENCE_OF_AP = 0.01  # percent


def open_in_runtimes(path: Path) -> dict[str, Detect]:
    """Open a file in every runtime that is installed and runs it."""
    if path.suffix.lower() == ".pt2":
        return {"torch.export": _open_program(path)}
    runtimes = ("onnxruntime", "openvino") if path.suffix.lower() == ".onnx" else ("openvino",)
    return {
        name: ExportedDetector(path, backend=name).detect
        for name in runtimes
        if find_spec(name) is not None
    }


def _open_program(path: Path) -> Detect:
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def detect(image: AnyImage) -> ImageDetections:
        pixels = torch.from_numpy(np.array(to_pixels(image, "RGB")))
        boxes, scores, classes, *masks = (output.numpy() for output in module(pixels))
        size = (pixels.shape[0], pixels.shape[1])
        pasted = (paste_masks(each, boxes, size) for each in masks)
        return ImageDetections(size, boxes, scores, classes, *pasted, *masks)

    return detect


def verify_agreement(
    predictor: Predictor, detectors: Mapping[str, Detect]
) -> tuple[Agreement, ...]:
    """Compare what a detector and its file find on drawn images of several sizes.

    Args:
        detectors: the file in every runtime, see ``open_in_runtimes``.

    Raises:
        ValueError: they differ, see ``compare_detectors``.
    """
    images = list(_draw_images(predictor.cfg.INPUT.MIN_SIZE_TEST))
    expected = [(image, detect_with_probabilities(predictor, image)) for image in images]
    agreements = tuple(
        compare_detectors(detect, expected, runtime=name, score_threshold=predictor.lowest_score)
        for name, detect in detectors.items()
    )
    if not any(agreement.detections for agreement in agreements):
        logger.warning(
            "the detector finds nothing on the drawn images of the check, so that no box was "
            "compared; give a set of your own, --test-data ANNOTATIONS IMAGES"
        )
    return agreements


def detect_with_probabilities(predictor: Predictor, image: np.ndarray) -> ImageDetections:
    """Detect on an RGB image in torch, and give the probabilities of masks too, as a file does."""
    heads = getattr(predictor.model, "roi_heads", None)
    if heads is None or heads.mask_head is None:
        return predictor.detect(Image.fromarray(image))

    def keep(module: nn.Module, inputs: Any, output: tuple[list[Instances], Any]) -> None:
        for one in output[0]:
            one.set("probabilities", one.pred_masks[:, 0])

    handle = heads.register_forward_hook(keep)
    try:
        found = predictor(Image.fromarray(image))
    finally:
        handle.remove()
    fields = (found.pred_boxes.tensor, found.scores, found.pred_classes, found.pred_masks)
    arrays = (field.numpy() for field in (*fields, found.probabilities))
    return ImageDetections(found.image_size, *arrays)


def _draw_images(min_size: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    for sides in _CHECKED_SIZES:
        height, width = (max(int(side * (min_size or 400)), _SMALLEST_SIDE) for side in sides)
        image, _ = draw_scene(random, height, width)
        yield np.ascontiguousarray(image[:, :, ::-1])


def verify_ap(
    predictor: Predictor, detectors: Mapping[str, Detect], files: Files
) -> dict[str, dict[str, float]]:
    """Measure the AP of a detector and of its file on a set, and refuse a file with another AP.

    Returns:
        by "torch" and the runtimes, what ``measure_ap`` gives.

    Raises:
        ValueError: the AP of boxes or of masks differs by more than 0.01 percent.
    """
    every = {"torch": predictor.detect, **detectors}
    ap = {name: measure_ap(each, predictor.class_names, files) for name, each in every.items()}
    for measure, exact in ap["torch"].items():
        found = {name: one[measure] for name, one in ap.items()}
        apart = [
            f"{value:.2f} in {name}"
            for name, value in found.items()
            if abs(value - exact) > _LARGEST_DIFFERENCE_OF_AP
            or math.isnan(value) != math.isnan(exact)
        ]
        if apart:
            raise ValueError(
                f"on {files[0]} the {measure} is {exact:.2f} in torch and {', '.join(apart)}, so "
                "no file is left; give the detector and these numbers to the authors of resnext_det"
            )
    return ap
