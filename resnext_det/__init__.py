"""ResNeXt for object detection (Aggregated Residual Transformations, arXiv 1611.05431).

``import resnext_det`` imports no other library: a public name is imported when it is first used.
The backbones ``build_resnext_backbone``, ``build_resnext_fpn_backbone``,
``build_retinanet_resnext_fpn_backbone`` and ``build_retinanet_resnext_fpn_p5_backbone`` are
registered in detectron2, where that is installed, as soon as it is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from resnext_det.detection.detectron2 import register_with_detectron2

if TYPE_CHECKING:
    from resnext_det.architecture import Architecture, Deformable
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
    from resnext_det.deploy.export import ExportReport, export_detector
    from resnext_det.deploy.exported import ExportedDetector
    from resnext_det.detection.inference import Predictor
    from resnext_det.detection.jobs import Job, Metrics, evaluate, train
    from resnext_det.detection.portable.build import build_detector
    from resnext_det.evaluation.analysis import analyze_detections, compare_detections
    from resnext_det.evaluation.coco import CocoMetrics, evaluate_coco
    from resnext_det.resnext import ResNeXt, ResNeXtClassifier
    from resnext_det.runtimes.optimize import optimize
    from resnext_det.weights import (
        LoadReport,
        Preprocessing,
        WeightFile,
        load_weights,
        read_weights,
        write_weights,
    )

__version__ = "0.2.0"

_NAMES = {
    "architecture": "Architecture Deformable",
    "classification.inference": "Classifier",
    "classification.jobs": "ClassificationJob EvaluationJob evaluate_weights pretrain",
    "classification.weights": "load_classifier",
    "config": "config_file get_cfg load_config",
    "config.classification": "get_classifier_cfg load_classifier_config",
    "deploy.exported": "ExportedDetector",
    "deploy.export": "ExportReport export_detector",
    "detection.inference": "Predictor",
    "detection.jobs": "Job Metrics evaluate train",
    "detection.portable.build": "build_detector",
    "evaluation.analysis": "analyze_detections compare_detections",
    "evaluation.coco": "CocoMetrics evaluate_coco",
    "resnext": "ResNeXt ResNeXtClassifier",
    "runtimes.optimize": "optimize",
    "weights": "LoadReport Preprocessing WeightFile load_weights read_weights write_weights",
}
_HOMES = {
    name: f"resnext_det.{module}" for module, names in _NAMES.items() for name in names.split()
}

__all__ = [
    "Architecture",
    "ClassificationJob",
    "Classifier",
    "CocoMetrics",
    "Deformable",
    "EvaluationJob",
    "ExportReport",
    "ExportedDetector",
    "Job",
    "LoadReport",
    "Metrics",
    "Predictor",
    "Preprocessing",
    "ResNeXt",
    "ResNeXtClassifier",
    "WeightFile",
    "analyze_detections",
    "build_detector",
    "compare_detections",
    "config_file",
    "evaluate",
    "evaluate_coco",
    "evaluate_weights",
    "export_detector",
    "get_cfg",
    "get_classifier_cfg",
    "load_classifier",
    "load_classifier_config",
    "load_config",
    "load_weights",
    "optimize",
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
