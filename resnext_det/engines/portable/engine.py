"""Training and evaluation of the portable detector: from a configuration to files and COCO's numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.config.scaling import scaled_to_processes
from resnext_det.data.coco import CocoDataset, check_same_categories, filter_empty, load_coco
from resnext_det.data.loaders import Loader, build_train_loader
from resnext_det.data.transforms import DetectionMapper
from resnext_det.engines.portable.build import build_detector
from resnext_det.engines.portable.faster_rcnn import GeneralizedRCNN
from resnext_det.engines.portable.inference import evaluate_on
from resnext_det.evaluation.coco import CocoMetrics
from resnext_det.resnext import check_frozen_layers_are_loaded
from resnext_det.training import distributed
from resnext_det.training.checkpoint import Checkpointer, load_model_state
from resnext_det.training.loop import Step, train_loop
from resnext_det.training.metrics import MetricsWriter, setup_logging
from resnext_det.training.optimizer import build_optimizer, gradient_clipper
from resnext_det.training.schedule import LearningRateSchedule, build_schedule
from resnext_det.training.state import TrainingState
from resnext_det.weights import load_weights

logger = logging.getLogger(__name__)


def train(cfg: CfgNode, *, resume: bool = False) -> dict[str, CocoMetrics]:
    """Train as ``cfg`` says; every process of a training calls it.

    Returns:
        COCO's numbers by name of ``DATASETS.TEST``; in other processes than the first an empty dict.

    Raises:
        ValueError, FileNotFoundError: configuration, data or weights are wrong.
        FloatingPointError, TrainingInterrupted: see ``train_loop``.
    """
    cfg = scaled_to_processes(cfg, distributed.world_size())
    device = _set_up(cfg)
    train_sets, test_sets = _load_datasets(cfg.DATASETS.TRAIN, "TRAIN"), _load_datasets(cfg.DATASETS.TEST)
    _check_categories(cfg, train_sets, test_sets)
    model = _build_model(cfg, device)
    state = TrainingState(
        distributed.distribute(model, device), _optimizer(cfg, model), Checkpointer(cfg.OUTPUT_DIR)
    )
    start = state.resume() if resume else 0
    if start == 0:
        if cfg.MODEL.WEIGHTS:
            load_weights(model, cfg.MODEL.WEIGHTS)
        check_frozen_layers_are_loaded(model)
    results: dict[str, CocoMetrics] = {}
    if start >= cfg.SOLVER.MAX_ITER:
        logger.info("the training had already ended after %d iterations; evaluating it", start)
        return _evaluate(cfg, model, test_sets)
    with MetricsWriter(cfg.OUTPUT_DIR, total_steps=cfg.SOLVER.MAX_ITER, start=start) as writer:

        def evaluate_when_due(step: Step) -> None:
            period = cfg.TEST.EVAL_PERIOD
            done = step.iteration + 1
            if test_sets and (done == step.stop or (period > 0 and done % period == 0)):
                results.update(_evaluate(cfg, model, test_sets))
                writer.put(_scalars(results))

        train_loop(
            model=state.model,
            optimizer=state.optimizer,
            schedule=_schedule(cfg),
            batches=_train_loader(cfg, train_sets, start),
            start=start,
            stop=cfg.SOLVER.MAX_ITER,
            device=device,
            amp_dtype=torch.bfloat16 if cfg.SOLVER.AMP.ENABLED else None,
            clip=_clipper(cfg),
            after_step=[state.every(cfg.SOLVER.CHECKPOINT_PERIOD), evaluate_when_due, writer],
            on_interrupt=state.after,
        )
    return results


def evaluate(cfg: CfgNode, *, resume: bool = False) -> dict[str, CocoMetrics]:
    """Evaluate ``MODEL.WEIGHTS``, or with ``resume`` the newest checkpoint of ``OUTPUT_DIR``, on ``DATASETS.TEST``."""
    device = _set_up(cfg)
    test_sets = _load_datasets(cfg.DATASETS.TEST, "TEST")
    _check_categories(cfg, [], test_sets)
    model = _build_model(cfg, device)
    newest = Checkpointer(cfg.OUTPUT_DIR).latest() if resume else None
    if newest is not None:
        load_model_state(model, Checkpointer(cfg.OUTPUT_DIR).load(newest)["model"])
        logger.info("evaluating %s", newest)
    elif cfg.MODEL.WEIGHTS:
        load_weights(model, cfg.MODEL.WEIGHTS)
    else:
        logger.warning("MODEL.WEIGHTS is empty: the random weights of a new detector are evaluated")
    return _evaluate(cfg, model, test_sets)


def _set_up(cfg: CfgNode) -> torch.device:
    device = distributed.resolve_device(cfg.MODEL.DEVICE)
    output_dir = Path(cfg.OUTPUT_DIR)
    output_dir.mkdir(parents=True, exist_ok=True)
    setup_logging(output_dir)
    if distributed.is_main_process():
        (output_dir / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    if cfg.SEED < 0:
        torch.seed()
    else:
        torch.manual_seed(cfg.SEED + distributed.rank())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION:
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"
    return device


def _load_datasets(names: tuple[str, ...], needed_as: str = "") -> list[CocoDataset]:
    if needed_as and not names:
        raise ValueError(
            f"DATASETS.{needed_as} is empty; name a dataset, such as ('coco_2017_{needed_as.lower()}',)"
        )
    return [load_coco(name) for name in names]


def _check_categories(cfg: CfgNode, train_sets: list[CocoDataset], test_sets: list[CocoDataset]) -> None:
    every = [*train_sets, *test_sets]
    check_same_categories(train_sets, test_sets)
    count = len(every[0].class_names)
    if count != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES = {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but dataset {every[0].name!r} has {count} categories; "
            f"write {count}"
        )


def _build_model(cfg: CfgNode, device: torch.device) -> GeneralizedRCNN:
    model = build_detector(cfg).to(device)
    logger.info("%d parameters", sum(parameter.numel() for parameter in model.parameters()))
    return model


def _optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.SGD:
    solver = cfg.SOLVER
    return build_optimizer(
        model,
        base_lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
    )


def _schedule(cfg: CfgNode) -> LearningRateSchedule:
    solver = cfg.SOLVER
    return build_schedule(
        solver.LR_SCHEDULER_NAME,
        max_iter=solver.MAX_ITER,
        steps=solver.STEPS,
        gamma=solver.GAMMA,
        base_lr=solver.BASE_LR,
        base_lr_end=solver.BASE_LR_END,
        num_decays=solver.NUM_DECAYS,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_method=solver.WARMUP_METHOD,
        rescale_interval=solver.RESCALE_INTERVAL,
    )


def _clipper(cfg: CfgNode) -> Callable[[torch.optim.Optimizer], None] | None:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    return gradient_clipper(clip_type=clip.CLIP_TYPE, clip_value=clip.CLIP_VALUE, norm_type=clip.NORM_TYPE)


def _train_loader(cfg: CfgNode, train_sets: list[CocoDataset], start: int) -> Loader:
    loader, image = cfg.DATALOADER, cfg.INPUT
    records = [record for dataset in train_sets for record in dataset.records]
    return build_train_loader(
        filter_empty(records) if loader.FILTER_EMPTY_ANNOTATIONS else records,
        mapper=DetectionMapper(
            True,
            min_sizes=image.MIN_SIZE_TRAIN,
            max_size=image.MAX_SIZE_TRAIN,
            sampling=image.MIN_SIZE_TRAIN_SAMPLING,
            flip=image.RANDOM_FLIP,
            image_format=image.FORMAT,
        ),
        batch_size=distributed.share_of_batch(cfg.SOLVER.IMS_PER_BATCH, distributed.world_size()),
        seed=cfg.SEED,
        num_workers=loader.NUM_WORKERS,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        aspect_ratio_grouping=loader.ASPECT_RATIO_GROUPING,
        sampler=loader.SAMPLER_TRAIN,
        repeat_threshold=loader.REPEAT_THRESHOLD,
        repeat_sqrt=loader.REPEAT_SQRT,
        start_batch=start,
    )


def _evaluate(cfg: CfgNode, model: GeneralizedRCNN, test_sets: list[CocoDataset]) -> dict[str, CocoMetrics]:
    folder = Path(cfg.OUTPUT_DIR, "inference")
    results = {}
    for dataset in test_sets:
        found = evaluate_on(
            model,
            dataset,
            mapper=DetectionMapper(
                False,
                min_sizes=(cfg.INPUT.MIN_SIZE_TEST,),
                max_size=cfg.INPUT.MAX_SIZE_TEST,
                image_format=cfg.INPUT.FORMAT,
            ),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            output_dir=folder if len(test_sets) == 1 else folder / dataset.name,
        )
        if found is not None:
            results[dataset.name] = found
    return results


def _scalars(results: dict[str, CocoMetrics]) -> dict[str, float]:
    """TensorBoard's and metrics.json's names: bbox/AP, or NAME/bbox/AP where several sets are evaluated."""
    return {
        f"bbox/{key}" if len(results) == 1 else f"{name}/bbox/{key}": value
        for name, metrics in results.items()
        for key, value in metrics.as_dict().items()
    }
