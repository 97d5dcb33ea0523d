"""Fit a configuration to the data: sets named by their files, the number of classes, a schedule."""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from fvcore.common.config import CfgNode

from resnext_det.architecture import Architecture
from resnext_det.config.backbone import read_architecture
from resnext_det.config.rules import get_value, list_keys
from resnext_det.data.coco import CocoDataset, count_classes, load_coco, register_files
from resnext_det.data.splitting import hold_out
from resnext_det.detection.advice import CHOSEN_KEYS, Facts, choose_schedule
from resnext_det.training import distributed
from resnext_det.training.setup import CONFIG_FILE

Load = Callable[[Sequence[str]], CfgNode]

# RetinaNet's and FCOS's are keys of detectron2 alone.
_CLASSES = ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES", "MODEL.FCOS.NUM_CLASSES")
_RESNEXT_50 = Architecture(50, 32, 4).multiply_adds()


@dataclass
class Fitted:
    """Hold what was decided: KEY VALUE pairs, and for each decision a sentence for the log."""

    overrides: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def set(self, key: str, value: Any, told: str = "") -> None:
        """Add a setting, and a sentence if there is one."""
        self.overrides += [key, str(value)]
        self.told += [told] * bool(told)


def name_sets(
    load: Load,
    train_data: tuple[str, str] | None,
    test_data: tuple[str, str] | None,
    *,
    keep: bool = False,
) -> Fitted:
    """Register sets that are given by their files, and name them in ``DATASETS``.

    Without a test set, a part of the training set is held out for it, as two files in the folder
    ``data`` of ``OUTPUT_DIR``.

    Args:
        load: loads the configuration with further overrides.
        train_data, test_data: an annotations file and a folder of images.
        keep: take the two files as they are, if they are there, as a resumed training must.

    Raises:
        ValueError, FileNotFoundError: see ``hold_out`` and ``load_coco``.
    """
    fitted = Fitted()
    if train_data is not None and test_data is None:
        folder = Path(load([]).OUTPUT_DIR, "data")
        train_file, test_file, told = _split(train_data, folder, keep=keep)
        fitted.told.append(told)
        train_data, test_data = (str(train_file), train_data[1]), (str(test_file), train_data[1])
    for split, data in (("TRAIN", train_data), ("TEST", test_data)):
        if data is not None:
            fitted.set(f"DATASETS.{split}", repr((register_files(*data),)))
    return fitted


def _split(data: tuple[str, str], folder: Path, *, keep: bool) -> tuple[Path, Path, str]:
    annotations = Path(data[0]).expanduser()
    train, test = (folder / f"{annotations.stem}_{part}.json" for part in ("train", "test"))
    if keep and train.is_file() and test.is_file():
        return train, test, f"The images held out to test on are those of {test}."
    with _without_warnings():
        load_coco(register_files(*data))  # what is wrong with it is told of the user's own file
    return hold_out(annotations, folder)


def take_classes(cfg: CfgNode, set_keys: Collection[str], *, training: bool) -> Fitted:
    """Take the number of classes from the first dataset, where the configuration does not say it.

    Args:
        set_keys: those that the configuration says; the others have detectron2's defaults.
        training: the datasets of ``DATASETS.TRAIN`` are read first, else those of
            ``DATASETS.TEST``.

    Raises:
        ValueError: the dataset's categories are broken.
    """
    fitted = Fitted()
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST] if training else [*cfg.DATASETS.TEST]
    for name in names:
        if not set(_CLASSES) & set(set_keys) and (count := count_classes(name)):
            break
    else:
        return fitted
    for key in _CLASSES:
        known = get_value(cfg, key) if key in list_keys(cfg) else count
        if known != count:
            fitted.set(key, count, f"{key} is {count}, the classes of dataset {name!r}.")
    return fitted


def fit_schedule(
    cfg: CfgNode, given: Collection[str], *, processes: int, resume: bool = False
) -> Fitted:
    """Choose the schedule and the image sizes, see ``choose_schedule``.

    Args:
        cfg: with the datasets.
        given: keys of overrides, which are not chosen.
        processes: that train together.
        resume: take what ``config.yaml`` in ``OUTPUT_DIR`` records, if it is there.

    Raises:
        ValueError, FileNotFoundError: as ``load_coco``.
    """
    fitted = Fitted()
    if not cfg.DATASETS.TRAIN:  # the training will say so
        return fitted
    recorded = Path(cfg.OUTPUT_DIR, CONFIG_FILE)
    if resume and recorded.is_file():
        values = yaml.safe_load(recorded.read_text(encoding="utf-8"))
        for key in CHOSEN_KEYS:
            if key not in given:
                fitted.set(key, get_value(values, key))
        fitted.told.append(f"The schedule and the image sizes are those of {recorded}.")
        return fitted
    with _without_warnings():
        datasets = [load_coco(name) for name in cfg.DATASETS.TRAIN]
    decided = {key: get_value(cfg, key) for key in given if key in list_keys(cfg)}
    for choice in choose_schedule(_gather_facts(cfg, datasets, processes), decided):
        for key, value in choice.settings.items():
            fitted.set(key, value)
        fitted.told.append(f"--schedule auto: {choice}")
    return fitted


def _gather_facts(cfg: CfgNode, datasets: Sequence[CocoDataset], processes: int) -> Facts:
    records = [record for dataset in datasets for record in dataset.records]
    boxes = [entry["bbox"] for record in records for entry in record["annotations"]]
    resnets, memory = cfg.MODEL.RESNETS, 0
    if distributed.resolve_device(cfg.MODEL.DEVICE).type == "cuda":
        gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        memory = min(gpu.total_memory for gpu in gpus)  # the same in every process
    try:
        network = read_architecture(resnets).multiply_adds() / _RESNEXT_50
    except ValueError:  # one of detectron2's alone
        network = 1.0
    return Facts(
        images=len(records),
        boxes=len(boxes),
        side=round(statistics.median(min(each["height"], each["width"]) for each in records)),
        box_side=statistics.median([(box[2] * box[3]) ** 0.5 for box in boxes] or [0.0]),
        pretrained=bool(cfg.MODEL.WEIGHTS),
        gpu_memory=memory / 2**30,
        cores=_count_cores(),
        processes=cfg.SOLVER.REFERENCE_WORLD_SIZE or processes,
        network=network * (resnets.RES2_OUT_CHANNELS / 256) ** 2,
        c4=cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads",
        tested=bool(cfg.DATASETS.TEST),
    )


def _count_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep back warnings about datasets, which are given when they are loaded to be used."""
    data = logging.getLogger("resnext_det.data")
    level = data.level
    data.setLevel(logging.ERROR)
    try:
        yield
    finally:
        data.setLevel(level)
