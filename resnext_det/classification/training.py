"""Train a classifier: from a configuration to a file of weights and its top-1."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import torch
from fvcore.common.config import CfgNode

from resnext_det.classification.build import (
    Objective,
    build_augmentation,
    build_classifier,
    build_mixing,
    build_protocol,
    count_iterations,
    get_preprocessing,
    read_optimizer_settings,
    read_schedule_settings,
)
from resnext_det.classification.datasets import open_sets
from resnext_det.classification.evaluation import evaluate_on, flatten_metrics, write_metrics
from resnext_det.classification.weights import (
    BEST,
    FINAL,
    describe_training,
    load_initial_weights,
    read_top1,
    write_classifier,
)
from resnext_det.config.rules import read_settings
from resnext_det.data.contents import describe_images
from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.loaders import build_image_train_loader
from resnext_det.data.workers import Loader
from resnext_det.evaluation.classification import ClassificationMetrics
from resnext_det.forms import convert
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.training import distributed
from resnext_det.training.best import Evaluations
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.loop import Step, train_loop
from resnext_det.training.metrics import MetricsWriter, read_names
from resnext_det.training.optimizer import ClippingSettings, build_clipper, build_optimizer
from resnext_det.training.output_folder import check_output_dir, remove_run
from resnext_det.training.precision import tell_speed_of_precision
from resnext_det.training.schedule import build_schedule
from resnext_det.training.setup import record_config, set_seed, set_up
from resnext_det.training.state import MovingAverage, TrainingState
from resnext_det.training.threads import watch_crowding
from resnext_det.training.watches import watch_training
from resnext_det.weights.conversion import refuse_statement
from resnext_det.weights.preprocessing import Preprocessing, format_preprocessing

logger = logging.getLogger(__name__)

_AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def train(
    cfg: CfgNode,
    *,
    resume: bool = False,
    resume_anyway: bool = False,
    overwrite: bool = False,
    overridden: Collection[str] = (),
    preprocessing: str | None = None,
) -> list[ClassificationMetrics]:
    """Train as ``cfg`` says; every process of a training calls it.

    Args:
        cfg: of the classifier, frozen.
        resume: go on from the newest checkpoint of ``OUTPUT_DIR``, where there is one. A training
            that had ended is tested.
        resume_anyway: where the training set holds something else than it did, too.
        overwrite: remove the run in ``OUTPUT_DIR``; without either, a folder with a run is refused.
        overridden, preprocessing: see ``load_initial_weights``.

    Returns:
        What ``evaluate_on`` finds after the last epoch; nothing where there is no test set.

    Raises:
        ValueError, FileNotFoundError: configuration, data or weights are wrong.
        FloatingPointError, TrainingInterrupted: see ``train_loop``.
    """
    check_output_dir(cfg, resume=resume, overwrite=overwrite)
    device = set_up(cfg)
    cfg = set_seed(cfg, resume=resume)
    train_set, test_set = open_sets(cfg)
    model = build_classifier(cfg, len(train_set.class_names))
    if cfg.MODEL.WEIGHTS:
        load_initial_weights(
            cfg,
            model,
            train_set.class_names,
            overridden=overridden,
            preprocessing=preprocessing,
        )
    else:
        refuse_statement(preprocessing)
    training = _Training(cfg, train_set, test_set, model, device)
    start = training.resume(anyway=resume_anyway) if resume else 0
    if overwrite:
        remove_run(cfg.OUTPUT_DIR)
    record_config(cfg)
    with MetricsWriter(
        cfg.OUTPUT_DIR,
        total_steps=training.stop,
        start=start,
        images_per_step=cfg.SOLVER.IMS_PER_BATCH,
        watches=watch_training(cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS, start),
    ) as writer:
        training.follow_tests()
        if start >= training.stop or training.tests.is_over():
            logger.info("The training had ended after %d iterations; it is tested.", start)
            writer.put(training.test(min(start // training.epoch, cfg.SOLVER.EPOCHS)))
            if start < training.stop:
                writer.put_at(start, {})
        else:
            training.catch_up(start, writer)
            training.run(start, writer)
    training.write_final()
    return training.found


class _Training:
    """Hold the parts of one training, and do what follows its steps: tests and checkpoints."""

    def __init__(
        self,
        cfg: CfgNode,
        train_set: ImageSet,
        test_set: ImageSet | None,
        classifier: ResNeXtClassifier,
        device: torch.device,
    ) -> None:
        self.cfg, self.train_set, self.test_set, self.device = cfg, train_set, test_set, device
        self.epoch = count_iterations(cfg, len(train_set))
        self.stop = cfg.SOLVER.EPOCHS * self.epoch
        self.found: list[ClassificationMetrics] = []
        self.best_top1 = -1.0
        self.epochs = cfg.SOLVER.EPOCHS  # trained so far
        self.classifier = self._prepare(classifier)
        amp, ema = cfg.SOLVER.AMP, cfg.SOLVER.EMA
        self.amp_dtype = _AMP_DTYPES[amp.DTYPE] if amp.ENABLED else None
        self.scaler = torch.amp.GradScaler(device.type) if self.amp_dtype == torch.float16 else None
        self.average = MovingAverage(self.classifier, ema.DECAY) if ema.ENABLED else None
        tested = self.classifier if self.average is None else self.average.model
        self.tested = cast(ResNeXtClassifier, tested)
        classes = _Classes(train_set.class_names)
        images = _Images(get_preprocessing(cfg))
        parts: dict[str, Any] = {"class_names": classes, "preprocessing": images}
        parts |= {"model_ema": self.average, "grad_scaler": self.scaler}
        self.state = TrainingState(
            self.classifier,
            build_optimizer(self.classifier, read_optimizer_settings(cfg)),
            Checkpointer(cfg.OUTPUT_DIR, max_to_keep=cfg.SOLVER.CHECKPOINTS_KEPT),
            facts={"metadata": describe_training(cfg)},
            parts={name: part for name, part in parts.items() if part is not None},
            contents={train_set.name: describe_images(train_set)},
        )

    def _prepare(self, classifier: ResNeXtClassifier) -> ResNeXtClassifier:
        """Bring the classifier, which is of form C, into its form and onto the device."""
        count = sum(parameter.numel() for parameter in classifier.parameters())
        form = self.cfg.MODEL.FORM
        logger.info("%s, %d parameters, form %s", classifier.architecture, count, form)
        if form != "C":
            convert(classifier, form)
        return classifier.to(self.device)

    def resume(self, *, anyway: bool) -> int:
        """Restore the newest checkpoint; return the iteration to start with."""
        self.best_top1 = read_top1(Path(self.cfg.OUTPUT_DIR, BEST))
        return self.state.resume(anyway=anyway)

    def follow_tests(self) -> None:
        """Take note of the tests in metrics.json, whose later lines the writer has cut."""
        patience = self.cfg.TEST.PATIENCE
        self.tests = Evaluations(
            self.cfg.OUTPUT_DIR, "test/top1" if patience else "", patience=patience
        )

    def catch_up(self, start: int, writer: MetricsWriter) -> None:
        """Test once more where an earlier run wrote its checkpoint and was stopped in the test."""
        done = start - 1
        if not self._is_due(done, self.cfg.TEST.EVAL_EPOCHS) or self.test_set is None:
            return
        if "test/top1" not in read_names(self.cfg.OUTPUT_DIR, done):
            writer.put_at(done, self._test_after(done))

    def run(self, start: int, writer: MetricsWriter) -> None:
        """Train from iteration ``start`` to the end."""
        if self.tests.is_over():  # by a test that was caught up with
            return
        cfg = self.cfg
        objective = Objective(self.classifier, cfg.SOLVER.LABEL_SMOOTHING)
        average = [] if self.average is None else [self.average]
        test_when_due = partial(self._test_when_due, writer)
        watch = watch_crowding(self.device, cfg.DATALOADER.NUM_WORKERS)
        tell_speed_of_precision(self.device, self.amp_dtype)
        train_loop(
            model=distributed.distribute(objective, self.device),
            optimizer=self.state.optimizer,
            schedule=build_schedule(read_schedule_settings(cfg, self.epoch)),
            batches=_log_broken_images(self._load_batches(start)),
            start=start,
            stop=self.stop,
            device=self.device,
            amp_dtype=self.amp_dtype,
            scaler=self.scaler,
            clip=build_clipper(read_settings(ClippingSettings, cfg.SOLVER.CLIP_GRADIENTS)),
            after_step=[*average, self._save_when_due, test_when_due, *watch, writer],
            save=self.state.save_after,
            is_over=self.tests.is_over,
        )
        if self.tests.is_over():
            logger.info("The training ends early: %s.", self.tests.explain())

    def test(self, epoch: int) -> dict[str, float]:
        """Test the weights or their average, keep the best, return numbers for metrics.json."""
        self.epochs = epoch
        if self.test_set is None:
            return {}
        self.found = evaluate_on(
            self.tested,
            self.test_set,
            build_protocol(self.cfg),
            outputs=self.train_set.class_names,
            batch_size=self.cfg.TEST.IMS_PER_BATCH,
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
            skip_broken=self.cfg.DATALOADER.SKIP_BROKEN_IMAGES,
            amp_dtype=self.amp_dtype,
        )
        # Rounded as in the file, so that a resumed training decides alike.
        top1 = round(self.found[0].top1, 3) if self.found else -1.0
        if top1 > self.best_top1:
            self.best_top1 = top1
            self._write(BEST, epoch)
        return flatten_metrics(self.found)

    def write_final(self) -> None:
        """Write the weights after the last epoch, and the metrics of the last test."""
        if distributed.is_main_process():
            write_metrics(Path(self.cfg.OUTPUT_DIR), self.found)
            self._write(FINAL, self.epochs)
        distributed.barrier()

    def _load_batches(self, start: int) -> Loader:
        cfg = self.cfg
        processes = distributed.get_world_size()
        return build_image_train_loader(
            self.train_set,
            augmentation=build_augmentation(cfg),
            mixing=build_mixing(cfg, len(self.train_set.class_names)),
            batch_size=distributed.divide_batch(cfg.SOLVER.IMS_PER_BATCH, processes),
            seed=cfg.SEED,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            rank=distributed.get_rank(),
            world_size=processes,
            skip_broken=cfg.DATALOADER.SKIP_BROKEN_IMAGES,
            start_batch=start,
            pin_memory=self.device.type == "cuda",
        )

    def _write(self, name: str, epoch: int) -> None:
        write_classifier(
            Path(self.cfg.OUTPUT_DIR, name),
            self.tested,
            self.cfg,
            class_names=self.train_set.class_names,
            epochs=epoch,
            metrics=self.found[0] if self.found else None,
        )

    def _test_when_due(self, writer: MetricsWriter, step: Step) -> None:
        if self._is_due(step.iteration, self.cfg.TEST.EVAL_EPOCHS):
            with distributed.fail_together():
                step.check_losses()
                writer.put(self._test_after(step.iteration))
            if self.tests.is_over():
                self.state.save_after(step)

    def _test_after(self, iteration: int) -> dict[str, float]:
        numbers = self.test((iteration + 1) // self.epoch)
        if self.tests.metric:
            self.tests.note(iteration, numbers.get(self.tests.metric, float("nan")))
        return numbers

    def _save_when_due(self, step: Step) -> None:
        if self._is_due(step.iteration, self.cfg.SOLVER.CHECKPOINT_EPOCHS):
            self.state.save_after(step)

    def _is_due(self, iteration: int, epochs: int) -> bool:
        """Tell whether an iteration is the last one, or the last of every ``epochs`` epochs."""
        done = iteration + 1
        return done == self.stop or (done > 0 and epochs > 0 and done % (epochs * self.epoch) == 0)


class _Classes:
    """Save a training's classes in its checkpoints, and refuse to resume with others."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = list(class_names)

    def state_dict(self) -> Any:
        return self._names

    def load_state_dict(self, state_dict: Any) -> None:
        if state_dict != self._names:
            pairs = zip_longest(state_dict, self._names)
            was, now = next((was, now) for was, now in pairs if was != now)
            raise ValueError(
                f"the checkpoint is of {len(state_dict)} classes and DATASETS.TRAIN has "
                f"{len(self._names)}, or they differ (first {was!r}, now {now!r}); resume with the "
                "same set, or start anew from the weights: MODEL.WEIGHTS, without --resume"
            )


class _Images:
    """Save a training's preprocessing in its checkpoints, and refuse to resume with another."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing

    def state_dict(self) -> Any:
        return self._preprocessing.as_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        was, now = map(
            format_preprocessing, (Preprocessing.from_dict(state_dict), self._preprocessing)
        )
        if was != now:
            raise ValueError(
                f"the checkpoint was trained on images {was}, and the configuration now says {now} "
                "(INPUT.FORMAT, MODEL.PIXEL_MEAN, PIXEL_STD and RESNETS.STRIDE_IN_1X1); resume "
                "with the same, or start anew from the weights: MODEL.WEIGHTS, without --resume"
            )


def _log_broken_images(loader: Loader) -> Iterator[dict[str, Any]]:
    """Pass batches on, and log each broken image in whose place another one was loaded, once."""
    known: set[str] = set()
    for batch in loader:
        for name, reason in batch["broken"]:
            if name not in known:
                known.add(name)
                logger.warning("Another image is taken in place of a broken one: %s", reason)
        yield batch
