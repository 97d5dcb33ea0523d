"""Training and evaluation of the portable detector: from a configuration to files and COCO's numbers."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
import yaml
from fvcore.common.config import CfgNode

from resnext_det.config.scaling import scaled_to_processes
from resnext_det.data.coco import CocoDataset, check_same_categories, filter_empty, load_coco
from resnext_det.data.loaders import Loader, build_train_loader
from resnext_det.data.transforms import DetectionMapper
from resnext_det.engines.portable.build import build_detector
from resnext_det.engines.portable.faster_rcnn import GeneralizedRCNN
from resnext_det.engines.portable.inference import evaluate_on, load_detector
from resnext_det.engines.portable.solver import clipper_of, optimizer_of, schedule_of
from resnext_det.evaluation.coco import CocoMetrics
from resnext_det.resnext import check_frozen_layers_are_loaded
from resnext_det.training import distributed
from resnext_det.training.checkpoint import LAST_CHECKPOINT, Checkpointer, load_model_state
from resnext_det.training.loop import Step, train_loop
from resnext_det.training.metrics import MetricsWriter, setup_logging
from resnext_det.training.state import TrainingState
from resnext_det.weights import load_weights

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
"""The file of the output folder that holds the configuration, with the seed that was drawn."""


def train(cfg: CfgNode, *, resume: bool = False) -> dict[str, CocoMetrics]:
    """Train as ``cfg`` says; every process of a training calls it.

    Args:
        resume: go on from the newest checkpoint of ``OUTPUT_DIR``, where there is one. A training that had ended is evaluated.

    Returns:
        COCO's numbers by name of ``DATASETS.TEST``; in other processes than the first an empty dict.

    Raises:
        ValueError, FileNotFoundError: configuration, data or weights are wrong.
        FloatingPointError, TrainingInterrupted: see ``train_loop``.
    """
    device = _set_up(cfg)
    cfg = _seeded(cfg, resume=resume)
    _record(cfg)
    cfg = scaled_to_processes(cfg, distributed.world_size())
    train_sets, test_sets = _load_datasets(cfg.DATASETS.TRAIN, "TRAIN"), _load_datasets(cfg.DATASETS.TEST)
    _check_categories(cfg, train_sets, test_sets)
    model = _build_model(cfg, device)
    state = TrainingState(
        distributed.distribute(model, device), optimizer_of(cfg, model), Checkpointer(cfg.OUTPUT_DIR)
    )
    start = state.resume() if resume else 0
    if start == 0:
        _begin(cfg, model)
    results: dict[str, CocoMetrics] = {}
    with MetricsWriter(cfg.OUTPUT_DIR, total_steps=cfg.SOLVER.MAX_ITER, start=start) as writer:

        def evaluate_now() -> None:
            if test_sets:
                results.update(_evaluate(cfg, model, test_sets))
                writer.put(_scalars(results))

        def evaluate_when_due(step: Step) -> None:
            period, done = cfg.TEST.EVAL_PERIOD, step.iteration + 1
            if done == step.stop or (period > 0 and done % period == 0):
                evaluate_now()

        if start >= cfg.SOLVER.MAX_ITER:
            logger.info("The training had ended after %d iterations; it is evaluated.", start)
            evaluate_now()
        else:
            train_loop(
                model=state.model,
                optimizer=state.optimizer,
                schedule=schedule_of(cfg),
                batches=_train_loader(cfg, train_sets, start),
                start=start,
                stop=cfg.SOLVER.MAX_ITER,
                device=device,
                amp_dtype=torch.bfloat16 if cfg.SOLVER.AMP.ENABLED else None,
                clip=clipper_of(cfg),
                after_step=[state.every(cfg.SOLVER.CHECKPOINT_PERIOD), evaluate_when_due, writer],
                on_interrupt=state.after,
            )
    return results


def evaluate(cfg: CfgNode, *, resume: bool = False) -> dict[str, CocoMetrics]:
    """Evaluate ``MODEL.WEIGHTS``, or with ``resume`` the newest checkpoint of ``OUTPUT_DIR``, on ``DATASETS.TEST``.

    Returns:
        COCO's numbers by name of the set; in other processes than the first an empty dict.

    Raises:
        ValueError, FileNotFoundError: configuration, data or weights are wrong; the weights are not those of a whole detector.
    """
    device = _set_up(cfg)
    if not Path(cfg.OUTPUT_DIR, CONFIG_FILE).exists():  # that of a training stays as it is
        _record(cfg)
    test_sets = _load_datasets(cfg.DATASETS.TEST, "TEST")
    _check_categories(cfg, [], test_sets)
    model = _build_model(cfg, device)
    checkpointer = Checkpointer(cfg.OUTPUT_DIR)
    newest = checkpointer.latest() if resume else None
    if newest is not None:
        load_model_state(model, checkpointer.load(newest)["model"])
        logger.info("Evaluating %s.", newest)
    else:
        load_detector(model, cfg.MODEL.WEIGHTS)
    return _evaluate(cfg, model, test_sets)


def _set_up(cfg: CfgNode) -> torch.device:
    """The device; the output folder is made, and the log goes there."""
    device = distributed.resolve_device(cfg.MODEL.DEVICE)
    try:
        setup_logging(cfg.OUTPUT_DIR)
    except OSError as error:
        raise ValueError(
            f"OUTPUT_DIR = {cfg.OUTPUT_DIR!r} cannot be written to ({error.strerror}: {error.filename}); write another folder"
        ) from error
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION and device.type == "cuda":  # as in detectron2, of no effect on the CPU
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"
    return device


def _seeded(cfg: CfgNode, *, resume: bool) -> CfgNode:
    """Seed torch; a negative ``SEED`` becomes a drawn one, or on resuming the one that the run had, the same in every process."""
    seed = cfg.SEED
    if seed < 0 and distributed.is_main_process():
        file = Path(cfg.OUTPUT_DIR, CONFIG_FILE)
        if resume and file.is_file():
            seed = yaml.safe_load(file.read_text(encoding="utf-8")).get("SEED", -1)
        if seed < 0:
            seed = int.from_bytes(os.urandom(4), "big") % 2**31
            logger.info("SEED is %d; for this run %d was drawn.", cfg.SEED, seed)
    seed = distributed.broadcast_object(seed)
    torch.manual_seed(seed + distributed.rank())
    seeded = cfg.clone()
    seeded.defrost()
    seeded.SEED = seed
    seeded.freeze()
    return seeded


def _record(cfg: CfgNode) -> None:
    """Write config.yaml, whole or not at all."""
    if distributed.is_main_process():
        partial = Path(cfg.OUTPUT_DIR, f"{CONFIG_FILE}.partial")
        partial.write_text(cfg.dump(), encoding="utf-8")
        partial.replace(partial.with_name(CONFIG_FILE))


def _begin(cfg: CfgNode, model: GeneralizedRCNN) -> None:
    """What precedes the first iteration of a training: its weights, and a word on what it will overwrite."""
    if cfg.MODEL.WEIGHTS:
        load_weights(model, cfg.MODEL.WEIGHTS, allow_new_classes=True)
    check_frozen_layers_are_loaded(model)
    if Path(cfg.OUTPUT_DIR, LAST_CHECKPOINT).is_file():
        logger.warning(
            "%s holds checkpoints of an earlier run, and this one, which begins anew, overwrites them; to go on with that run, stop "
            "now and add --resume, or choose another OUTPUT_DIR.",
            cfg.OUTPUT_DIR,
        )


def _load_datasets(names: tuple[str, ...], needed_as: str = "") -> list[CocoDataset]:
    if needed_as and not names:
        example = {"TRAIN": "coco_2017_train", "TEST": "coco_2017_val"}[needed_as]
        raise ValueError(
            f"DATASETS.{needed_as} is empty; name a dataset, such as DATASETS.{needed_as} \"('{example}',)\""
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
