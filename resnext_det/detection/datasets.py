"""The datasets that a configuration names, and the training batches made of them, alike in both engines."""

from __future__ import annotations

from dataclasses import replace

from fvcore.common.config import CfgNode

from resnext_det.data.coco import CocoDataset, check_same_categories, filter_empty, load_coco
from resnext_det.data.loaders import build_train_loader
from resnext_det.data.proposals import add_proposals
from resnext_det.data.transforms import DetectionMapper
from resnext_det.data.workers import Loader
from resnext_det.training import distributed


def load_train_sets(cfg: CfgNode) -> list[CocoDataset]:
    """``DATASETS.TRAIN``, with proposals where ``MODEL.LOAD_PROPOSALS`` asks for them.

    Raises:
        ValueError, FileNotFoundError: there is none; see ``load_coco`` and ``add_proposals``.
    """
    sets = load_datasets(cfg.DATASETS.TRAIN, "TRAIN")
    return (
        _add_proposals(sets, cfg.DATASETS.PROPOSAL_FILES_TRAIN)
        if cfg.MODEL.LOAD_PROPOSALS
        else sets
    )


def load_test_sets(cfg: CfgNode, *, needed: bool = False) -> list[CocoDataset]:
    """``DATASETS.TEST``, as ``load_train_sets``; an empty list is refused where one is needed."""
    sets = load_datasets(cfg.DATASETS.TEST, "TEST" if needed else "")
    return (
        _add_proposals(sets, cfg.DATASETS.PROPOSAL_FILES_TEST) if cfg.MODEL.LOAD_PROPOSALS else sets
    )


def _add_proposals(sets: list[CocoDataset], files: tuple[str, ...]) -> list[CocoDataset]:
    return [
        replace(dataset, records=add_proposals(dataset.records, file, name=dataset.name))
        for dataset, file in zip(sets, files, strict=True)
    ]


def load_datasets(names: tuple[str, ...], needed_as: str = "") -> list[CocoDataset]:
    """The datasets of these names, without proposals; ``needed_as``, TRAIN or TEST, refuses an empty list.

    Raises:
        ValueError, FileNotFoundError: see ``load_coco``.
    """
    if needed_as and not names:
        example = {"TRAIN": "coco_2017_train", "TEST": "coco_2017_val"}[needed_as]
        raise ValueError(
            f"DATASETS.{needed_as} is empty; name a dataset, such as DATASETS.{needed_as} \"('{example}',)\""
        )
    return [load_coco(name) for name in names]


def check_categories(
    cfg: CfgNode, train_sets: list[CocoDataset], test_sets: list[CocoDataset]
) -> None:
    """Refuse datasets of different categories, or of another number than the model's; proposals have no category."""
    every = [*train_sets, *test_sets]
    check_same_categories(train_sets, test_sets)
    count = len(every[0].class_names)
    if (
        count != cfg.MODEL.ROI_HEADS.NUM_CLASSES
        and cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork"
    ):
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES = {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but dataset {every[0].name!r} has {count} categories; "
            f"write {count}"
        )


def train_loader(cfg: CfgNode, train_sets: list[CocoDataset], start: int) -> Loader:
    """The training batches of this process, from iteration ``start`` on."""
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
            proposal_topk=cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN
            if cfg.MODEL.LOAD_PROPOSALS
            else None,
        ),
        batch_size=distributed.divide_batch(cfg.SOLVER.IMS_PER_BATCH, distributed.get_world_size()),
        seed=cfg.SEED,
        num_workers=loader.NUM_WORKERS,
        rank=distributed.get_rank(),
        world_size=distributed.get_world_size(),
        aspect_ratio_grouping=loader.ASPECT_RATIO_GROUPING,
        sampler=loader.SAMPLER_TRAIN,
        repeat_threshold=loader.REPEAT_THRESHOLD,
        repeat_sqrt=loader.REPEAT_SQRT,
        start_batch=start,
    )


def test_mapper(cfg: CfgNode) -> DetectionMapper:
    """From a record to the sample that is evaluated."""
    return DetectionMapper(
        False,
        min_sizes=(cfg.INPUT.MIN_SIZE_TEST,),
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        image_format=cfg.INPUT.FORMAT,
        proposal_topk=cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST
        if cfg.MODEL.LOAD_PROPOSALS
        else None,
    )
