"""Train and evaluate the portable detector: from a configuration to files and numbers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from resnext_det.config import load_config
from resnext_det.config.detection import get_own, scale_to_processes
from resnext_det.config.rules import read_settings
from resnext_det.detection.backends import CalibrationData, optimize_detector
from resnext_det.detection.best import check_best
from resnext_det.detection.datasets import (
    arrange_classes,
    build_train_batches,
    describe_sets,
    load_datasets,
    look_at_data,
)
from resnext_det.detection.evaluation import (
    DatasetMetrics,
    check_proposes,
    evaluate_all,
    propose_on_all,
)
from resnext_det.detection.memory_saving import NO_SAVING, MemorySaving
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.portable.detector import Detector
from resnext_det.detection.portable.rpn import draw_anchors
from resnext_det.detection.record import record_run
from resnext_det.detection.step_memory import Trial
from resnext_det.detection.training import train_detector
from resnext_det.detection.validation import measure_losses, prepare_sets
from resnext_det.detection.weights import load_detector, read_start, read_trained
from resnext_det.training import distributed
from resnext_det.training.optimizer import (
    ClippingSettings,
    OptimizerSettings,
    build_clipper,
    build_optimizer,
)
from resnext_det.training.output_folder import check_output_dir
from resnext_det.training.schedule import ScheduleSettings, build_schedule
from resnext_det.training.setup import set_seed, set_up

__all__ = ["evaluate", "load_config", "open_trial", "propose", "train"]

logger = logging.getLogger(__name__)


def train(
    cfg: CfgNode,
    *,
    resume: bool = False,
    resume_anyway: bool = False,
    overwrite: bool = False,
    overridden: Collection[str] = (),
    preprocessing: str | None = None,
    check_data: bool = False,
    saving: MemorySaving = NO_SAVING,
) -> dict[str, DatasetMetrics]:
    """Train a detector and evaluate it; every process of a training calls this.

    Args:
        resume: go on from the newest checkpoint of ``OUTPUT_DIR``, if there is one.
        resume_anyway: where the training sets hold something else than they did, too.
        overwrite: remove the run in ``OUTPUT_DIR``; without either, a folder with a run is refused.
        overridden: keys that the user gave by hand, which hold against a detector's file.
        preprocessing: what the user states of the weights, see ``parse_preprocessing``.
        check_data: decode every image before, see ``look_at_data``.
        saving: what to do to need less memory.

    Returns:
        COCO's numbers (a ProposalNetwork's average recalls) by name of ``DATASETS.TEST``; in other
        processes than the first an empty dict.

    Raises:
        ValueError, FileNotFoundError: configuration, data or weights are wrong.
        FloatingPointError, TrainingInterrupted: see ``train_loop``.
    """
    check_best(cfg)
    check_output_dir(cfg, resume=resume, overwrite=overwrite)
    device = set_up(cfg)
    start = read_start(cfg, resume=resume, overridden=overridden, preprocessing=preprocessing)
    train_sets, test_sets = load_datasets(cfg, "TRAIN"), load_datasets(cfg, "TEST", needed=False)
    look_at_data(train_sets, test_sets, everything=check_data)
    train_sets, test_sets = arrange_classes(cfg, train_sets, test_sets, start, resume=resume)
    recorded = set_seed(cfg, resume=resume)
    cfg = scale_to_processes(recorded, distributed.get_world_size())
    validation = prepare_sets(cfg, test_sets)
    model, solver = _build_model(cfg, device), cfg.SOLVER
    return train_detector(
        cfg,
        model,
        recorded=recorded,
        optimizer=_build_optimizer(cfg, model),
        schedule=build_schedule(read_settings(ScheduleSettings, solver)),
        clip=build_clipper(read_settings(ClippingSettings, solver.CLIP_GRADIENTS)),
        load_batches=lambda start: build_train_batches(cfg, train_sets, start),
        evaluate=lambda look: evaluate_all(cfg, model, test_sets, look),
        measure=lambda: measure_losses(model, validation),
        resume=resume,
        start_file=start,
        class_names=train_sets[0].class_names,
        contents=describe_sets(train_sets),
        resume_anyway=resume_anyway,
        overwrite=overwrite,
        saving=saving,
        draw_anchors=draw_anchors,
    )


@contextmanager
def open_trial(cfg: CfgNode) -> Iterator[Trial]:
    """Build what a training step needs, on the CPU and with random weights."""
    model = build_detector(cfg).train()
    yield Trial(model, _build_optimizer(cfg, model), draw_anchors)


def _build_optimizer(cfg: CfgNode, model: Detector) -> torch.optim.Optimizer:
    settings = read_settings(OptimizerSettings, cfg.SOLVER)
    return build_optimizer(model, settings, get_own(cfg, "SOLVER.OPTIMIZER"))


def evaluate(
    cfg: CfgNode,
    *,
    resume: bool = False,
    overridden: Collection[str] = (),
    preprocessing: str | None = None,
    check_data: bool = False,
    backend: str | None = None,
    dtype: str | None = None,
    calibration_data: CalibrationData = None,
) -> dict[str, DatasetMetrics]:
    """Evaluate a trained detector on ``DATASETS.TEST``.

    Args:
        resume: take the newest checkpoint of ``OUTPUT_DIR``, if there is one, and not
            ``MODEL.WEIGHTS``.
        overridden, preprocessing, check_data: as ``train``.
        backend, dtype, calibration_data: see ``optimize_detector``.

    Returns:
        as ``train``.

    Raises:
        ValueError, FileNotFoundError: configuration, data or weights are wrong; the weights are
            not those of a whole detector.
    """
    device = set_up(cfg)
    file = read_trained(cfg, resume=resume, overridden=overridden, preprocessing=preprocessing)
    test_sets = load_datasets(cfg, "TEST", in_training=False)
    look_at_data([], test_sets, everything=check_data)
    _, test_sets = arrange_classes(cfg, [], test_sets, file)
    record_run(cfg, anew=False)
    model = _build_model(cfg, device)
    load_detector(model, file)
    model_in_test = optimize_detector(cfg, model, backend, dtype, calibration_data)
    return evaluate_all(cfg, model_in_test, test_sets)


def propose(
    cfg: CfgNode,
    files: Mapping[str, str | Path],
    *,
    resume: bool = False,
    overridden: Collection[str] = (),
    preprocessing: str | None = None,
) -> None:
    """Write the proposals of a trained ProposalNetwork.

    Args:
        files: name of a dataset -> file to write.
        resume, overridden, preprocessing: as ``evaluate``.

    Raises:
        ValueError, FileNotFoundError: as ``evaluate``; the model gives no proposals.
        OSError: a file could not be written.
    """
    check_proposes(cfg)
    device = set_up(cfg)
    file = read_trained(cfg, resume=resume, overridden=overridden, preprocessing=preprocessing)
    model = _build_model(cfg, device)
    load_detector(model, file)
    propose_on_all(cfg, model, files)


def _build_model(cfg: CfgNode, device: torch.device) -> Detector:
    model = build_detector(cfg).to(device)
    logger.info("%d parameters", sum(parameter.numel() for parameter in model.parameters()))
    return model
