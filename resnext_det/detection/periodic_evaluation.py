"""Evaluate a detector while it is trained: when it is due, and what follows from it."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.config.detection import get_own
from resnext_det.data.coco import CocoDataset
from resnext_det.detection.diagnosis import EvaluationWatch
from resnext_det.detection.evaluation import DatasetMetrics, Look, flatten_metrics
from resnext_det.detection.tensorboard import count_by_score, draw_samples
from resnext_det.detection.validation import PREFIX
from resnext_det.detection.weights import describe_detector
from resnext_det.evaluation.coco import CocoMetrics
from resnext_det.training import distributed
from resnext_det.training.best import Evaluations
from resnext_det.training.loop import Step
from resnext_det.training.metrics import MetricsWriter, read_names
from resnext_det.training.state import TrainingState
from resnext_det.weights.trained_detector import TrainedDetector

logger = logging.getLogger(__name__)


class PeriodicEvaluation:
    """Evaluate a detector in training; call it after each ``Step``, in every process.

    Numbers and losses go to the writer, ``model_final.pth`` gets those of its own evaluation, and
    ``model_best.pth`` the weights whose ``TEST.BEST_METRIC`` is the best so far. TensorBoard shows
    a few images. What an evaluation draws at random is undone.

    Args:
        model: bare, as it is trained.
        state: of the training.
        writer: of the training, which has cut the lines of metrics.json that come again.
        evaluate: computes the numbers by name of ``DATASETS.TEST``; shows the look that it is given
            what was found.
        measure: measures losses on these sets, by their names in metrics.json.
        class_names: of the model's outputs.

    Attributes:
        results: the last numbers; in other processes than the first nothing.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        state: TrainingState,
        writer: MetricsWriter,
        *,
        evaluate: Callable[[Look], Mapping[str, DatasetMetrics]],
        measure: Callable[[], Mapping[str, float]],
        class_names: Sequence[str] = (),
    ) -> None:
        self._cfg, self._state, self._writer = cfg, state, writer
        self._evaluate, self._measure = evaluate, measure
        self._describe = partial(describe_detector, cfg, model, class_names)
        self._metric: str = get_own(cfg, "TEST.BEST_METRIC")
        self._stop: int = cfg.SOLVER.MAX_ITER
        patience = get_own(cfg, "TEST.PATIENCE")
        self._evaluations = Evaluations(cfg.OUTPUT_DIR, self._metric, patience=patience)
        self._watch = EvaluationWatch(cfg)
        self.results: dict[str, DatasetMetrics] = {}

    def __call__(self, step: Step) -> None:
        """Evaluate and measure losses after a step where that is due."""
        done = step.iteration + 1
        if not self._is_due(done) and not self._are_losses_due(done):
            return
        with distributed.fail_together():
            step.check_losses()
        numbers = self._evaluate_after(done) if self._is_due(done) else {}
        losses = self._measure_losses() if self._are_losses_due(done) else {}
        self._writer.put({**numbers, **losses})

    def is_over(self) -> bool:
        """Tell whether the last ``TEST.PATIENCE`` evaluations brought no better one."""
        return self._evaluations.is_over()

    def explain(self) -> str:
        """Say why the training is over."""
        return self._evaluations.explain()

    def make_up(self, start: int) -> None:
        """Do what was due after iteration ``start - 1`` and a run has stopped in."""
        due = self._is_due(start) and bool(self._cfg.DATASETS.TEST)
        lacking = due and not self._is_written(start, "bbox", "box_proposals")
        numbers = self._evaluate_after(start) if lacking else {}
        losses = self._make_up_losses(start)
        if lacking or losses:
            self._writer.put_at(start - 1, {**numbers, **losses})

    def repeat_last(self, start: int, known: TrainedDetector | None) -> None:
        """Evaluate a training that had ended after ``start`` iterations.

        Args:
            known: what its file says of its numbers.
        """
        self._state.save_final(start - 1)
        numbers = self._evaluate_after(start, known)
        self._writer.put({**numbers, **self._make_up_losses(start)})
        if start < self._stop:
            self._writer.put_at(start, {})

    def tell_best(self) -> None:
        """Say which evaluation was the best, and where its weights are."""
        found = filter(_is_main_number, flatten_metrics(self.results))
        metric = distributed.broadcast_object(self._metric or next(found, ""))
        folder = self._cfg.OUTPUT_DIR
        best = Evaluations(folder, metric, patience=0).tell_best(folder, kept=bool(self._metric))
        if best:
            logger.info(best)

    def _is_due(self, done: int) -> bool:
        period = self._cfg.TEST.EVAL_PERIOD
        return done == self._stop or (period > 0 and done > 0 and done % period == 0)

    def _are_losses_due(self, done: int) -> bool:
        """Tell whether losses are to be measured; an early end is known after its evaluation."""
        period = get_own(self._cfg, "TEST.LOSS_PERIOD")
        at_end = done == self._stop or self.is_over()
        return period > 0 and done > 0 and (at_end or done % period == 0)

    def _evaluate_after(
        self, done: int, known: TrainedDetector | None = None
    ) -> Mapping[str, float]:
        """Evaluate and keep the weights; return the numbers for metrics.json."""
        found: Mapping[str, DatasetMetrics] = {}
        if self._cfg.DATASETS.TEST:
            with self._leave_generators():
                found = self._evaluate(partial(self._look, done))
        self.results.update(found)
        numbers = distributed.broadcast_object(_select_defined(found))
        scalars = flatten_metrics(found)
        if self._metric:
            value = distributed.broadcast_object(scalars.setdefault(self._metric, math.nan))
            if self._evaluations.note(done - 1, value):
                self._state.save_best(done - 1, self._describe(numbers))
        if self._cfg.DATASETS.TEST and (done >= self._stop or self.is_over()):
            self._state.save_final(done - 1)
            self._keep_numbers(numbers, known)
        return scalars

    def _look(
        self, done: int, dataset: CocoDataset, rows: Sequence[Any], metrics: CocoMetrics
    ) -> None:
        self._watch.look(dataset, rows, metrics.AP, done)
        if self._writer.takes_pictures:
            for name, picture in draw_samples(dataset, rows):
                self._writer.put_image(name, picture)
            counts = count_by_score(dataset, rows, metrics.max_detections)
            self._writer.put_curve(f"precision_recall/{dataset.name}", counts)

    def _keep_numbers(
        self, numbers: Mapping[str, Mapping[str, float]], known: TrainedDetector | None
    ) -> None:
        """Write model_final.pth again with its numbers that are defined, unless it has them."""
        if known is not None:  # the same weights, perhaps on other test sets
            numbers = {**known.metrics, **numbers}
        if known is None or known.metrics != numbers:
            self._state.facts = self._describe(numbers)
            self._state.add_facts("model_final")

    def _make_up_losses(self, start: int) -> Mapping[str, float]:
        due = self._are_losses_due(start)
        lacking = due and not self._is_written(start, f"{PREFIX}/total_loss")
        return self._measure_losses() if lacking else {}

    def _is_written(self, start: int, *parts: str) -> bool:
        """Tell whether a name in metrics.json, of iteration ``start - 1``, has one of the parts."""
        names = read_names(self._cfg.OUTPUT_DIR, start - 1)
        return any(part in name for name in names for part in parts)

    def _measure_losses(self) -> Mapping[str, float]:
        with self._leave_generators():
            return self._measure()

    @contextmanager
    def _leave_generators(self) -> Iterator[None]:
        """Bring back what is drawn: a run that goes on then draws what it would have without.

        detectron2's mappers draw from the generators of numpy and of Python.
        """
        device = distributed.resolve_device(self._cfg.MODEL.DEVICE)
        devices = [device] if device.type == "cuda" else []
        others = np.random.get_state(), random.getstate()
        try:
            with torch.random.fork_rng(devices=devices):
                yield
        finally:
            np.random.set_state(others[0])
            random.setstate(others[1])


def _select_defined(found: Mapping[str, DatasetMetrics]) -> dict[str, dict[str, float]]:
    """Select the numbers that are defined, by name of the test set."""
    every = {name: metrics.as_dict() for name, metrics in found.items()}
    return {
        name: {key: float(value) for key, value in numbers.items() if not math.isnan(value)}
        for name, numbers in every.items()
    }


def _is_main_number(name: str) -> bool:
    """Tell whether a name in metrics.json is that of a set's AP, or of proposals their recall."""
    return name.rpartition("/")[2] in ("AP", "AR@1000")
