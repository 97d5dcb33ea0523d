"""Train and evaluate detectron2's models, with the files and numbers of the portable engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine.hooks import PreciseBN
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from fvcore.nn import sigmoid_focal_loss_jit
from torch import Tensor, nn

from resnext_det.config import check
from resnext_det.config.augmentation import check_augmentation
from resnext_det.config.backbone import check_backbone, check_c4_head
from resnext_det.config.detection import (
    add_own_keys,
    drop_own_keys,
    get_own,
    scale_to_processes,
)
from resnext_det.config.loading import merge, refuse_idle_overrides
from resnext_det.config.names import TORCHVISION_ANCHORS
from resnext_det.config.parts import uses_c4_head
from resnext_det.config.rules import read_settings
from resnext_det.config.values import (
    check_own_values,
    check_value,
    find_unsupported,
)
from resnext_det.detection.backends import CalibrationData, optimize_detector
from resnext_det.detection.best import check_best
from resnext_det.detection.detectron2.backbone import NORMS, ResNeXtRes5ROIHeads
from resnext_det.detection.detectron2.catalog import check_names
from resnext_det.detection.detectron2.datasets import (
    Data,
    convert_sample,
    open_data,
    prepare_validation,
)
from resnext_det.detection.detectron2.evaluation import evaluate_all
from resnext_det.detection.evaluation import DatasetMetrics, check_proposes, propose_on_all
from resnext_det.detection.memory_saving import NO_SAVING, MemorySaving
from resnext_det.detection.record import record_run
from resnext_det.detection.step_memory import Trial
from resnext_det.detection.training import train_detector
from resnext_det.detection.validation import measure_losses
from resnext_det.detection.weights import load_detector, read_start, read_trained
from resnext_det.layers import SYNCHRONIZED_ON_CPU
from resnext_det.training import distributed
from resnext_det.training.loop import Step
from resnext_det.training.metrics import MetricsWriter
from resnext_det.training.optimizer import OptimizerSettings
from resnext_det.training.optimizer import build_optimizer as build_named_optimizer
from resnext_det.training.output_folder import check_output_dir
from resnext_det.training.pace import PERIOD
from resnext_det.training.setup import log_too, set_seed, set_up
from resnext_det.weights import WeightFile

logger = logging.getLogger(__name__)

# Prefixes of keys of the data; models of boxes and masks alone, and those with a focal loss.
_DATA_KEYS = ("INPUT.", "DATASETS.", "DATALOADER.", "MODEL.MASK", "MODEL.KEYPOINT", "TEST.AUG.")
_BOX_DETECTORS = ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet", "FCOS")
_FOCAL_DETECTORS = ("RetinaNet", "FCOS")
# Prefixes of the numbers that detectron2's models give of anchors and regions.
_TOLD = ("rpn/", "roi_head/", "fast_rcnn/", "mask_rcnn/", "keypoint_rcnn/", "retinanet", "num_")
# Whose messages go into the log of a run.
_LIBRARIES = ("detectron2", "fvcore")


def load_config(path: str | Path | Mapping[str, Any], overrides: Sequence[Any] = ()) -> CfgNode:
    """Read a configuration over detectron2's defaults; every key of it and ``OWN_KEYS`` may be set.

    A configuration that the portable engine honors is held to the same checks; of another one the
    backbone is checked.

    Raises:
        FileNotFoundError, ValueError: as ``resnext_det.load_config``.
    """
    cfg = get_cfg()
    add_own_keys(cfg)
    merge(cfg, path, overrides)
    check_value(cfg, "VERSION", 2)
    check_own_values(cfg)
    _refuse_portable_parts(cfg)
    if beyond := find_unsupported(cfg):
        logger.info("Honored by detectron2 alone: %s", ", ".join(beyond))
        check_augmentation(cfg)
        if _uses_our_backbone(cfg):
            check_backbone(cfg, norms=NORMS)
            if uses_c4_head(cfg):
                check_c4_head(cfg)
    else:
        check(cfg)
    on_cpu = distributed.choose_device(cfg.MODEL.DEVICE).startswith("cpu")
    if cfg.SOLVER.AMP.ENABLED and on_cpu and cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE == "ROIPool":
        raise ValueError(
            "SOLVER.AMP.ENABLED = True with MODEL.ROI_BOX_HEAD.POOLER_TYPE = 'ROIPool' does not "
            "run on detectron2 on the CPU, where torchvision's roi_pool takes float32 alone; write "
            "SOLVER.AMP.ENABLED False, MODEL.DEVICE cuda, or --engine portable"
        )
    refuse_idle_overrides(cfg, overrides)
    drop_own_keys(cfg)
    cfg.freeze()
    return cfg


def _refuse_portable_parts(cfg: CfgNode) -> None:
    """Refuse what the portable engine alone has: torchvision's anchors, losses and clipping."""
    told = [f"MODEL.ANCHOR_GENERATOR.NAME = {TORCHVISION_ANCHORS!r}"]
    if cfg.MODEL.ANCHOR_GENERATOR.NAME != TORCHVISION_ANCHORS:
        told = []
    if get_own(cfg, "MODEL.RETINANET.AS_TORCHVISION"):
        told.append("MODEL.RETINANET.AS_TORCHVISION = True")
    if told:
        raise ValueError(
            f"{' and '.join(told)}: detectron2 has nothing like it; write --engine portable, which "
            "does, or DefaultAnchorGenerator and False"
        )


@log_too(*_LIBRARIES)
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
    """Train a detector and evaluate it, as the portable engine's ``train``.

    The model, the optimizer and the schedule are detectron2's; a run may go on in the other engine.
    """
    check_best(cfg)
    check_output_dir(cfg, resume=resume, overwrite=overwrite)
    _set_up(cfg)
    start = read_start(cfg, resume=resume, overridden=overridden, preprocessing=preprocessing)
    with open_data(
        cfg,
        _needs_detectron2_data(cfg),
        start,
        training=True,
        resume=resume,
        check_data=check_data,
    ) as data:
        return _train_on(
            cfg,
            data,
            start,
            saving,
            resume=resume,
            resume_anyway=resume_anyway,
            overwrite=overwrite,
        )


def _train_on(
    cfg: CfgNode,
    data: Data,
    start: WeightFile | None,
    saving: MemorySaving,
    *,
    resume: bool,
    resume_anyway: bool,
    overwrite: bool,
) -> dict[str, DatasetMetrics]:
    recorded = set_seed(cfg, resume=resume)
    cfg = scale_to_processes(recorded, distributed.get_world_size())
    validation = prepare_validation(cfg, data)
    model = build_detector(cfg).train()
    if cfg.MODEL.META_ARCHITECTURE in _FOCAL_DETECTORS:
        compile_focal_loss()
    _check_synchronized_norms(model)
    optimizer = _build_optimizer(cfg, model)
    multiplier = build_lr_scheduler(cfg, optimizer)._multiplier  # where in the training -> factor
    precise_bn = None
    if cfg.TEST.PRECISE_BN.ENABLED:
        batches = data.load_batches(cfg, 0)
        precise_bn = PreciseBN(0, model, batches, cfg.TEST.PRECISE_BN.NUM_ITER)
    files = list(cfg.DATASETS.TRAIN)  # then those of the batch
    with EventStorage() as storage, _explain_missing_annotations(files, cfg.MODEL.KEYPOINT_ON):

        def load_batches(start: int) -> Iterator[list[dict[str, Any]]]:
            for iteration, batch in enumerate(data.load_batches(cfg, start), start):
                storage.iter = iteration
                files[:] = [str(sample["file_name"]) for sample in batch]
                yield batch

        def after_step(step: Step, writer: MetricsWriter) -> None:
            done, period = step.iteration + 1, cfg.TEST.EVAL_PERIOD
            if precise_bn and (done == step.stop or (period > 0 and done % period == 0)):
                _compute_precise_statistics(precise_bn, model)
            if done % PERIOD == 0 or done == step.stop:
                latest = storage.latest()
                told = [name for name in latest if name.startswith(_TOLD)]
                writer.put({name: latest[name][0] for name in told})

        return train_detector(
            cfg,
            model,
            recorded=recorded,
            optimizer=optimizer,
            schedule=lambda iteration: multiplier(iteration / cfg.SOLVER.MAX_ITER),
            load_batches=load_batches,
            evaluate=lambda look: evaluate_all(cfg, model, data, look),
            measure=lambda: measure_losses(model, validation, around=lambda: EventStorage(1)),
            resume=resume,
            start_file=start,
            class_names=data.class_names,
            contents=data.contents,
            resume_anyway=resume_anyway,
            overwrite=overwrite,
            saving=saving,
            draw_anchors=_draw_anchors,
            after_step=after_step,
        )


@contextmanager
def open_trial(cfg: CfgNode) -> Iterator[Trial]:
    """Build what a training step needs, on the CPU and with random weights."""
    model = build_detector(cfg).train()
    if cfg.MODEL.META_ARCHITECTURE in _FOCAL_DETECTORS:
        compile_focal_loss()
    with EventStorage():
        yield Trial(model, _build_optimizer(cfg, model), _draw_anchors, convert_sample)


@log_too(*_LIBRARIES)
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
    """Evaluate a trained detector, as the portable engine's ``evaluate``."""
    _set_up(cfg)
    file = read_trained(cfg, resume=resume, overridden=overridden, preprocessing=preprocessing)
    by_detectron2 = _needs_detectron2_data(cfg)
    with open_data(cfg, by_detectron2, file, training=False, check_data=check_data) as data:
        record_run(cfg, anew=False)
        model = build_detector(cfg)
        load_detector(model, file)
        model_in_test = optimize_detector(cfg, model, backend, dtype, calibration_data)
        return evaluate_all(cfg, model_in_test, data)


@log_too(*_LIBRARIES)
def propose(
    cfg: CfgNode,
    files: Mapping[str, str | Path],
    *,
    resume: bool = False,
    overridden: Collection[str] = (),
    preprocessing: str | None = None,
) -> None:
    """Write the proposals of a trained ProposalNetwork, as the portable engine's ``propose``."""
    check_proposes(cfg)
    _set_up(cfg)
    check_names(list(files))
    file = read_trained(cfg, resume=resume, overridden=overridden, preprocessing=preprocessing)
    model = build_detector(cfg)
    load_detector(model, file)
    propose_on_all(cfg, model, files)


def build_detector(cfg: CfgNode) -> nn.Module:
    """Build detectron2's model; on our backbone, its C4 head gets our res5.

    Our res5 is faster than detectron2's, and computes what the portable engine's does.

    Raises:
        ValueError: detectron2 refuses the model; there is no such ``MODEL.DEVICE``.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = str(distributed.resolve_device(cfg.MODEL.DEVICE))  # detectron2 has no "auto"
    if cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads" and _uses_our_backbone(cfg):
        cfg.MODEL.ROI_HEADS.NAME = ResNeXtRes5ROIHeads.__name__
    try:
        return build_model(cfg)
    except (AssertionError, KeyError) as error:
        raise ValueError(
            f"detectron2 cannot build this model: {error}; correct the keys of MODEL that it names"
        ) from error


def _draw_anchors(
    rpn: Any, features: Mapping[str, Tensor], samples: Sequence[Mapping[str, Any]]
) -> None:
    """Draw the anchors of samples from torch's generator, as a training step does; forget them."""
    maps = [features[name] for name in rpn.in_features]
    anchors = rpn.anchor_generator(maps)
    targets = [sample["instances"].to(maps[0].device) for sample in samples]
    rpn.label_and_sample_anchors(anchors, targets)


def compile_focal_loss() -> None:
    """Call the focal loss of RetinaNet and FCOS until torch has compiled it for the CPU.

    The gradients of its first call in a process round otherwise than those of later ones, so that
    a training that was resumed would not end with the weights of one that was not.
    """
    for _ in range(2):
        logits = torch.zeros(1, requires_grad=True)
        sigmoid_focal_loss_jit(logits, torch.zeros(1), alpha=0.25, reduction="sum").backward()


def _set_up(cfg: CfgNode) -> None:
    set_up(cfg)
    if distributed.get_world_size() > 1 and comm._LOCAL_PROCESS_GROUP is None:
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


def _build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build detectron2's SGD, or the portable engine's other optimizers; they clip gradients."""
    if (name := get_own(cfg, "SOLVER.OPTIMIZER")) == "SGD":
        return build_optimizer(cfg, model)
    optimizer = build_named_optimizer(model, read_settings(OptimizerSettings, cfg.SOLVER), name)
    return maybe_add_gradient_clipping(cfg, optimizer)


def _check_synchronized_norms(model: nn.Module) -> None:
    """Refuse norms that torch cannot train in several processes on the CPU.

    Raises:
        ValueError: the model is on the CPU, and has such norms.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    synchronized = any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    if synchronized and on_cpu and distributed.get_world_size() > 1:
        raise ValueError(SYNCHRONIZED_ON_CPU)


def _compute_precise_statistics(precise_bn: PreciseBN, model: nn.Module) -> None:
    """Compute the batch norms' statistics over many batches; an error leaves those that were."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        with distributed.fail_together():
            precise_bn.update_stats()
    except Exception:
        for buffer, value in zip(model.buffers(), before):
            buffer.copy_(value)
        raise


@contextmanager
def _explain_missing_annotations(files: Sequence[str], keypoints: bool) -> Iterator[None]:
    """Explain detectron2's error about masks or keypoints that the annotations lack."""
    try:
        yield
    except (AttributeError, AssertionError) as error:
        kinds = ("masks", "keypoints")
        missing = next((name for name in kinds if f"'gt_{name}'" in str(error)), None)
        if keypoints and "No valid data found" in str(
            error
        ):  # images without keypoints are dropped
            missing = "keypoints"
        if missing is None:
            raise
        raise ValueError(
            f"the annotations of {', '.join(files)} have no {missing}, on which "
            f"MODEL.{missing.upper()[:-1]}_ON = True trains; write False, or annotations with "
            f"{missing}"
        ) from error


def _uses_our_backbone(cfg: CfgNode) -> bool:
    """Tell whether the backbone is one that this package registers."""
    return "resnext" in cfg.MODEL.BACKBONE.NAME


def _needs_detectron2_data(cfg: CfgNode) -> bool:
    """Tell whether detectron2 has to load the images and evaluate: keypoints, its samplers ..."""
    keys = [key for key in find_unsupported(cfg) if key.startswith(_DATA_KEYS)]
    return bool(keys) or cfg.MODEL.META_ARCHITECTURE not in _BOX_DETECTORS
