"""Run a detector of either engine on datasets; write and evaluate its detections or proposals."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from fvcore.common.config import CfgNode
from torch import nn
from tqdm import tqdm

from resnext_det.config.detection import get_own
from resnext_det.data.coco import CocoDataset, load_coco
from resnext_det.data.loaders import build_test_loader
from resnext_det.data.proposals import Proposals, write_proposals
from resnext_det.detection.datasets import test_mapper
from resnext_det.evaluation.coco import (
    OTHER_TASKS,
    CocoMetrics,
    evaluate_coco,
    make_coco_results,
    name_task,
)
from resnext_det.evaluation.coco_checks import COCO_LIMIT
from resnext_det.evaluation.proposals import ProposalMetrics, evaluate_proposals
from resnext_det.files import write_text
from resnext_det.training import distributed
from resnext_det.training.interruption import leave_if_asked

logger = logging.getLogger(__name__)

Look = Callable[[CocoDataset, Sequence[Mapping[str, Any]], CocoMetrics], None]
"""Takes a test set, all detections on it and their numbers, in the main process."""


class DatasetMetrics(Protocol):
    """Hold the numbers of one test set: ``CocoMetrics``, ``ProposalMetrics`` or detectron2's."""

    def as_dict(self) -> dict[str, float]: ...

    def format_table(self) -> str: ...

    def summarize(self) -> str: ...

    def to_json(self) -> str: ...


def run_on_dataset(
    model: nn.Module,
    dataset: CocoDataset,
    collect: Callable[[dict[str, Any], dict[str, Any]], list[Any]],
    *,
    mapper: Callable[..., dict[str, Any]],
    num_workers: int,
    batch_size: int = 1,
) -> list[Any]:
    """Run a model on every image of a dataset, and gather what ``collect`` makes of the outputs.

    Every process takes its share of the images, with the first one's running statistics, which
    checkpoints hold: so the results are those of a checkpoint. The model's mode is left as it was.

    Args:
        collect: takes a sample and the model's output for it.
        batch_size: images at a time, of one size; another number than 1 changes results by the
            rounding of larger products alone.

    Returns:
        what was collected, in the order of the images; in other processes than the first nothing.
    """
    distributed.share_buffers(model)
    loader = build_test_loader(
        dataset.records,
        mapper=mapper,
        num_workers=num_workers,
        batch_size=batch_size,
        rank=distributed.get_rank(),
        world_size=distributed.get_world_size(),
    )
    was_training = model.training
    model.eval()
    collected: dict[Any, list[Any]] = {}  # by image
    # A bar on a terminal, in the main process alone; it goes when done, as a training may go on.
    hidden = None if distributed.is_main_process() else True
    words = f"detecting, {dataset.name}"
    unit = "image" if batch_size == 1 else "batch"
    bar = tqdm(loader, words, unit=unit, disable=hidden, leave=False)
    with distributed.fail_together(), torch.inference_mode():
        for batch in leave_if_asked(bar):
            for sample, output in zip(batch, model(batch)):
                collected[sample["image_id"]] = collect(sample, output)
    model.train(was_training)
    order: Iterable[Any] = collected
    if batch_size > 1:  # images of one size came together
        every = (record["image_id"] for record in dataset.records)
        order = [identity for identity in every if identity in collected]
    found = [one for identity in order for one in collected[identity]]
    return [one for share in distributed.gather_objects(found) for one in share]


def evaluate_on(
    model: nn.Module,
    dataset: CocoDataset,
    *,
    mapper: Callable[..., dict[str, Any]],
    num_workers: int,
    batch_size: int = 1,
    output_dir: Path,
    max_detections: int | None = None,
    look: Look | None = None,
) -> CocoMetrics | None:
    """Detect on every image, write ``coco_instances_results.json``, and compare with annotations.

    Args:
        batch_size: images at a time, see ``run_on_dataset``.
        max_detections: how many detections of an image and category count. None: all that the
            model gives, and 100 at least, as in COCO.
        look: is called with what was found.

    Returns:
        COCO's numbers; None in other processes than the first.
    """
    began = time.perf_counter()
    with_masks = False

    def collect(sample: dict[str, Any], output: dict[str, Any]) -> list[dict[str, Any]]:
        nonlocal with_masks
        with_masks |= output["instances"].has("pred_masks")
        return make_coco_results(sample["image_id"], output["instances"], dataset.category_ids)

    rows = run_on_dataset(
        model, dataset, collect, mapper=mapper, num_workers=num_workers, batch_size=batch_size
    )
    if not distributed.is_main_process():
        return None
    write_text(output_dir / "coco_instances_results.json", json.dumps(rows))
    logger.info(
        "%s: %d detections on %d images in %.1f s",
        dataset.name,
        len(rows),
        len(dataset.records),
        time.perf_counter() - began,
    )
    if max_detections is None:
        of_image = Counter(row["image_id"] for row in rows)
        max_detections = max(COCO_LIMIT, *of_image.values()) if rows else COCO_LIMIT
    metrics = evaluate_coco(
        dataset.annotations_file,
        rows,
        max_detections_per_image=max_detections,
        with_masks=with_masks,
    )
    of_boxes = "" if metrics.segm is not None else " bbox:"  # else the table names its parts
    logger.info("%s,%s\n%s", dataset.name, of_boxes, metrics.format_table())
    if look is not None:
        look(dataset, rows, metrics)
    return metrics


def locate_proposals(output_dir: str | Path, dataset: str) -> Path:
    """Name the file for the proposals of a test set in the output folder of an RPN."""
    return Path(output_dir, "inference", f"proposals_{dataset}.pkl")


def check_proposes(cfg: CfgNode) -> None:
    """Refuse the configuration of a model whose results are no proposals."""
    if cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
        raise ValueError(
            f"MODEL.META_ARCHITECTURE = {cfg.MODEL.META_ARCHITECTURE!r} gives no proposals; write "
            "ProposalNetwork, as configs/base/rpn.yaml does"
        )


def propose_on(
    cfg: CfgNode, model: nn.Module, dataset: CocoDataset, path: str | Path
) -> Proposals | None:
    """Compute the proposals of a dataset and write them; other processes wait for the file.

    Args:
        cfg: says how images are resized and loaded.
        model: samples -> [{"proposals": Instances}] in pixels of the original images.
        dataset: a loaded dataset.
        path: of the file, which appears whole or not at all.

    Returns:
        the proposals; None in other processes than the first.

    Raises:
        OSError: the file could not be written.
    """

    def collect(sample: dict[str, Any], output: dict[str, Any]) -> list[Any]:
        found = output["proposals"]
        boxes, logits = found.proposal_boxes.tensor, found.objectness_logits
        return [(sample["image_id"], (boxes.cpu().numpy(), logits.cpu().numpy()))]

    rows = run_on_dataset(
        model,
        dataset,
        collect,
        mapper=test_mapper(cfg),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        batch_size=get_own(cfg, "TEST.IMS_PER_BATCH"),
    )
    proposals = None
    with distributed.fail_together():
        if distributed.is_main_process():
            proposals = dict(rows)
            write_proposals(path, proposals)
            number = sum(len(boxes) for boxes, _ in proposals.values())
            logger.info(
                "%s: %d proposals on %d images in %s", dataset.name, number, len(proposals), path
            )
    return proposals


def propose_on_all(cfg: CfgNode, model: nn.Module, files: Mapping[str, str | Path]) -> None:
    """Compute and write the proposals of datasets by name, see ``propose_on``: name -> file."""
    for name, path in files.items():
        propose_on(cfg, model, load_coco(name), path)


def evaluate_proposals_on(
    cfg: CfgNode, model: nn.Module, dataset: CocoDataset
) -> ProposalMetrics | None:
    """Write the proposals of a set to ``locate_proposals``, and compare them with annotations.

    Returns:
        average recalls; None in other processes than the first.
    """
    proposals = propose_on(cfg, model, dataset, locate_proposals(cfg.OUTPUT_DIR, dataset.name))
    if proposals is None:
        return None
    metrics = evaluate_proposals(dataset.annotations_file, proposals)
    logger.info("%s, box_proposals:\n%s", dataset.name, metrics.format_table())
    return metrics


def choose_limit(cfg: CfgNode) -> int | None:
    """Choose how many detections count: as many as the detector may give, and 100 at least.

    COCO's own numbers, and those of detectron2's tools whatever the configuration, are of 100.

    Returns:
        the limit of an image; None where the configuration sets the detector none.
    """
    given = cfg.TEST.DETECTIONS_PER_IMAGE
    return None if given < 0 else max(COCO_LIMIT, given)


def evaluate_all(
    cfg: CfgNode,
    model: nn.Module,
    test_sets: list[CocoDataset],
    look: Look | None = None,
) -> dict[str, DatasetMetrics]:
    """Evaluate a model on every set, and write results and numbers to ``OUTPUT_DIR/inference``.

    Where there are several sets, each has a folder there.

    Args:
        look: is called for every set with what was found.

    Returns:
        the numbers by name of the set; in other processes than the first an empty dict.
    """
    folder, workers = Path(cfg.OUTPUT_DIR, "inference"), cfg.DATALOADER.NUM_WORKERS
    results: dict[str, DatasetMetrics] = {}
    for dataset in test_sets:
        output_dir = folder if len(test_sets) == 1 else folder / dataset.name
        found: DatasetMetrics | None
        with distributed.fail_together():
            if cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork":
                found = evaluate_proposals_on(cfg, model, dataset)
            else:
                found = evaluate_on(
                    model,
                    dataset,
                    mapper=test_mapper(cfg),
                    num_workers=workers,
                    batch_size=get_own(cfg, "TEST.IMS_PER_BATCH"),
                    output_dir=output_dir,
                    max_detections=choose_limit(cfg),
                    look=look,
                )
            if found is not None:
                write_text(output_dir / "metrics.json", found.to_json())
                results[dataset.name] = found
    return results


def flatten_metrics(results: Mapping[str, DatasetMetrics]) -> dict[str, float]:
    """Name every number as metrics.json and TensorBoard do, which is as detectron2 does.

    These are bbox/AP, segm/AP, keypoints/AP or box_proposals/AR@100. Where several sets are
    evaluated, the set's name comes first: NAME/bbox/AP. Where the limit of detections is not COCO's
    100, the task tells it: bbox@300/AP.
    """
    numbers = {}
    for name, metrics in results.items():
        limit = getattr(metrics, "max_detections", COCO_LIMIT)
        before = "" if len(results) == 1 else f"{name}/"
        for key, value in metrics.as_dict().items():
            task, dash, number = key.partition("-")
            if isinstance(metrics, ProposalMetrics):
                task, number = "box_proposals", key
            elif dash and task in OTHER_TASKS:
                task = name_task(limit, task)
            else:
                task, number = name_task(limit), key
            numbers[f"{before}{task}/{number}"] = value
    return numbers
