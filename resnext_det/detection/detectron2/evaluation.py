"""COCO's numbers of a detectron2 model: by this project where boxes are all, by detectron2 where there are masks or keypoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from tabulate import tabulate
from torch import nn

from resnext_det.detection import evaluation
from resnext_det.detection.detectron2.datasets import Data, converted
from resnext_det.evaluation.coco import without_nan


@dataclass(frozen=True)
class TaskMetrics:
    """What detectron2's COCOEvaluator gives: task ("bbox", "segm", "keypoints") -> name -> number in percent."""

    tasks: Mapping[str, Mapping[str, float]]

    def as_dict(self) -> dict[str, float]:
        """Boxes' numbers under their plain names, others as "segm-AP"."""
        return {
            name if task == "bbox" else f"{task}-{name}": value
            for task, numbers in self.tasks.items()
            for name, value in numbers.items()
        }

    def to_json(self) -> str:
        """All the numbers as a JSON object; null stands for nan."""
        return json.dumps(without_nan(self.as_dict()), indent=2)

    def table(self) -> str:
        """A row of AP, AP50, AP75, APs, APm, APl for every task."""
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
        rows = [
            [task, *(numbers.get(name) for name in names)] for task, numbers in self.tasks.items()
        ]
        return tabulate(rows, headers=["task", *names], tablefmt="pipe", floatfmt=".3f")

    def summary(self) -> str:
        """One line."""
        return ", ".join(f"{task} AP {numbers['AP']:.1f}" for task, numbers in self.tasks.items())


def evaluate_all(cfg: CfgNode, model: nn.Module, data: Data) -> dict[str, Any]:
    """Detections and numbers of every ``DATASETS.TEST``, under ``OUTPUT_DIR/inference``.

    Returns:
        the numbers by name of the set; in other processes than the first an empty dict.
    """
    if not data.by_detectron2:
        return evaluation.evaluate_all(cfg, _Converting(model), data.test_sets)
    folder = Path(cfg.OUTPUT_DIR, "inference")
    results: dict[str, Any] = {}
    was_training = model.training
    for name in cfg.DATASETS.TEST:
        output_dir = folder if len(cfg.DATASETS.TEST) == 1 else folder / name
        loader = build_detection_test_loader(cfg, name, num_workers=cfg.DATALOADER.NUM_WORKERS)
        DatasetCatalog.get(name)  # which tells where the annotations are
        found = inference_on_dataset(model, loader, COCOEvaluator(name, output_dir=str(output_dir)))
        if found:
            results[name] = TaskMetrics(found)
            (output_dir / "metrics.json").write_text(results[name].to_json(), encoding="utf-8")
    model.train(was_training)
    return results


class _Converting(nn.Module):
    """A detectron2 model that takes our samples: proposals that were given have to be detectron2's ``Instances``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, samples: list[dict[str, Any]]) -> Any:
        return self.model([converted(sample) for sample in samples])
