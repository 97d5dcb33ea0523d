"""A model of either engine over datasets: its results, their file, and COCO's numbers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn
from tqdm import tqdm

from resnext_det.data import proposals as proposal_files
from resnext_det.data.coco import CocoDataset, load_coco
from resnext_det.data.loaders import build_test_loader
from resnext_det.data.proposals import Proposals
from resnext_det.detection.datasets import test_mapper
from resnext_det.evaluation.coco import CocoMetrics, coco_results, evaluate_coco
from resnext_det.evaluation.proposals import ProposalMetrics, evaluate_proposals
from resnext_det.training import distributed

Collect = Callable[[dict[str, Any], dict[str, Any]], list[Any]]
"""From a sample and the model's output for it to what is kept of them."""


def run_on(
    model: nn.Module,
    dataset: CocoDataset,
    collect: Collect,
    *,
    mapper: Callable[..., dict[str, Any]],
    num_workers: int,
) -> list[Any]:
    """Run a model on every image of a dataset, and gather what ``collect`` keeps of each.

    Every process takes its share of the images, with the first one's running statistics, which checkpoints hold: so this equals a run
    on a checkpoint. The model's mode is left as it was.

    Returns:
        what was kept, in the order of the images; in other processes than the first an empty list.
    """
    distributed.share_buffers(model)
    mine = _run_on_share(model, dataset, collect, mapper, num_workers)
    return [kept for share in distributed.gather_objects(mine) for kept in share]


def _run_on_share(
    model: nn.Module,
    dataset: CocoDataset,
    collect: Collect,
    mapper: Callable[..., dict[str, Any]],
    num_workers: int,
) -> list[Any]:
    loader = build_test_loader(
        dataset.records,
        mapper=mapper,
        num_workers=num_workers,
        rank=distributed.get_rank(),
        world_size=distributed.get_world_size(),
    )
    was_training = model.training
    model.eval()
    kept: list[Any] = []
    # On a terminal a bar, in the main process alone; it goes when it is done, as a training may go on.
    hidden = None if distributed.is_main_process() else True
    with torch.inference_mode():
        for batch in tqdm(
            loader, f"detecting, {dataset.name}", unit="image", disable=hidden, leave=False
        ):
            for sample, output in zip(batch, model(batch)):
                kept += collect(sample, output)
    model.train(was_training)
    return kept


logger = logging.getLogger(__name__)


def proposals_path(output_dir: str | Path, dataset: str) -> Path:
    """Where a training or evaluation in this folder leaves the proposals of a test set."""
    return Path(output_dir, "inference", f"proposals_{dataset}.pkl")


def check_proposes(cfg: CfgNode) -> None:
    """Refuse a configuration of another model than one that gives proposals."""
    if cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
        raise ValueError(
            f"MODEL.META_ARCHITECTURE = {cfg.MODEL.META_ARCHITECTURE!r} gives no proposals; write ProposalNetwork, as "
            "configs/base/rpn.yaml does"
        )


def write_all_proposals(cfg: CfgNode, model: nn.Module, files: Mapping[str, str | Path]) -> None:
    """``write_proposals`` for datasets by name: name -> file."""
    for name, path in files.items():
        write_proposals(cfg, model, load_coco(name), path)


def write_proposals(
    cfg: CfgNode, model: nn.Module, dataset: CocoDataset, path: str | Path
) -> Proposals | None:
    """Compute the proposals of a dataset and write them; every process calls it, and goes on when the file is there.

    Args:
        cfg: says how images are resized, and how they are loaded.
        model: a ProposalNetwork of either engine: samples -> [{"proposals": Instances}] in pixels of the original images.
        dataset: loaded.
        path: of the file, which appears whole or not at all.

    Returns:
        the proposals; None in other processes than the first.

    Raises:
        OSError: it could not be written.
    """
    rows = run_on(
        model, dataset, _kept, mapper=test_mapper(cfg), num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    proposals = None
    if distributed.is_main_process():
        proposals = dict(rows)
        proposal_files.write_proposals(path, proposals)
        number = sum(len(boxes) for boxes, _ in proposals.values())
        logger.info(
            "%s: %d proposals on %d images in %s", dataset.name, number, len(proposals), path
        )
    distributed.barrier()
    return proposals


def evaluate_proposals_on(
    cfg: CfgNode, model: nn.Module, dataset: CocoDataset
) -> ProposalMetrics | None:
    """Write the proposals of a set to ``proposals_path``, and compare them with the annotations.

    Returns:
        average recalls; None in other processes than the first.
    """
    proposals = write_proposals(cfg, model, dataset, proposals_path(cfg.OUTPUT_DIR, dataset.name))
    if proposals is None:
        return None
    metrics = evaluate_proposals(dataset.annotations_file, proposals)
    logger.info("%s, box_proposals:\n%s", dataset.name, metrics.table())
    return metrics


def _kept(
    sample: dict[str, Any], output: dict[str, Any]
) -> list[tuple[Any, tuple[np.ndarray, np.ndarray]]]:
    found = output["proposals"]
    boxes, logits = found.proposal_boxes.tensor.cpu().numpy(), found.objectness_logits.cpu().numpy()
    return [(sample["image_id"], (boxes, logits))]


BoxMetrics = CocoMetrics | ProposalMetrics
"""What an evaluation gives: the numbers of detections, or those of the proposals of a ProposalNetwork."""


def evaluate_all(
    cfg: CfgNode, model: nn.Module, test_sets: list[CocoDataset]
) -> dict[str, BoxMetrics]:
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
        "%s: %d detections on %d images in %.1f s",
        dataset.name,
        len(rows),
        len(dataset.records),
        seconds,
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
