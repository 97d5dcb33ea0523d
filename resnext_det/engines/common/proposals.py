"""The proposals of a trained RPN, of either engine: their files, and their average recall."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.data.coco import CocoDataset, load_coco
from resnext_det.data.proposals import Proposals
from resnext_det.data.proposals import write_proposals as write_file
from resnext_det.engines.common.datasets import test_mapper
from resnext_det.engines.common.inference import run_on
from resnext_det.evaluation.proposals import ProposalMetrics, evaluate_proposals
from resnext_det.training import distributed

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
    rows = run_on(model, dataset, _kept, mapper=test_mapper(cfg), num_workers=cfg.DATALOADER.NUM_WORKERS)
    proposals = None
    if distributed.is_main_process():
        proposals = dict(rows)
        write_file(path, proposals)
        number = sum(len(boxes) for boxes, _ in proposals.values())
        logger.info("%s: %d proposals on %d images in %s", dataset.name, number, len(proposals), path)
    distributed.barrier()
    return proposals


def evaluate_proposals_on(cfg: CfgNode, model: nn.Module, dataset: CocoDataset) -> ProposalMetrics | None:
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


def _kept(sample: dict[str, Any], output: dict[str, Any]) -> list[tuple[Any, tuple[np.ndarray, np.ndarray]]]:
    found = output["proposals"]
    boxes, logits = found.proposal_boxes.tensor.cpu().numpy(), found.objectness_logits.cpu().numpy()
    return [(sample["image_id"], (boxes, logits))]
