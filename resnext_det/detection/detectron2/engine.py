"""Train and evaluate by detectron2: the same work, files and numbers as the portable engine's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase, hooks
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from resnext_det.config.detection import scale_to_processes
from resnext_det.detection.detectron2.configuration import load_config, uses_our_backbone
from resnext_det.detection.detectron2.datasets import Data, load_data
from resnext_det.detection.detectron2.evaluation import evaluate_all
from resnext_det.detection.evaluation import (
    DatasetMetrics,
    check_proposes,
    flatten_metrics,
    propose_on_all,
)
from resnext_det.detection.weights import (
    describe_preprocessing,
    load_initial_weights,
    load_trained,
)
from resnext_det.training import distributed
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.interruption import StopRequest, TrainingInterrupted
from resnext_det.training.loop import LossWatch, Step
from resnext_det.training.metrics import PERIOD, MetricsWriter
from resnext_det.training.optimizer import get_learning_rate
from resnext_det.training.setup import CONFIG_FILE, record_config, set_seed, set_up
from resnext_det.training.state import TrainingState

__all__ = ["evaluate", "load_config", "propose", "train"]

# How the names begin of what detectron2's models tell of anchors and regions.
_TOLD_BY_MODELS = (
    "rpn/",
    "roi_head/",
    "fast_rcnn/",
    "mask_rcnn/",
    "keypoint_rcnn/",
    "retinanet",
    "num_",
)


def train(cfg: CfgNode, *, resume: bool = False) -> dict[str, DatasetMetrics]:
    """Train a detector and evaluate it, as the portable engine's ``train``."""
    _set_up(cfg)
    cfg = set_seed(cfg, resume=resume)
    record_config(cfg)
    return Trainer(cfg, load_data(cfg, training=True)).run(resume=resume)


def evaluate(cfg: CfgNode, *, resume: bool = False) -> dict[str, DatasetMetrics]:
    """Evaluate a trained detector, as the portable engine's ``evaluate``."""
    _set_up(cfg)
    if not Path(cfg.OUTPUT_DIR, CONFIG_FILE).exists():  # that of a training stays as it is
        record_config(cfg)
    data = load_data(cfg, training=False)
    model = build_detector(cfg)
    load_trained(cfg, model, resume=resume)
    return evaluate_all(cfg, model, data)


def propose(cfg: CfgNode, files: Mapping[str, str | Path], *, resume: bool = False) -> None:
    """Write the proposals of a trained ProposalNetwork, as the portable engine's ``propose``."""
    check_proposes(cfg)
    _set_up(cfg)
    model = build_detector(cfg)
    load_trained(cfg, model, resume=resume)
    propose_on_all(cfg, model, files)


def build_detector(cfg: CfgNode) -> nn.Module:
    """Build detectron2's model; on our backbone, its C4 head gets our res5.

    Our res5 is faster than detectron2's, and computes what the portable engine's does.

    Raises:
        ValueError: detectron2 refuses the model.
    """
    if cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads" and uses_our_backbone(cfg):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.ROI_HEADS.NAME = "ResNeXtRes5ROIHeads"
    try:
        return build_model(cfg)
    except (AssertionError, KeyError) as error:
        raise ValueError(
            f"detectron2 cannot build this model: {error}; correct the keys of MODEL that it names"
        ) from error


class Trainer(TrainerBase):
    """Train a detectron2 model in a run that equals the portable engine's, and may go on there.

    Batches are a pure function of ``SEED``; loading is strict; a checkpoint is whole or absent, and
    holds the random numbers; Ctrl-C leaves one; mixed precision is bfloat16, also on the CPU;
    several processes may run on the CPU.

    Args:
        cfg: detectron2's configuration with a ``SEED`` of 0 or more, by which torch was seeded.
        data: the datasets, as ``load_data`` loads them.

    Attributes:
        done: the step that was finished last.
        results: COCO's numbers by name of ``DATASETS.TEST``, after an evaluation.
    """

    done: Step

    def __init__(self, cfg: CfgNode, data: Data) -> None:
        super().__init__()
        self.cfg = cfg = scale_to_processes(cfg, distributed.get_world_size())
        self.data = data
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.results: dict[str, DatasetMetrics] = {}
        model = build_detector(cfg)
        self.optimizer = build_optimizer(cfg, model)
        self.device = distributed.resolve_device(cfg.MODEL.DEVICE)
        self.model = distributed.distribute(model, self.device).train()
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.state = TrainingState(self.model, self.optimizer, Checkpointer(cfg.OUTPUT_DIR))
        self.watch = LossWatch(self.device)
        self.register_hooks([hooks.IterationTimer(), hooks.LRScheduler()])
        if cfg.TEST.PRECISE_BN.ENABLED:
            period, number = cfg.TEST.EVAL_PERIOD, cfg.TEST.PRECISE_BN.NUM_ITER
            batches = data.iterate_batches(cfg, 0)
            self.register_hooks([hooks.PreciseBN(period, self.model, batches, number)])
        self.calls: tuple[Callable[[Step], None], ...] = (
            self.state.save_every(cfg.SOLVER.CHECKPOINT_PERIOD),
            self._evaluate_when_due,
            self._write,
        )

    def run(self, *, resume: bool) -> dict[str, DatasetMetrics]:
        """Train to the end, and evaluate; a training that had ended is evaluated.

        Args:
            resume: go on from the newest checkpoint of ``OUTPUT_DIR``, of either engine, if there
                is one.

        Raises:
            ValueError, FileNotFoundError: see ``TrainingState.resume`` and
                ``load_initial_weights``.
            FloatingPointError, TrainingInterrupted: see ``train_loop``.
        """
        start = self.state.resume() if resume else 0
        model = distributed.unwrap(self.model)
        if start == 0:
            load_initial_weights(self.cfg, model)
        self.state.facts = describe_preprocessing(self.cfg, model)
        self.start_iter = self.iter = self.scheduler.last_epoch = start
        with MetricsWriter(self.cfg.OUTPUT_DIR, total_steps=self.max_iter, start=start) as writer:
            self.writer = writer
            if start < self.max_iter:
                self._train()
            else:
                self._evaluate()
        return self.results

    def _train(self) -> None:
        self.batches = self.data.iterate_batches(self.cfg, self.start_iter)
        with StopRequest() as stop, EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                for iteration in range(self.start_iter, self.max_iter):
                    self.iter = iteration
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if stop.is_made():
                        raise TrainingInterrupted(self.state.save_after(self.done), iteration)
                self.iter += 1
            finally:
                self.after_train()

    def run_step(self) -> None:
        """Make a training step in float32 or bfloat16, on any device."""
        began = time.perf_counter()
        batch = next(self.batches)
        data_seconds = time.perf_counter() - began
        self.optimizer.zero_grad()
        mixed = torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.cfg.SOLVER.AMP.ENABLED
        )
        with self.watch.name_errors(self.iter, batch), mixed:
            losses = self._compute_losses(batch)
        detached = {name: loss.detach() for name, loss in losses.items()}
        self.watch.look(self.iter, batch, detached, last=self.iter == self.max_iter - 1)
        reduce(torch.add, losses.values()).backward()
        self.after_backward()
        self.optimizer.step()
        self.done = Step(
            iteration=self.iter,
            stop=self.max_iter,
            losses=detached,
            learning_rate=get_learning_rate(self.optimizer),
            data_seconds=data_seconds,
            seconds=time.perf_counter() - began,
            check_losses=self.watch.check,
        )

    def after_step(self) -> None:
        """Run the hooks, save, evaluate and write; torch's random numbers stay as they are."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            super().after_step()
            for call in self.calls:
                call(self.done)

    def _compute_losses(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        try:
            return self.model(batch)
        except AttributeError as error:
            kinds = ("masks", "keypoints")
            missing = next((name for name in kinds if f"'gt_{name}'" in str(error)), None)
            if missing is None:
                raise
            files = ", ".join(str(sample["file_name"]) for sample in batch)
            raise ValueError(
                f"the annotations of {files} have no {missing}, on which "
                f"MODEL.{missing.upper()[:-1]}_ON = True trains; write False, or annotations with "
                f"{missing}"
            ) from error

    def _evaluate(self) -> None:
        if self.cfg.DATASETS.TEST:
            self.results.update(evaluate_all(self.cfg, distributed.unwrap(self.model), self.data))
            self.writer.put(flatten_metrics(self.results))

    def _evaluate_when_due(self, step: Step) -> None:
        period, done = self.cfg.TEST.EVAL_PERIOD, step.iteration + 1
        if done == step.stop or (period > 0 and done % period == 0):
            self._evaluate()

    def _write(self, step: Step) -> None:
        """Write the line of every 20 iterations, with what detectron2's models tell."""
        latest = self.storage.latest()
        told = {name: latest[name][0] for name in latest if name.startswith(_TOLD_BY_MODELS)}
        if (step.iteration + 1) % PERIOD == 0 or step.iteration == step.stop - 1:
            self.writer.put(told)
        self.writer(step)


def _set_up(cfg: CfgNode) -> None:
    set_up(cfg, log_too=("detectron2", "fvcore"))
    if distributed.get_world_size() > 1 and comm._LOCAL_PROCESS_GROUP is None:
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
