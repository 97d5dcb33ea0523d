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

    Every process takes its share of the images, with the first one's running statistics, which checkpoints hold: so this equals the
    evaluation of a checkpoint. The model's mode is left as it was.

    Returns:
        COCO's numbers; None in other processes than the first.
    """
    began = time.perf_counter()
    _share_buffers(model)
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


def _share_buffers(model: GeneralizedRCNN) -> None:
    """Batch norms that are trained (other than SyncBN) count other statistics in each process; take the first one's."""
    if distributed.world_size() == 1:
        return
    shared = distributed.broadcast_object([buffer.cpu() for buffer in model.buffers()])
    for buffer, value in zip(model.buffers(), shared):
        buffer.copy_(value)


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
    # On a terminal a bar, in the main process alone; it goes when it is done, as a training may go on.
    hidden = None if distributed.is_main_process() else True
    with torch.inference_mode():
        for batch in tqdm(loader, f"detecting, {dataset.name}", unit="image", disable=hidden, leave=False):
            for sample, output in zip(batch, model(batch)):
                rows += coco_results(sample["image_id"], output["instances"], dataset.category_ids)
    model.train(was_training)
    return rows


def load_detector(model: GeneralizedRCNN, path: str) -> None:
    """Load the weights of a whole, trained detector: those of a backbone alone would leave the heads random.

    Raises:
        ValueError, FileNotFoundError: ``path``, which is ``MODEL.WEIGHTS``, is empty; the file is not a detector's, or does not fit.
    """
    if not path:
        raise ValueError(
            "MODEL.WEIGHTS is empty, so there is no trained detector; write MODEL.WEIGHTS and the path of its file, such as "
            "model_final.pth in the OUTPUT_DIR of a training"
        )
    report = load_weights(model, path)
    if report.missing:
        raise ValueError(
            f"MODEL.WEIGHTS = {path} holds a backbone and not a whole detector: {len(report.missing)} tensors, such as "
            f"{report.missing[0]}, would be random; give the file of a trained detector"
        )


class Predictor:
    """A detector for single images, in the manner of detectron2's DefaultPredictor.

    Args:
        cfg: a configuration whose ``MODEL.WEIGHTS`` names a file of a whole detector.

    Raises:
        ValueError, FileNotFoundError: see ``load_detector``; there is no such ``MODEL.DEVICE``.
    """

    def __init__(self, cfg: CfgNode) -> None:
        device = distributed.resolve_device(cfg.MODEL.DEVICE)
        self.image_format: str = cfg.INPUT.FORMAT
        self.resize = ResizeShortestEdge((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST)
        self.model = build_detector(cfg)
        load_detector(self.model, cfg.MODEL.WEIGHTS)
        self.model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Instances:
        """Detect on one image.

        Args:
            image: (H, W, C) uint8, channels in the order of ``INPUT.FORMAT``; ``read_image`` gives such.

        Returns:
            ``pred_boxes`` in the image's pixels, ``scores`` and ``pred_classes``, best first, on the CPU.

        Raises:
            ValueError: the array is another one.
        """
        channels = len(self.model.pixel_mean)
        if image.ndim != 3 or image.shape[2] != channels or image.dtype != np.uint8:
            raise ValueError(
                f"the image is {image.dtype} of the shape {image.shape}; give uint8 of the shape (height, width, {channels}), channels in "
                f"the order {self.image_format}"
            )
        height, width = image.shape[:2]
        size = self.resize.min_sizes[0]
        resized = resize_image(image, *self.resize.output_size(height, width, size)) if size else image
        tensor = torch.from_numpy(np.array(resized.transpose(2, 0, 1), order="C"))
        found: Instances = self.model([{"image": tensor, "height": height, "width": width}])[0]["instances"]
        return found.to("cpu")
