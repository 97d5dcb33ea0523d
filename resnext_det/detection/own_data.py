"""Fit a configuration to the data: sets named by their files, the number of classes, a schedule."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode

from resnext_det.architecture import Architecture
from resnext_det.config.backbone import read_architecture
from resnext_det.config.detection import get_own
from resnext_det.config.loading import drop_idle_overrides
from resnext_det.config.parts import uses_c4_head
from resnext_det.config.rules import get_value, list_keys
from resnext_det.config.switches import find_switched_off
from resnext_det.data.annotations.splitting import hold_out, is_made_of
from resnext_det.data.coco import CocoDataset, count_classes, load_coco, register_files
from resnext_det.data.records import Records, join_records
from resnext_det.detection.advice import CHOSEN_KEYS, Facts, choose_schedule
from resnext_det.detection.datasets import find_class_key
from resnext_det.detection.memory_saving import NO_SAVING, MemorySaving
from resnext_det.detection.weights import locate_weights, read_trained_config
from resnext_det.training import distributed
from resnext_det.training.output_folder import find_run
from resnext_det.training.setup import CONFIG_FILE, check_folder_name, read_recorded
from resnext_det.training.threads import count_processors

Load = Callable[[Sequence[str]], CfgNode]

_RESNEXT_50 = Architecture(50, 32, 4).multiply_adds()
_RATES = {"RetinaNet": 0.01}  # of detectron2's recipes, where it is not ``Facts.rate``
_DEFORMABLE_COST = 2.0  # how many times as long a step takes: X-50 with FPN on a CPU


@dataclass
class Fitted:
    """Hold what was decided: KEY VALUE pairs, what the log says of it, and what it warns of.

    ``datasets`` are (name, annotations, images) of the sets that got a name, which every process
    has to register; ``saving`` is what a training does to need less memory.
    """

    overrides: list[str] = field(default_factory=list)
    datasets: list[tuple[str, str, str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    saving: MemorySaving = NO_SAVING

    def set(self, key: str, value: Any, told: str = "") -> None:
        """Add a setting, and a sentence if there is one."""
        self.overrides += [key, str(value)]
        self.told += [told] * bool(told)


def fit_to_data(
    fitted: Fitted,
    load: Load,
    *,
    train_data: tuple[str, str] | None = None,
    test_data: tuple[str, str] | None = None,
    set_keys: Collection[str],
    given: Collection[str],
    schedule: bool,
    training: bool,
    resume: bool,
    overwrite: bool,
    processes: int,
) -> None:
    """Decide what a configuration leaves to the data; see ``name_sets`` to ``fit_schedule``.

    Args:
        fitted: gets the decisions.
        load: loads the configuration with further overrides, which come before those of the user.
        set_keys, given: keys that the configuration or an override sets, and those of overrides.
        schedule: choose the schedule too.
        training, resume, overwrite: what is done.
        processes: that train together.

    Raises:
        ValueError, FileNotFoundError: the data are wrong or missing.
    """
    cfg = load(fitted.overrides)
    if train_data or test_data:
        check_folder_name(cfg.OUTPUT_DIR)
        folder = Path(cfg.OUTPUT_DIR, "data")
        held = bool(find_run(cfg.OUTPUT_DIR)) and not overwrite  # it is refused, and not changed
        name_sets(fitted, folder, train_data, test_data, keep=resume or not training or held)
        cfg = load(fitted.overrides)
    # Where the sets of a configuration are replaced, its number of classes is not that of these.
    said = given if training and train_data else set_keys
    take_classes(fitted, cfg, said, training=training, resume=resume)
    if schedule:
        fit_schedule(fitted, cfg, given, processes=processes, resume=resume)


def name_sets(
    fitted: Fitted,
    folder: Path,
    train_data: tuple[str, str] | None,
    test_data: tuple[str, str] | None,
    *,
    keep: bool = False,
) -> None:
    """Register sets that are given by their files, and name them in ``DATASETS``.

    Args:
        folder: gets two files where there is a training set alone, a part of which is held out.
        train_data, test_data: an annotations file and a folder of images.
        keep: take the two files as they are, if they are there, as a resumed training must.

    Raises:
        ValueError, FileNotFoundError: see ``hold_out`` and ``load_coco``.
    """
    for flag, given in (("--train-data", train_data), ("--test-data", test_data)):
        if given is not None:
            _check_paths(flag, given)
    if train_data is not None and test_data is None:
        train_file, test_file, told = _split(fitted, train_data, folder, keep=keep)
        fitted.told.append(told)
        train_data, test_data = (str(train_file), train_data[1]), (str(test_file), train_data[1])
    for split, data in (("TRAIN", train_data), ("TEST", test_data)):
        if data is not None:
            name = register_files(*data)
            fitted.datasets.append((name, *data))
            fitted.set(f"DATASETS.{split}", repr((name,)))


def _check_paths(flag: str, data: tuple[str, str]) -> None:
    """Refuse paths that are missing or in the wrong order, before anything is made of them."""
    annotations, images = (Path(each).expanduser() for each in data)
    if annotations.is_dir() and images.is_file():
        raise ValueError(
            f"{flag} {annotations} {images}: the file of annotations comes first; write {flag} "
            f"{images} {annotations}"
        )
    for path in (annotations, images):
        if not path.exists():
            raise FileNotFoundError(
                f"{flag}: {path} does not exist; correct the path (this folder is {Path.cwd()})"
            )


def _split(
    fitted: Fitted, data: tuple[str, str], folder: Path, *, keep: bool
) -> tuple[Path, Path, str]:
    annotations = Path(data[0]).expanduser()
    train, test = (folder / f"{annotations.stem}_{part}.json" for part in ("train", "test"))
    if keep and train.is_file() and test.is_file():
        if not is_made_of(annotations, train, test):
            fitted.warnings.append(
                f"{annotations} has changed, and this run goes on with the copies that it began "
                f"with, {train} and {test}; to train on what is new, write another OUTPUT_DIR"
            )
        return train, test, f"The images held out to test on are those of {test}."
    with hold_back_warnings():
        load_coco(register_files(*data))  # what is wrong with it is told of the user's own file
    try:
        return hold_out(annotations, folder)
    except OSError as error:
        raise ValueError(
            f"the images held out to test on cannot be written to {folder} in OUTPUT_DIR "
            f"({error.strerror or error}); write another OUTPUT_DIR, or give --test-data"
        ) from error


def take_classes(
    fitted: Fitted,
    cfg: CfgNode,
    set_keys: Collection[str],
    *,
    training: bool,
    resume: bool = False,
) -> None:
    """Take the number of classes from elsewhere, where the configuration does not say it.

    A training takes that of its first dataset. An evaluation takes that of the detector, where its
    file tells, and else that of the first dataset of ``DATASETS.TEST``.

    Args:
        set_keys: those that the configuration says; the others have detectron2's defaults.
        training, resume: what is done.

    Raises:
        ValueError, FileNotFoundError: the detector's file cannot be read.
    """
    key = find_class_key(cfg)
    if key in set_keys or key in find_switched_off(cfg):  # as of an RPN alone
        return
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if not training:
        path, names = locate_weights(cfg, resume=resume), [*cfg.DATASETS.TEST]
        detector = read_trained_config(path) if path else None
        if detector is not None:
            fitted.set(key, get_value(detector, key), f"{key} is that of {path}.")
            return
    for name in names:
        if count := count_classes(name):
            if count != get_value(cfg, key):
                fitted.set(key, count, f"{key} is {count}, the classes of dataset {name!r}.")
            return


def fit_schedule(
    fitted: Fitted, cfg: CfgNode, given: Collection[str], *, processes: int, resume: bool = False
) -> None:
    """Choose the schedule and the image sizes, see ``choose_schedule``.

    Args:
        cfg: with the datasets.
        given: keys of overrides, which are not chosen.
        processes: that train together.
        resume: take what ``config.yaml`` in ``OUTPUT_DIR`` records, if it is there.

    Raises:
        ValueError, FileNotFoundError: as ``load_coco``.
    """
    if not cfg.DATASETS.TRAIN:  # the training will say so
        return
    recorded = Path(cfg.OUTPUT_DIR, CONFIG_FILE)
    if resume and recorded.is_file():
        values = read_recorded(recorded)
        known = list_keys(values)
        recalled: dict[str, Any] = {}
        for key in CHOSEN_KEYS:
            if key in given:
                continue
            if key not in known:
                raise ValueError(f"{recorded} lacks {key}, so it is damaged; remove it")
            recalled[key] = get_value(values, key)
        for key, value in _drop_idle(cfg, recalled).items():
            fitted.set(key, value)
        fitted.told.append(f"The schedule and the image sizes are those of {recorded}.")
        return
    with hold_back_warnings():
        datasets = [load_coco(name) for name in cfg.DATASETS.TRAIN]
    decided = {key: get_value(cfg, key) for key in given if key in list_keys(cfg)}
    if get_own(cfg, "SOLVER.OPTIMIZER") != "SGD":  # whose usual rates do not fit others
        decided["SOLVER.BASE_LR"] = cfg.SOLVER.BASE_LR
    choices = choose_schedule(_gather_facts(cfg, datasets, processes), decided)
    chosen = {key: value for choice in choices for key, value in choice.settings.items()}
    used = _drop_idle(cfg, chosen).keys()
    for choice in choices:
        if settings := {key: choice.settings[key] for key in choice.settings if key in used}:
            for key, value in settings.items():
                fitted.set(key, value)
            fitted.told.append(f"--schedule auto: {replace(choice, settings=settings)}")


def _drop_idle(cfg: CfgNode, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Drop settings that would change nothing, such as ``STEPS`` where a cosine is asked for."""
    kept = drop_idle_overrides(cfg, [word for pair in settings.items() for word in pair])
    return dict(zip(kept[::2], kept[1::2]))


def _gather_facts(cfg: CfgNode, datasets: Sequence[CocoDataset], processes: int) -> Facts:
    records = join_records([dataset.records for dataset in datasets])
    assert isinstance(records, Records)
    object_sides = np.sqrt(records.boxes[:, 2:].prod(axis=1))
    resnets, memory = cfg.MODEL.RESNETS, 0
    if distributed.resolve_device(cfg.MODEL.DEVICE).type == "cuda":
        gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        memory = min(gpu.total_memory for gpu in gpus)  # the same in every process
    try:
        network = read_architecture(resnets).multiply_adds() / _RESNEXT_50
    except ValueError:  # one of detectron2's alone
        network = 1.0
    if any(resnets.DEFORM_ON_PER_STAGE):
        network *= _DEFORMABLE_COST
    return Facts(
        images=len(records),
        boxes=len(object_sides),
        side=round(float(np.median(records.sizes.min(axis=1)))),
        box_side=float(np.median(object_sides)) if len(object_sides) else 0.0,
        pretrained=bool(cfg.MODEL.WEIGHTS),
        gpu_memory=memory / 2**30,
        cores=max(1, math.floor(count_processors())),
        processes=cfg.SOLVER.REFERENCE_WORLD_SIZE or processes,
        network=network * (resnets.RES2_OUT_CHANNELS / 256) ** 2,
        rate=_RATES.get(cfg.MODEL.META_ARCHITECTURE, Facts.rate),
        c4=uses_c4_head(cfg),
        tested=bool(cfg.DATASETS.TEST),
    )


@contextmanager
def hold_back_warnings() -> Iterator[None]:
    """Hold back warnings about datasets, which are given when these are loaded to be used."""
    data = logging.getLogger("resnext_det.data")
    level = data.level
    data.setLevel(logging.ERROR)
    try:
        yield
    finally:
        data.setLevel(level)
