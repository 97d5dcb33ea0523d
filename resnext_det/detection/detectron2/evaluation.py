"""Evaluate a detectron2 model: boxes and masks by this project, keypoints by detectron2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.evaluation import COCOEvaluator, inference_context
from tabulate import tabulate
from torch import nn

from resnext_det.detection import evaluation
from resnext_det.detection.detectron2.datasets import Data, convert_sample
from resnext_det.evaluation.coco import describe_limit, format_numbers
from resnext_det.evaluation.coco_checks import COCO_LIMIT
from resnext_det.files import write_text
from resnext_det.training import distributed
from resnext_det.training.interruption import leave_if_asked


@dataclass(frozen=True)
class TaskMetrics:
    """Hold the numbers of detectron2's COCOEvaluator, in percent.

    Attributes:
        tasks: "bbox", "segm" or "keypoints" -> name -> number.
        max_detections: how many detections of an image and category counted; always 20 for
            keypoints.
    """

    tasks: Mapping[str, Mapping[str, float]]
    max_detections: int = COCO_LIMIT

    def as_dict(self) -> dict[str, float]:
        """Name the numbers of boxes as they are, and others as "segm-AP"."""
        return {
            name if task == "bbox" else f"{task}-{name}": value
            for task, numbers in self.tasks.items()
            for name, value in numbers.items()
        }

    def to_json(self) -> str:
        """Write all the numbers as a JSON object, as ``CocoMetrics`` does."""
        return format_numbers(self.as_dict(), self.max_detections)

    def format_table(self) -> str:
        """Make a text table with a row of AP, AP50, AP75, APs, APm and APl for every task."""
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
        rows = [
            [task, *(numbers.get(name) for name in names)] for task, numbers in self.tasks.items()
        ]
        text = tabulate(rows, headers=["task", *names], tablefmt="pipe", floatfmt=".3f")
        limit = describe_limit(self.max_detections)
        return text + (limit and f"\n\n{limit}")

    def summarize(self) -> str:
        """Name the APs in one line."""
        limit = describe_limit(self.max_detections)
        parts = (f"{task} AP {numbers['AP']:.1f}" for task, numbers in self.tasks.items())
        return ", ".join(parts) + (limit and f" ({limit})")


def evaluate_all(
    cfg: CfgNode, model: nn.Module, data: Data, look: evaluation.Look | None = None
) -> dict[str, evaluation.DatasetMetrics]:
    """Evaluate a model on every ``DATASETS.TEST``; write to ``OUTPUT_DIR/inference``.

    Args:
        look: is called for every set that this project evaluates with what was found.

    Returns:
        the numbers by name of the set; in other processes than the first an empty dict.
    """
    if not data.by_detectron2:
        return evaluation.evaluate_all(cfg, _Converting(model), data.test_sets, look)
    folder = Path(cfg.OUTPUT_DIR, "inference")
    results: dict[str, evaluation.DatasetMetrics] = {}
    limit = evaluation.choose_limit(cfg) or COCO_LIMIT
    for name in cfg.DATASETS.TEST:
        output_dir = folder if len(cfg.DATASETS.TEST) == 1 else folder / name
        loader = build_detection_test_loader(cfg, name, num_workers=cfg.DATALOADER.NUM_WORKERS)
        DatasetCatalog.get(name)  # which tells where the annotations are
        evaluator = COCOEvaluator(name, output_dir=str(output_dir), max_dets_per_image=limit)
        evaluator.reset()
        # detectron2's inference_on_dataset would leave the other processes waiting for one that
        # fails.
        with distributed.fail_together():
            with distributed.fail_together(), inference_context(model), torch.no_grad():
                for batch in leave_if_asked(loader):
                    evaluator.process(batch, model(batch))
            if found := evaluator.evaluate():
                results[name] = TaskMetrics(found, limit)
                write_text(output_dir / "metrics.json", results[name].to_json())
    return results


class _Converting(nn.Module):
    """Run a detectron2 model on our samples: given proposals become detectron2's ``Instances``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, samples: list[dict[str, Any]]) -> Any:
        return self.model([convert_sample(sample) for sample in samples])
