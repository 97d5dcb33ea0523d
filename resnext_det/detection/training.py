"""Train a detector of either engine: begin or resume, train, save, evaluate, write metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.config.detection import get_own
from resnext_det.data.contents import Contents
from resnext_det.detection.batch_parts import AnchorDraw, BatchParts
from resnext_det.detection.dense_parts import DenseBatchParts
from resnext_det.detection.evaluation import DatasetMetrics, Look
from resnext_det.detection.memory_saving import MemorySaving, recompute_stages
from resnext_det.detection.periodic_evaluation import PeriodicEvaluation
from resnext_det.detection.record import record_run
from resnext_det.detection.weights import (
    check_frozen_layers_are_loaded,
    describe_detector,
    load_pretrained,
)
from resnext_det.training import distributed
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.loop import LossParts, Step, compute_whole, train_loop
from resnext_det.training.metrics import MetricsWriter
from resnext_det.training.optimizer import GradientClipper
from resnext_det.training.output_folder import remove_run
from resnext_det.training.precision import tell_speed_of_precision
from resnext_det.training.schedule import LearningRateSchedule
from resnext_det.training.state import TrainingState
from resnext_det.training.threads import watch_crowding
from resnext_det.training.watches import watch_training
from resnext_det.weights import WeightFile

logger = logging.getLogger(__name__)


def train_detector(
    cfg: CfgNode,
    model: nn.Module,
    *,
    recorded: CfgNode,
    optimizer: torch.optim.Optimizer,
    schedule: LearningRateSchedule,
    load_batches: Callable[[int], Iterable[Any]],
    evaluate: Callable[[Look], Mapping[str, DatasetMetrics]],
    measure: Callable[[], Mapping[str, float]] = dict,
    resume: bool,
    overwrite: bool,
    saving: MemorySaving,
    draw_anchors: AnchorDraw,
    start_file: WeightFile | None = None,
    class_names: Sequence[str] = (),
    contents: Mapping[str, Contents] = {},
    resume_anyway: bool = False,
    clip: GradientClipper | None = None,
    after_step: Callable[[Step, MetricsWriter], None] = lambda step, writer: None,
) -> dict[str, DatasetMetrics]:
    """Train a model as ``cfg`` says, and evaluate it when it is due and at the end.

    Args:
        model: on its device, not wrapped for several processes.
        recorded: the configuration for config.yaml, which is ``cfg`` before it was scaled to the
            processes.
        optimizer, schedule, clip: see ``train_loop``.
        load_batches: takes the first iteration; gives the batches of this process from it on.
        evaluate: computes the numbers of ``model`` as it is, by name of ``DATASETS.TEST``, and
            shows what was found to the ``Look`` that it is given. Where ``TEST.BEST_METRIC`` is the
            best so far, ``model_best.pth`` gets the weights; after ``TEST.PATIENCE`` evaluations
            without a better one the training ends.
        measure: measures losses of ``model`` on these sets, by their names in metrics.json, every
            ``TEST.LOSS_PERIOD`` iterations and at the end.
        resume: go on from the newest checkpoint of ``OUTPUT_DIR``, if there is one. A training
            that had ended is evaluated.
        overwrite: remove the run in ``OUTPUT_DIR``, once all that could be wrong is known.
        saving: how the training saves memory.
        draw_anchors: draws the anchors of samples as the model's RPN does.
        start_file: the weights to start from where nothing is resumed; None: random ones.
        class_names: of the model's outputs, in their order; empty: not known.
        contents: of the training sets, by name, as ``describe_records`` gives them; a run does
            not go on with others.
        resume_anyway: go on with others all the same, with a warning.
        after_step: called after every step, before anything is saved.

    Returns:
        the last numbers; in other processes than the first an empty dict.

    Raises:
        ValueError, FileNotFoundError: see ``TrainingState.resume``, ``load_pretrained`` and
            ``MemorySaving``; layers are frozen at random weights.
        FloatingPointError, TrainingInterrupted: see ``train_loop``.
    """
    device, stop = distributed.resolve_device(cfg.MODEL.DEVICE), cfg.SOLVER.MAX_ITER
    split = _save_memory(cfg, model, saving, draw_anchors)
    wrapped = distributed.distribute(model, device)
    kept = Checkpointer(cfg.OUTPUT_DIR, max_to_keep=get_own(cfg, "SOLVER.CHECKPOINT_KEEP") or None)
    state = TrainingState(wrapped, optimizer, kept, contents=contents)
    start = state.resume(anyway=resume_anyway) if resume else 0
    if start == 0:
        _load_start(cfg, model, start_file, class_names)
    if overwrite:
        remove_run(cfg.OUTPUT_DIR)
    record_run(recorded, anew=True)
    state.facts = describe_detector(cfg, model, class_names, {})
    with _open_writer(cfg, start) as writer:
        evaluation = PeriodicEvaluation(
            *(cfg, model, state, writer),
            evaluate=evaluate,
            measure=measure,
            class_names=class_names,
        )
        if start >= stop or evaluation.is_over():
            logger.info("The training had ended after %d iterations; it is evaluated.", start)
            evaluation.repeat_last(start, None if start_file is None else start_file.detector)
            return evaluation.results
        evaluation.make_up(start)
        if not evaluation.is_over():
            amp_dtype = torch.bfloat16 if cfg.SOLVER.AMP.ENABLED else None
            tell_speed_of_precision(device, amp_dtype)
            train_loop(
                model=wrapped,
                optimizer=optimizer,
                schedule=schedule,
                batches=load_batches(start),
                start=start,
                stop=stop,
                device=device,
                amp_dtype=amp_dtype,
                clip=clip,
                split=split,
                after_step=[
                    lambda step: after_step(step, writer),
                    state.save_every(cfg.SOLVER.CHECKPOINT_PERIOD),
                    evaluation,
                    *watch_crowding(device, cfg.DATALOADER.NUM_WORKERS),
                    writer,
                ],
                save=state.save_after,
                is_over=evaluation.is_over,
            )
        if evaluation.is_over():
            logger.info("The training ends early: %s.", evaluation.explain())
        evaluation.tell_best()
    return evaluation.results


def _load_start(
    cfg: CfgNode, model: nn.Module, start_file: WeightFile | None, class_names: Sequence[str]
) -> None:
    """Load the weights to start from, if there are any; refuse layers frozen at random ones."""
    if start_file is not None:
        load_pretrained(cfg, model, start_file, class_names)
    check_frozen_layers_are_loaded(model)


def _open_writer(cfg: CfgNode, start: int) -> MetricsWriter:
    """Open the metrics of a training from an iteration on, with what watches over them."""
    return MetricsWriter(
        cfg.OUTPUT_DIR,
        total_steps=cfg.SOLVER.MAX_ITER,
        start=start,
        images_per_step=cfg.SOLVER.IMS_PER_BATCH,
        watches=watch_training(
            *(cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS, start),
            warm_up=cfg.SOLVER.WARMUP_ITERS,
            clips_gradients=cfg.SOLVER.CLIP_GRADIENTS.ENABLED,
            keeps_best=bool(get_own(cfg, "TEST.BEST_METRIC")),
        ),
    )


def _save_memory(
    cfg: CfgNode, model: nn.Module, saving: MemorySaving, draw_anchors: AnchorDraw
) -> LossParts:
    """Make the model recompute stages as asked; return what computes the losses of a batch."""
    images = cfg.SOLVER.IMS_PER_BATCH // distributed.get_world_size()
    saving.check(model, images)
    if saving.recompute:
        recompute_stages(model, saving.recompute)
        logger.info("The maps within %s are computed again.", ", ".join(saving.recompute))
    if saving.accumulate > 1:
        logger.info("Each batch of %d images is computed in %d parts.", images, saving.accumulate)
    return choose_parts(cfg, model, saving.accumulate, draw_anchors)


def choose_parts(cfg: CfgNode, model: nn.Module, parts: int, draw_anchors: AnchorDraw) -> LossParts:
    """Choose what computes the losses of a batch at once, or in so many parts."""
    if parts == 1:
        return compute_whole
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        return DenseBatchParts(model, parts=parts)
    return BatchParts(
        model,
        parts=parts,
        regions_per_image=cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE,
        draw_anchors=draw_anchors,
    )
