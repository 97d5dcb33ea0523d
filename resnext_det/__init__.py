"""ResNeXt for object detection ("Aggregated Residual Transformations for Deep Neural Networks",
arXiv 1611.05431).

``import resnext_det`` imports nothing else: a public name is imported when it is first used. Where
detectron2 is installed, the backbones ``build_resnext_backbone``, ``build_resnext_fpn_backbone`` and
``build_retinanet_resnext_fpn_backbone`` are registered in it as soon as it is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from resnext_det.detection.detectron2 import register_with_detectron2

if TYPE_CHECKING:
    from resnext_det.architecture import Architecture
    from resnext_det.classification.inference import Classifier
    from resnext_det.classification.jobs import (
        ClassificationJob,
        EvaluationJob,
        evaluate_weights,
        pretrain,
    )
    from resnext_det.classification.weights import load_classifier
    from resnext_det.config import config_file, get_cfg, load_config
    from resnext_det.config.classification import get_classifier_cfg, load_classifier_config
    from resnext_det.detection.inference import Predictor
    from resnext_det.detection.jobs import Job, Metrics, evaluate, train
    from resnext_det.detection.portable.build import build_detector
    from resnext_det.evaluation.coco import CocoMetrics, evaluate_coco
    from resnext_det.resnext import ResNeXt, ResNeXtClassifier
    from resnext_det.weights import (
        LoadReport,
        Preprocessing,
        WeightFile,
        load_weights,
        read_weights,
        write_weights,
    )

__version__ = "0.2.0"

_HOMES = {
    "Architecture": "resnext_det.architecture",
    "ResNeXt": "resnext_det.resnext",
    "ResNeXtClassifier": "resnext_det.resnext",
    "Classifier": "resnext_det.classification.inference",
    "ClassificationJob": "resnext_det.classification.jobs",
    "pretrain": "resnext_det.classification.jobs",
    "EvaluationJob": "resnext_det.classification.jobs",
    "evaluate_weights": "resnext_det.classification.jobs",
    "load_classifier": "resnext_det.classification.weights",
    "config_file": "resnext_det.config",
    "get_cfg": "resnext_det.config",
    "load_config": "resnext_det.config",
    "get_classifier_cfg": "resnext_det.config.classification",
    "load_classifier_config": "resnext_det.config.classification",
    "Job": "resnext_det.detection.jobs",
    "Metrics": "resnext_det.detection.jobs",
    "evaluate": "resnext_det.detection.jobs",
    "train": "resnext_det.detection.jobs",
    "build_detector": "resnext_det.detection.portable.build",
    "Predictor": "resnext_det.detection.inference",
    "CocoMetrics": "resnext_det.evaluation.coco",
    "evaluate_coco": "resnext_det.evaluation.coco",
    "LoadReport": "resnext_det.weights",
    "load_weights": "resnext_det.weights",
    "read_weights": "resnext_det.weights",
    "write_weights": "resnext_det.weights",
    "WeightFile": "resnext_det.weights",
    "Preprocessing": "resnext_det.weights",
}

__all__ = [
    "Architecture",
    "ClassificationJob",
    "Classifier",
    "CocoMetrics",
    "EvaluationJob",
    "Job",
    "LoadReport",
    "Metrics",
    "Predictor",
    "Preprocessing",
    "ResNeXt",
    "ResNeXtClassifier",
    "WeightFile",
    "build_detector",
    "config_file",
    "evaluate",
    "evaluate_coco",
    "evaluate_weights",
    "get_cfg",
    "get_classifier_cfg",
    "load_classifier",
    "load_classifier_config",
    "load_config",
    "load_weights",
    "pretrain",
    "read_weights",
    "train",
    "write_weights",
]


register_with_detectron2()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"resnext_det has no {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
