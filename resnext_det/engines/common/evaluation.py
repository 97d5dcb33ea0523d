"""A detector of either engine over datasets: detections, their file, and COCO's numbers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from tqdm import tqdm

from resnext_det.data.coco import CocoDataset
from resnext_det.data.loaders import build_test_loader
from resnext_det.engines.common.datasets import test_mapper
from resnext_det.evaluation.coco import CocoMetrics, coco_results, evaluate_coco
from resnext_det.training import distributed
from resnext_det.weights import load_weights

logger = logging.getLogger(__name__)


def evaluate_all(cfg: CfgNode, model: nn.Module, test_sets: list[CocoDataset]) -> dict[str, CocoMetrics]:
    """Detections and numbers of every set, under ``OUTPUT_DIR/inference`` (a folder each where there are several sets).

    Returns:
        COCO's numbers by name of the set; in other processes than the first an empty dict.
    """
    folder = Path(cfg.OUTPUT_DIR, "inference")
    results = {}
    for dataset in test_sets:
        found = evaluate_on(
            model,
            dataset,
            mapper=test_mapper(cfg),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            output_dir=folder if len(test_sets) == 1 else folder / dataset.name,
        )
        if found is not None:
            results[dataset.name] = found
    return results


def evaluate_on(
    model: nn.Module,
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


def _share_buffers(model: nn.Module) -> None:
    """Batch norms that are trained (other than SyncBN) count other statistics in each process; take the first one's."""
    if distributed.world_size() == 1:
        return
    shared = distributed.broadcast_object([buffer.cpu() for buffer in model.buffers()])
    for buffer, value in zip(model.buffers(), shared):
        buffer.copy_(value)


def _detect_all(
    model: nn.Module, dataset: CocoDataset, mapper: Callable[..., dict[str, Any]], num_workers: int
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


def load_detector(model: nn.Module, path: str) -> None:
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


def scalars(results: dict[str, CocoMetrics]) -> dict[str, float]:
    """TensorBoard's and metrics.json's names: bbox/AP, or NAME/bbox/AP where several sets are evaluated."""
    return {
        f"bbox/{key}" if len(results) == 1 else f"{name}/bbox/{key}": value
        for name, metrics in results.items()
        for key, value in metrics.as_dict().items()
    }
