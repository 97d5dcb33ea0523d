"""A model of either engine over datasets: its results, their file, and COCO's numbers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.data.coco import CocoDataset
from resnext_det.engines.common.datasets import test_mapper
from resnext_det.engines.common.inference import run_on
from resnext_det.engines.common.proposals import evaluate_proposals_on
from resnext_det.evaluation.coco import CocoMetrics, coco_results, evaluate_coco
from resnext_det.evaluation.proposals import ProposalMetrics
from resnext_det.training import distributed

logger = logging.getLogger(__name__)

BoxMetrics = CocoMetrics | ProposalMetrics
"""What an evaluation gives: the numbers of detections, or those of the proposals of a ProposalNetwork."""


def evaluate_all(cfg: CfgNode, model: nn.Module, test_sets: list[CocoDataset]) -> dict[str, BoxMetrics]:
    """Results and numbers of every set, under ``OUTPUT_DIR/inference`` (a folder each where there are several sets).

    Returns:
        the numbers by name of the set; in other processes than the first an empty dict.
    """
    folder = Path(cfg.OUTPUT_DIR, "inference")
    results: dict[str, BoxMetrics] = {}
    for dataset in test_sets:
        output_dir = folder if len(test_sets) == 1 else folder / dataset.name
        found: BoxMetrics | None
        if cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork":
            found = evaluate_proposals_on(cfg, model, dataset)
        else:
            workers = cfg.DATALOADER.NUM_WORKERS
            found = evaluate_on(
                model, dataset, mapper=test_mapper(cfg), num_workers=workers, output_dir=output_dir
            )
        if found is not None:
            output_dir.mkdir(parents=True, exist_ok=True)
            (output_dir / "metrics.json").write_text(found.to_json(), encoding="utf-8")
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
    """Detect on every image, write ``coco_instances_results.json`` and compare with the annotations; see ``run_on``.

    Returns:
        COCO's numbers; None in other processes than the first.
    """
    began = time.perf_counter()

    def rows_of(sample: dict[str, Any], output: dict[str, Any]) -> list[dict[str, Any]]:
        return coco_results(sample["image_id"], output["instances"], dataset.category_ids)

    rows = run_on(model, dataset, rows_of, mapper=mapper, num_workers=num_workers)
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
    return metrics


def scalars(results: Mapping[str, BoxMetrics]) -> dict[str, float]:
    """TensorBoard's and metrics.json's names: bbox/AP, or NAME/bbox/AP where several sets are evaluated; box_proposals/AR@100."""
    return {
        f"{task}/{key}" if len(results) == 1 else f"{name}/{task}/{key}": value
        for name, metrics in results.items()
        for task in ["box_proposals" if isinstance(metrics, ProposalMetrics) else "bbox"]
        for key, value in metrics.as_dict().items()
    }
