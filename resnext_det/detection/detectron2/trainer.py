"""detectron2's DefaultTrainer with this project's data, weights, checkpoints and evaluation, and its way to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer, TrainerBase, hooks
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from resnext_det.config.detection import scale_to_processes
from resnext_det.detection.detectron2.configuration import uses_our_backbone
from resnext_det.detection.detectron2.datasets import Data, TrainingBatches
from resnext_det.detection.detectron2.evaluation import evaluate_all
from resnext_det.detection.evaluation import scalars
from resnext_det.detection.weights import begin, facts_for_checkpoints
from resnext_det.training import distributed
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.interruption import StopRequest, TrainingInterrupted
from resnext_det.training.loop import LossWatch, Step
from resnext_det.training.metrics import PERIOD, MetricsWriter
from resnext_det.training.optimizer import get_learning_rate
from resnext_det.training.state import TrainingState

_TOLD_BY_MODELS = (
    "rpn/",
    "roi_head/",
    "fast_rcnn/",
    "mask_rcnn/",
    "keypoint_rcnn/",
    "retinanet",
    "num_",
)


class Trainer(DefaultTrainer):
    """A ``DefaultTrainer`` whose runs equal the portable engine's, and may go on there.

    Differences from its parent: batches are a pure function of ``SEED``; loading is strict; a checkpoint is whole or absent, and
    holds the random numbers; Ctrl-C leaves one; mixed precision is bfloat16, also on the CPU; several processes may be CPU ones.

    Args:
        cfg: detectron2's configuration with a ``SEED`` of 0 or more, by which torch has been seeded.
        data: the datasets, as ``load_data`` loads them.

    Attributes:
        results: COCO's numbers by name of ``DATASETS.TEST``, after an evaluation.
    """

    def __init__(self, cfg: CfgNode, data: Data) -> None:
        # DefaultTrainer's own would load the data by itself, and several processes on GPUs alone.
        TrainerBase.__init__(self)
        self.cfg = cfg = scale_to_processes(cfg, distributed.get_world_size())
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.data = data
        self.results: dict[str, Any] = {}
        self.batches = TrainingBatches(partial(data.batches, cfg))
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        amp_dtype = torch.bfloat16 if cfg.SOLVER.AMP.ENABLED else None
        self.device = device = distributed.resolve_device(cfg.MODEL.DEVICE)
        parts = (distributed.distribute(model, device), self.batches, optimizer)
        self.steps = self._trainer = _Steps(
            *parts, stop=self.max_iter, device=device, amp_dtype=amp_dtype
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.state = TrainingState(self.model, optimizer, Checkpointer(cfg.OUTPUT_DIR))
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """detectron2's model; on our backbone, its C4 head has our res5, which is faster and computes what the portable engine's does."""
        if cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads" and uses_our_backbone(cfg):
            cfg = cfg.clone()
            cfg.defrost()
            cfg.MODEL.ROI_HEADS.NAME = "ResNeXtRes5ROIHeads"
        try:
            return build_model(cfg)
        except (AssertionError, KeyError) as error:
            raise ValueError(
                f"detectron2 cannot build this model: {error}; correct the keys of MODEL that it speaks of"
            ) from error

    def build_hooks(self) -> list[HookBase]:
        """As the parent's, in its order; saving, evaluation and writing are the portable engine's."""
        cfg, periodic = self.cfg, [hooks.IterationTimer(), hooks.LRScheduler()]
        if cfg.TEST.PRECISE_BN.ENABLED:
            batches = TrainingBatches(self.batches.make)
            periodic.append(
                hooks.PreciseBN(
                    cfg.TEST.EVAL_PERIOD, self.model, batches, cfg.TEST.PRECISE_BN.NUM_ITER
                )
            )
        after_step = (
            self.state.save_every(cfg.SOLVER.CHECKPOINT_PERIOD),
            self._evaluate_when_due,
            self._write,
        )
        periodic += [_After(call) for call in after_step]
        return periodic

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the newest checkpoint of ``OUTPUT_DIR``, of either engine; where there is none, load ``MODEL.WEIGHTS``.

        Raises:
            ValueError, FileNotFoundError: see ``TrainingState.resume`` and ``load_weights``.
        """
        start = self.state.resume() if resume else 0
        model = distributed.unwrap(self.model)
        if start == 0:
            begin(self.cfg, model)
        self.state.facts = facts_for_checkpoints(self.cfg, model)
        self.start_iter = self.iter = self.batches.start = self.scheduler.last_epoch = start

    def train(self) -> dict[str, Any]:
        """Train to the end, and evaluate; a training that had ended is evaluated.

        Raises:
            FloatingPointError, TrainingInterrupted: see ``train_loop``.
        """
        with MetricsWriter(
            self.cfg.OUTPUT_DIR, total_steps=self.max_iter, start=self.start_iter
        ) as self.writer:
            if self.start_iter >= self.max_iter:
                self.evaluate()
            else:
                self._train()
        return self.results

    def _train(self) -> None:
        with StopRequest() as stop, EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                for iteration in range(self.start_iter, self.max_iter):
                    self.iter = iteration
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if stop.is_made():
                        raise TrainingInterrupted(self.state.save_after(self.steps.done), iteration)
                self.iter += 1
            finally:
                self.after_train()

    def after_step(self) -> None:
        """The hooks, without effect on the random numbers of the training."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            super().after_step()

    def evaluate(self) -> dict[str, Any]:
        """COCO's numbers of the model as it is, also in metrics.json; in other processes than the first an empty dict."""
        if self.cfg.DATASETS.TEST:
            self.results.update(evaluate_all(self.cfg, distributed.unwrap(self.model), self.data))
            self.writer.put(scalars(self.results))
        return self.results

    def _evaluate_when_due(self, step: Step) -> None:
        period, done = self.cfg.TEST.EVAL_PERIOD, step.iteration + 1
        if done == step.stop or (period > 0 and done % period == 0):
            found = {
                name: value
                for name, value in scalars(self.evaluate()).items()
                if math.isfinite(value)
            }
            self.storage.put_scalars(
                **found, smoothing_hint=False
            )  # for hooks that look for the best

    def _write(self, step: Step) -> None:
        """The line of every 20 iterations, with what detectron2's models tell of anchors and regions."""
        latest = self.storage.latest()
        told = {name: latest[name][0] for name in latest if name.startswith(_TOLD_BY_MODELS)}
        if (step.iteration + 1) % PERIOD == 0 or step.iteration == step.stop - 1:
            self.writer.put(told)
        self.writer(step)


class _Steps(SimpleTrainer):
    """SimpleTrainer's step in bfloat16 or float32, on any device.

    Attributes:
        done: the finished step, for what is called after a step in either engine.
    """

    done: Step

    def __init__(
        self, *parts: Any, stop: int, device: torch.device, amp_dtype: torch.dtype | None
    ) -> None:
        super().__init__(*parts)
        self._stop, self._device, self._amp_dtype = stop, device, amp_dtype
        self._watch = LossWatch(device)

    def run_step(self) -> None:
        began = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_seconds = time.perf_counter() - began
        self.optimizer.zero_grad()
        mixed = torch.autocast(
            self._device.type, dtype=self._amp_dtype, enabled=self._amp_dtype is not None
        )
        with self._watch.name_errors(self.iter, batch), mixed:
            losses = self._losses(batch)
        detached = {name: loss.detach() for name, loss in losses.items()}
        self._watch.look(self.iter, batch, detached, last=self.iter == self._stop - 1)
        reduce(torch.add, losses.values()).backward()
        self.after_backward()
        self.optimizer.step()
        self.done = Step(
            iteration=self.iter,
            stop=self._stop,
            losses=detached,
            learning_rate=get_learning_rate(self.optimizer),
            data_seconds=data_seconds,
            seconds=time.perf_counter() - began,
            check_losses=self._watch.check,
        )

    def _losses(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        try:
            return self.model(batch)
        except AttributeError as error:
            missing = next(
                (name for name in ("masks", "keypoints") if f"'gt_{name}'" in str(error)), None
            )
            if missing is None:
                raise
            files = ", ".join(str(sample["file_name"]) for sample in batch)
            raise ValueError(
                f"the annotations of {files} have no {missing}, on which MODEL.{missing.upper()[:-1]}_ON = True trains; write False, or "
                f"annotations with {missing}"
            ) from error


class _After(HookBase):
    """A hook of something that is called after a step in either engine."""

    def __init__(self, call: Callable[[Step], None]) -> None:
        self._call = call

    def after_step(self) -> None:
        self._call(self.trainer.steps.done)
