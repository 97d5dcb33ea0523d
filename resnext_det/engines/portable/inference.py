"""Inference: a detector over a dataset, with its COCO numbers, and over single images."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from tqdm import tqdm

from resnext_det.data.coco import CocoDataset
from resnext_det.data.loaders import build_test_loader
from resnext_det.data.transforms import ResizeShortestEdge, resize_image
from resnext_det.engines.portable.build import build_detector
from resnext_det.engines.portable.faster_rcnn import GeneralizedRCNN
from resnext_det.evaluation.coco import CocoMetrics, coco_results, evaluate_coco
from resnext_det.instances import Instances
from resnext_det.training import distributed
from resnext_det.weights import load_weights

logger = logging.getLogger(__name__)


def evaluate_on(
    model: GeneralizedRCNN,
    dataset: CocoDataset,
    *,
    mapper: Callable[..., dict[str, Any]],
    num_workers: int,
    output_dir: Path,
) -> CocoMetrics | None:
    """Detect on every image, write ``coco_instances_results.json`` and compare with the annotations.

    Every process takes its share of the images. The model's mode is left as it was.

    Returns:
        COCO's numbers; None in other processes than the first.
    """
    began = time.perf_counter()
    rows = [
        row
        for rows in distributed.gather_objects(_detect_all(model, dataset, mapper, num_workers))
        for row in rows
    ]
    if not distributed.is_main_process():
        return None
    output_dir.mkdir(parents=True, exist_ok=True)
    results_file = output_dir / "coco_instances_results.json"
    results_file.write_text(json.dumps(rows), encoding="utf-8")
    seconds = time.perf_counter() - began
    logger.info(
        "%s: %d detections on %d images in %.1f s", dataset.name, len(rows), len(dataset.records), seconds
    )
    metrics = evaluate_coco(dataset.annotations_file, rows)
    logger.info("%s, bbox:\n%s", dataset.name, metrics.table())
    (output_dir / "metrics.json").write_text(metrics.to_json(), encoding="utf-8")
    return metrics


def _detect_all(
    model: GeneralizedRCNN, dataset: CocoDataset, mapper: Callable[..., dict[str, Any]], num_workers: int
) -> list[dict[str, Any]]:
    loader = build_test_loader(
        dataset.records,
        mapper=mapper,
        num_workers=num_workers,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    was_training = model.training
    model.eval()
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for batch in tqdm(loader, f"detecting, {dataset.name}", unit="image", disable=None):
            for sample, output in zip(batch, model(batch)):
                rows += coco_results(sample["image_id"], output["instances"], dataset.category_ids)
    model.train(was_training)
    return rows


class Predictor:
    """A detector for single images, in the manner of detectron2's DefaultPredictor.

    Args:
        cfg: a configuration whose ``MODEL.WEIGHTS`` names a file of a whole detector.

    Raises:
        ValueError, FileNotFoundError: the weights are absent, or do not fit.
    """

    def __init__(self, cfg: CfgNode) -> None:
        if not cfg.MODEL.WEIGHTS:
            raise ValueError(
                "MODEL.WEIGHTS is empty: there is nothing to predict with; write MODEL.WEIGHTS and a trained file's path"
            )
        self.image_format: str = cfg.INPUT.FORMAT
        self.resize = ResizeShortestEdge((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST)
        self.model = build_detector(cfg)
        load_weights(self.model, cfg.MODEL.WEIGHTS)
        self.model.to(distributed.resolve_device(cfg.MODEL.DEVICE)).eval()

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Instances:
        """Detect on one image.

        Args:
            image: (H, W, C) uint8, channels in the order of ``INPUT.FORMAT``.

        Returns:
            ``pred_boxes`` in the image's pixels, ``scores`` and ``pred_classes``, best first, on the CPU.
        """
        height, width = image.shape[:2]
        size = self.resize.min_sizes[0]
        resized = resize_image(image, *self.resize.output_size(height, width, size)) if size else image
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        found: Instances = self.model([{"image": tensor, "height": height, "width": width}])[0]["instances"]
        return found.to("cpu")
