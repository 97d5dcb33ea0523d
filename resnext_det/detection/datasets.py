"""Load the datasets that a configuration names, and make batches and samples of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.config.detection import get_own
from resnext_det.config.parts import find_class_node
from resnext_det.config.rules import get_value
from resnext_det.data.anchor_fit import AnchorGrid
from resnext_det.data.coco import (
    CocoDataset,
    check_same_categories,
    filter_empty,
    load_coco,
    map_classes,
)
from resnext_det.data.color_jitter import ColorJitter
from resnext_det.data.contents import Contents, describe_records
from resnext_det.data.crops import RandomCrop, ScaleJitter
from resnext_det.data.geometry import check_cutting
from resnext_det.data.inspection.box_forms import list_annotations
from resnext_det.data.inspection.datasets import inspect_datasets
from resnext_det.data.inspection.masks import count_lacking, find_mask_faults
from resnext_det.data.loaders import build_train_loader
from resnext_det.data.proposals import add_proposals
from resnext_det.data.records import join_records, pack_records
from resnext_det.data.statistics import ModelView, SetStatistics, summarize_boxes
from resnext_det.data.transforms import DetectionMapper, ResizeShortestEdge, Stretch
from resnext_det.data.workers import Loader
from resnext_det.detection.advice import find_mistakes
from resnext_det.files import escape_controls, list_first
from resnext_det.training import distributed
from resnext_det.weights import WeightFile

logger = logging.getLogger(__name__)

CLASS_KEYS = ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES")
"""The number of classes, of Faster R-CNN and of detectron2's RetinaNet."""

_PATIENCE = timedelta(hours=12)  # for a look at every image


def check_named(cfg: CfgNode, split: str) -> None:
    """Refuse an empty ``DATASETS.TRAIN`` or ``DATASETS.TEST``.

    Args:
        split: "TRAIN" or "TEST".

    Raises:
        ValueError: it names no dataset.
    """
    if not cfg.DATASETS[split]:
        example = {"TRAIN": "coco_2017_train", "TEST": "coco_2017_val"}[split]
        raise ValueError(
            f"DATASETS.{split} is empty; name a dataset, such as DATASETS.{split} "
            f"\"('{example}',)\", or give its files with --{split.lower()}-data"
        )


def load_datasets(
    cfg: CfgNode, split: str, *, needed: bool = True, in_training: bool = True
) -> list[CocoDataset]:
    """Load ``DATASETS.TRAIN`` or ``DATASETS.TEST``, as the model needs them.

    That is with masks where ``MODEL.MASK_ON``, and with proposals where ``MODEL.LOAD_PROPOSALS``.

    Args:
        split: "TRAIN" or "TEST".
        needed: refuse an empty list.
        in_training: check test sets for what ``TEST.LOSS_PERIOD`` and ``TEST.BEST_METRIC`` of a
            training need, too.

    Raises:
        ValueError, FileNotFoundError: the list is empty; an object has no mask of
            ``INPUT.MASK_FORMAT`` where losses are computed, or none where ``TEST.BEST_METRIC``
            is of masks; see ``check_crops``, ``load_coco`` and ``add_proposals``.
    """
    if needed:
        check_named(cfg, split)
    if split == "TRAIN":
        check_crops(cfg)
    sets = [load_coco(name, with_masks=cfg.MODEL.MASK_ON) for name in cfg.DATASETS[split]]
    if cfg.MODEL.MASK_ON and in_training:
        for dataset in sets:
            if split == "TRAIN" or get_own(cfg, "TEST.LOSS_PERIOD"):
                _check_masks(dataset, cfg.INPUT.MASK_FORMAT)
            if split == "TEST":
                _check_best_of_masks(dataset, get_own(cfg, "TEST.BEST_METRIC"))
    if not cfg.MODEL.LOAD_PROPOSALS:
        return sets
    files = cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
    return [
        replace(dataset, records=add_proposals(dataset.records, file, name=dataset.name))
        for dataset, file in zip(sets, files, strict=True)
    ]


def _check_masks(dataset: CocoDataset, mask_format: str) -> None:
    if faults := find_mask_faults(pack_records(dataset.records), mask_format):
        source = f"dataset {dataset.name!r} ({dataset.annotations_file})"
        raise ValueError("\n".join(escape_controls(f"{source}: {fault}") for fault in faults))


def _check_best_of_masks(dataset: CocoDataset, metric: str) -> None:
    """Refuse to follow the AP of masks on a set that is evaluated without, for it lacks some."""
    set_name, _, task = metric.rpartition("/")[0].rpartition("/")
    if not task.startswith("segm") or set_name not in ("", dataset.name):
        return
    records = pack_records(dataset.records)
    if lacking := count_lacking(records):
        number = len(list_annotations(records)[0])
        raise ValueError(
            f"TEST.BEST_METRIC = {metric!r} is computed from masks, and {lacking} of {number} "
            f"annotations of dataset {dataset.name!r} ({dataset.annotations_file}) "
            "have no segmentation; write one for each, or a number of boxes, such as bbox/AP"
        )


def check_crops(cfg: CfgNode) -> None:
    """Refuse a training that would have to cut polygons without shapely, before anything changes.

    Raises:
        ValueError: see ``check_cutting``.
    """
    if cfg.MODEL.MASK_ON and (cfg.INPUT.CROP.ENABLED or get_own(cfg, "INPUT.SCALE_JITTER")):
        check_cutting()


def find_class_key(cfg: CfgNode) -> str:
    """Find the key that says the number of classes of the model."""
    return f"MODEL.{find_class_node(cfg)}.NUM_CLASSES"


def get_detector_classes(file: WeightFile | None) -> tuple[str, ...]:
    """Get the class names of a detector's file; none of another file, or where it does not tell."""
    return (file.class_names or ()) if file is not None and file.format == "detector" else ()


def arrange_classes(
    cfg: CfgNode,
    train_sets: list[CocoDataset],
    test_sets: list[CocoDataset],
    start: WeightFile | None = None,
    *,
    resume: bool = False,
) -> tuple[list[CocoDataset], list[CocoDataset]]:
    """Put the classes of all datasets into one order, that of the model's outputs.

    Classes go by name. Where the weights are of a detector that knows its classes, and the datasets
    have the same, the order is the detector's; else that of the first dataset's ids.

    Args:
        train_sets: empty in an evaluation.
        start: the weights that the job starts from, or evaluates.
        resume: a training goes on from a checkpoint, if ``start`` is one.

    Returns:
        the training sets and the test sets.

    Raises:
        ValueError: the datasets have different classes, or other ones than the detector that is
            evaluated or resumed, or another number of them than the model.
    """
    if cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork":  # it finds objects of whatever class
        return train_sets, test_sets
    check_same_categories(train_sets, test_sets)
    key = find_class_key(cfg)
    first, wanted = [*train_sets, *test_sets][0], get_value(cfg, key)
    names, known = first.class_names, get_detector_classes(start)
    if start is not None and start.format == "detector" and not known and not train_sets:
        logger.info("%s names no classes; they are taken in order of their ids", start.path)
    if known and sorted(known) == sorted(names):
        names = known
    elif known and (resume or not train_sets):
        assert start is not None
        remedy = "give a dataset of these classes, or correct the names in its 'categories'"
        if train_sets:
            remedy = (
                "resume with the datasets of that run; to train on others, leave --resume out, and "
                f"start from these weights with MODEL.WEIGHTS {start.path}"
            )
        raise ValueError(
            escape_controls(
                f"{start.path} is a detector of {list_first(known, 20)}, and dataset "
                f"{first.name!r} has {list_first(names, 20)}; {remedy}"
            )
        )
    if len(names) != wanted:
        raise ValueError(
            f"{key} = {wanted}, but dataset {first.name!r} has {len(names)} "
            f"categories; write {len(names)}"
        )
    train_sets, test_sets = (
        [map_classes(dataset, names) for dataset in sets] for sets in (train_sets, test_sets)
    )
    return train_sets, test_sets


def look_at_data(
    train_sets: list[CocoDataset], test_sets: list[CocoDataset], *, everything: bool = False
) -> None:
    """Look at the data before the first step, in the main process; an error ends every process.

    Args:
        everything: decode every image, see ``inspect_dataset``.

    Raises:
        ValueError, FileNotFoundError: see ``inspect_dataset``.
    """
    with distributed.fail_together(), distributed.run_main_process_first(_PATIENCE):
        if distributed.is_main_process():
            inspect_datasets(train_sets, test_sets, everything=everything)


def describe_sets(train_sets: Sequence[CocoDataset]) -> dict[str, Contents]:
    """Describe what training sets hold, by name, for a resumed training to compare."""
    return {each.name: describe_records(each.records, each.image_dir) for each in train_sets}


def build_train_batches(cfg: CfgNode, train_sets: list[CocoDataset], start: int) -> Loader:
    """Build the training batches of this process, from iteration ``start`` on."""
    loader = cfg.DATALOADER
    records = join_records([dataset.records for dataset in train_sets])
    for mistake in find_mistakes(cfg, len(records)):
        logger.warning(mistake)
    return build_train_loader(
        filter_empty(records) if loader.FILTER_EMPTY_ANNOTATIONS else records,
        mapper=train_mapper(cfg),
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


def train_mapper(cfg: CfgNode) -> DetectionMapper:
    """Build the mapper from a record to the sample that is trained on."""
    image, given = cfg.INPUT, cfg.MODEL.LOAD_PROPOSALS
    scales, colors = get_own(cfg, "INPUT.SCALE_JITTER"), get_own(cfg, "INPUT.COLOR_JITTER")
    side = get_own(cfg, "INPUT.SCALE_JITTER_SIZE")
    return DetectionMapper(
        True,
        min_sizes=image.MIN_SIZE_TRAIN,
        max_size=image.MAX_SIZE_TRAIN,
        sampling=image.MIN_SIZE_TRAIN_SAMPLING,
        flip=image.RANDOM_FLIP,
        image_format=image.FORMAT,
        proposal_topk=cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN if given else None,
        mask_format=image.MASK_FORMAT if cfg.MODEL.MASK_ON else None,
        color_jitter=ColorJitter(*colors) if colors else None,
        crop=RandomCrop(image.CROP.TYPE, tuple(image.CROP.SIZE)) if image.CROP.ENABLED else None,
        scale_jitter=ScaleJitter(scales[0], scales[1], side) if scales else None,
        stretch=_read_stretch(cfg),
    )


def describe_augmentation(cfg: CfgNode) -> str:
    """Describe in words what a training does to its images, as "shorter sides of 640, 800"."""
    image, scales = cfg.INPUT, get_own(cfg, "INPUT.SCALE_JITTER")
    sizes = image.MIN_SIZE_TRAIN
    sides = [sizes] if isinstance(sizes, int) else list(sizes)
    told = [f"a shorter side of {sides[0]}"]
    if len(sides) > 1:
        text = ", ".join(map(str, sides))
        told = [f"shorter sides of {text} ({image.MIN_SIZE_TRAIN_SAMPLING})"]
    if scales:
        side = get_own(cfg, "INPUT.SCALE_JITTER_SIZE")
        told = [f"squares of {side} pixels of images scaled by {scales[0]} to {scales[1]}"]
    if stretch := get_own(cfg, "INPUT.STRETCH"):
        told = [f"all images stretched to {stretch[1]} x {stretch[0]} pixels"]
    if image.CROP.ENABLED:
        told.append(f"crops: {image.CROP.TYPE} {list(image.CROP.SIZE)}")
    if colors := get_own(cfg, "INPUT.COLOR_JITTER"):
        told.append(f"color jitter: {tuple(colors)}")
    return ", ".join([*told, f"flip: {image.RANDOM_FLIP}"])


def describe_test_size(cfg: CfgNode) -> str:
    """Describe in words the size of images in tests."""
    if stretch := get_own(cfg, "INPUT.STRETCH"):
        return f"{stretch[1]} x {stretch[0]} pixels, whatever the aspect ratio"
    shorter, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    return f"a shorter side of {shorter} pixels, or a longer one of {longest}"


def test_mapper(cfg: CfgNode, *, with_objects: bool = False) -> DetectionMapper:
    """Build the mapper from a record to the sample that is evaluated.

    Args:
        with_objects: keep the boxes and masks, as in training; the mapper then has to be given a
            random state, which changes nothing.
    """
    given = cfg.MODEL.LOAD_PROPOSALS
    return DetectionMapper(
        with_objects,
        min_sizes=(cfg.INPUT.MIN_SIZE_TEST,),
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        flip="none",
        image_format=cfg.INPUT.FORMAT,
        proposal_topk=cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST if given else None,
        mask_format=cfg.INPUT.MASK_FORMAT if with_objects and cfg.MODEL.MASK_ON else None,
        stretch=_read_stretch(cfg),
    )


def build_test_resize(cfg: CfgNode) -> ResizeShortestEdge | Stretch:
    """Build what brings images to the size of tests."""
    image = cfg.INPUT
    return _read_stretch(cfg) or ResizeShortestEdge((image.MIN_SIZE_TEST,), image.MAX_SIZE_TEST)


def _read_stretch(cfg: CfgNode) -> Stretch | None:
    size = get_own(cfg, "INPUT.STRETCH")
    return Stretch(*size) if size else None


def describe_view(cfg: CfgNode) -> ModelView:
    """Describe how the detector of a configuration sees images in tests: their size, its anchors.

    There are no anchors where proposals come from a file.
    """
    resize = build_test_resize(cfg)
    model, anchors = cfg.MODEL, cfg.MODEL.ANCHOR_GENERATOR
    if model.LOAD_PROPOSALS or anchors.NAME != "DefaultAnchorGenerator":
        return ModelView(resize)
    names = model.RPN.IN_FEATURES
    if model.META_ARCHITECTURE == "RetinaNet":
        names = model.RETINANET.IN_FEATURES
    # res4 and p4 have a stride of 16, res5 of 32, unless it is dilated.
    strides = [4 if name == "stem" else 2 ** int(name[-1]) for name in names]
    if model.RESNETS.RES5_DILATION == 2:
        strides = [16 if name == "res5" else stride for name, stride in zip(names, strides)]
    grid = AnchorGrid(
        sizes=_nest(anchors.SIZES),
        aspect_ratios=_nest(anchors.ASPECT_RATIOS),
        strides=tuple(strides),
        offset=anchors.OFFSET,
        padding=32 if names[0].startswith("p") else 1,
    )
    return ModelView(resize, grid)


def _nest(values: Sequence[Any]) -> Sequence[Sequence[float]]:
    """Make a list for all levels of numbers without one, which detectron2 takes so too."""
    return [values] if not isinstance(values[0], Sequence) else values


def summarize_set(cfg: CfgNode, dataset: CocoDataset) -> SetStatistics:
    """Summarize the boxes of a dataset as the detector of a configuration sees them in tests."""
    return summarize_boxes(dataset.records, dataset.class_names, describe_view(cfg))
