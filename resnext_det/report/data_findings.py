"""Find in a set what ends a training or spoils its numbers, and say what to do, in sentences."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from fvcore.common.config import CfgNode

from resnext_det.data.coco import CocoDataset
from resnext_det.data.inspection.copied_images import (
    MANY_COPIES,
    SEARCH_SECONDS,
    find_copied_images,
)
from resnext_det.data.inspection.datasets import (
    inspect_dataset,
    list_distinct,
    warn_of_differences,
)
from resnext_det.data.statistics import NEAR_COPY, SLIP, SetStatistics
from resnext_det.detection.advice import find_mistakes
from resnext_det.detection.datasets import load_datasets
from resnext_det.files import list_first
from resnext_det.report.causes import RULES_OF_SETS, list_causes
from resnext_det.report.faults.cause import fit_advice
from resnext_det.report.faults.measurements import Measurements

Weight = Literal["error", "warning", "note"]

_FEW = 10  # objects of a class, from which it is hardly learned
_MANY_PAIRS = 0.01  # share of objects
_MANY_VANISHED = 0.005


@dataclass(frozen=True)
class Finding:
    """Say one thing about a set: what is so, and what to do.

    Attributes:
        weight: an "error" ends a training, a "warning" likely spoils its numbers, a "note" is to
            be known.
        text: a sentence or two.
    """

    weight: Weight
    text: str


def load_sets(
    cfg: CfgNode, split: str, findings: list[Finding]
) -> tuple[list[CocoDataset], CfgNode]:
    """Load the sets of a split; leave out masks, and then proposals, that a training would refuse.

    Args:
        split: "TRAIN" or "TEST".
        findings: get what is warned of and what is refused.

    Returns:
        the sets, and the configuration of what was loaded.

    Raises:
        ValueError, FileNotFoundError: a set cannot be loaded without masks and proposals either.
    """
    sets: list[CocoDataset] = []
    try:
        told = collect_warnings(lambda: sets.extend(load_datasets(cfg, split, needed=False)))
    except (ValueError, OSError) as error:
        left_out = next((key for key in ("MASK_ON", "LOAD_PROPOSALS") if cfg.MODEL[key]), None)
        if left_out is None:
            raise
        findings += [Finding("error", line) for line in str(error).splitlines()]
        less = cfg.clone()
        less.MODEL[left_out] = False
        return load_sets(less, split, findings)
    findings += told
    return sets, cfg


def inspect_sets(
    train_sets: Sequence[CocoDataset], test_sets: Sequence[CocoDataset], *, everything: bool
) -> list[Finding]:
    """Look at the files as a training does, and list what it would refuse and warn of.

    Args:
        everything: decode every image, as ``--check-data`` does.
    """
    findings = []
    for dataset in list_distinct([*train_sets, *test_sets]):
        try:
            inspected = collect_warnings(partial(inspect_dataset, dataset, everything=everything))
        except (ValueError, OSError) as error:
            inspected = [Finding("error", line) for line in str(error).splitlines()]
        findings += inspected
    return findings + collect_warnings(partial(warn_of_differences, train_sets, test_sets))


def collect_warnings(work: Callable[[], object]) -> list[Finding]:
    """Call a function that handles datasets; return what it warns of, which is not logged."""
    data, collected = logging.getLogger("resnext_det.data"), _Collector(logging.WARNING)
    propagate, data.propagate = data.propagate, False
    data.addHandler(collected)
    try:
        work()
    finally:
        data.removeHandler(collected)
        data.propagate = propagate
    return [Finding("warning", text) for text in collected.texts]


class _Collector(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def find_copies(train_files: Sequence[str], test_files: Sequence[str]) -> Iterator[Finding]:
    """Find images whose files are equal to the last byte under several names.

    The search is given up after ten seconds, which is told.
    """
    names, split = [*train_files, *test_files], len(train_files)
    groups, complete = find_copied_images(names, seconds=SEARCH_SECONDS)
    both = [group for group in groups if group[0] < split <= group[-1]]
    if both:
        shared = sum(index >= split for group in both for index in group)
        first = both[0]
        yield Finding(
            "warning",
            f"{shared} of {len(test_files)} test images have the same content as training images, "
            f"the first {names[first[-1]]} as {names[first[0]]}; the AP will be too high: take "
            "them out of one of the sets",
        )
    for kind, begin, end in (("training", 0, split), ("test", split, len(names))):
        inside = [[index for index in group if begin <= index < end] for group in groups]
        copies = [group for group in inside if len(group) > 1]
        if copies:
            count = sum(len(group) - 1 for group in copies)
            yield Finding(
                "warning" if count >= MANY_COPIES * (end - begin) else "note",
                f"{count} of {end - begin} {kind} images are copies of others, the first "
                f"{names[copies[0][1]]} of {names[copies[0][0]]}: remove them, or see that their "
                "annotations are the same",
            )
    if not complete:
        yield Finding(
            "note", f"The search for copied images was given up after {SEARCH_SECONDS:.0f} seconds."
        )


def find_faults(
    cfg: CfgNode, train: SetStatistics | None, test: SetStatistics | None
) -> Iterator[Finding]:
    """Find what is odd about the boxes for the detector of a configuration.

    What a report would name as a cause of a low AP, and is seen before the training, is found by
    the same rules.

    Args:
        train, test: of all sets to train and to test on; None where there are none.
    """
    for kind, found in (("training", train), ("test", test)):
        if found is not None and found.num_objects:
            for odd in _find_odd_boxes(found, kind):
                yield replace(odd, text=fit_advice(odd.text, Measurements(cfg=cfg).get))
    if train is not None and train.num_objects:
        yield from _find_rare_classes(cfg, train)
        yield from _find_mirrored(cfg, train)
    if train is not None:
        for text in find_mistakes(cfg, max(1, train.num_images)):
            yield Finding("warning", text)
    if test is not None:
        yield from _find_too_many(cfg, test)
    if first := train or test:
        measured = Measurements(cfg=cfg, class_names=first.class_names, train=train, test=test)
        for cause in list_causes(measured, RULES_OF_SETS):
            yield Finding("warning", f"{cause.title}: {cause.evidence} {cause.advice}")


def _find_odd_boxes(found: SetStatistics, kind: str) -> Iterator[Finding]:
    same = found.match_classes()
    for count, what, advice in (
        (int(same.sum()), "the same class", "likely one object is annotated twice"),
        (int((~same).sum()), "different classes", "at most one of the two can be right"),
    ):
        if count:
            yield Finding(
                "warning" if count > _MANY_PAIRS * found.num_objects else "note",
                f"{_count(count, f'pair of {kind} boxes', f'pairs of {kind} boxes')} of {what} "
                f"with an IoU of {NEAR_COPY} or more: {advice}",
            )
    slips = found.find_slips()
    if slips.any():
        first = found.file_names[found.owners[slips.argmax()]]
        yield Finding(
            "warning" if slips.mean() > _MANY_VANISHED else "note",
            f"{_count(int(slips.sum()), f'{kind} box', f'{kind} boxes')} of less than {SLIP} "
            f"pixels a side, the first in {first}: if they are slips of the mouse, remove them",
        )
    vanished = found.find_vanished()
    if vanished.any():
        share = float(vanished.mean())
        yield Finding(
            "warning" if share > _MANY_VANISHED else "note",
            f"{vanished.sum():,} of {found.num_objects:,} {kind} boxes ({share:.1%}) have no area "
            "left at the size of tests, so that nothing is learned from them; larger images "
            "(INPUT.MIN_SIZE_TRAIN, INPUT.MIN_SIZE_TEST) keep them",
        )


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _find_rare_classes(cfg: CfgNode, train: SetStatistics) -> Iterator[Finding]:
    counts = train.count_objects()
    rare = [(n, name) for n, name in zip(counts.tolist(), train.class_names) if 0 < n < _FEW]
    if rare:
        names = [f"{name} ({n})" for n, name in sorted(rare)]
        yield Finding(
            "warning",
            f"{len(rare)} of {len(counts)} classes have fewer than {_FEW} training objects: "
            f"{list_first(names, 10)}; annotate more, or leave the classes out",
        )
    used = counts[counts >= _FEW]
    if len(used) > 1 and used.max() > 100 * used.min():
        remedy = (
            "; DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler with "
            "DATALOADER.REPEAT_THRESHOLD 0.01 shows images of rare classes more often"
        )
        repeats = cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"
        yield Finding(
            "note",
            f"The most frequent class has {used.max():,} training objects and the rarest "
            f"{used.min():,}{'' if repeats else remedy}",
        )


def _find_mirrored(cfg: CfgNode, train: SetStatistics) -> Iterator[Finding]:
    pairs = {"horizontal": ("left", "right"), "vertical": ("up", "down")}
    words = pairs.get(cfg.INPUT.RANDOM_FLIP, ())
    named = [n for n in train.class_names if set(re.split(r"[^a-z]+", n.lower())) & {*words}]
    if len(named) > 1:
        yield Finding(
            "warning",
            f"Training flips images ({cfg.INPUT.RANDOM_FLIP}), and the names {list_first(named)} "
            "are of classes that a flip exchanges; write INPUT.RANDOM_FLIP none",
        )


def _find_too_many(cfg: CfgNode, test: SetStatistics) -> Iterator[Finding]:
    limit, counts = cfg.TEST.DETECTIONS_PER_IMAGE, test.count_per_image()
    lost = np.maximum(counts - limit, 0).sum()
    if limit >= 0 and lost:
        yield Finding(
            "warning" if lost > 0.01 * test.num_objects else "note",
            f"{(counts > limit).sum():,} test images have more than TEST.DETECTIONS_PER_IMAGE = "
            f"{limit} objects, up to {counts.max():,}, so that {lost / test.num_objects:.1%} of "
            f"the objects cannot be found; write TEST.DETECTIONS_PER_IMAGE {counts.max()}",
        )
