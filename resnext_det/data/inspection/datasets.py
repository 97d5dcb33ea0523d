"""Look at datasets before the first step: what would end a run or spoil its numbers is told."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnext_det.data.coco import CocoDataset
from resnext_det.data.inspection.box_forms import (
    collect_boxes,
    describe_image,
    find_other_form,
    warn_of_boxes,
)
from resnext_det.data.inspection.image_files import check_images
from resnext_det.data.inspection.masks import warn_of_masks, warn_of_untested_masks
from resnext_det.data.inspection.missing_files import find_missing_files, shorten_name
from resnext_det.data.records import Records, pack_records
from resnext_det.files import list_first

logger = logging.getLogger(__name__)


def inspect_datasets(
    train_sets: Sequence[CocoDataset],
    test_sets: Sequence[CocoDataset] = (),
    *,
    everything: bool = False,
) -> None:
    """Look at the datasets of a run, each once, and at what they have in common.

    Warnings tell of classes without a box in training or in testing, of test images that are
    training images too, and of test sets that lack masks.

    Raises:
        ValueError, FileNotFoundError: see ``inspect_dataset``.
    """
    for dataset in list_distinct([*train_sets, *test_sets]):
        inspect_dataset(dataset, everything=everything)
    warn_of_differences(train_sets, test_sets)


def list_distinct(datasets: Sequence[CocoDataset]) -> list[CocoDataset]:
    """List datasets, those of the same files once."""
    distinct = {(data.annotations_file, data.image_dir): data for data in reversed(datasets)}
    return list(reversed(distinct.values()))


def warn_of_differences(
    train_sets: Sequence[CocoDataset], test_sets: Sequence[CocoDataset]
) -> None:
    """Warn of classes without a box in training or in testing, and of images that are in both.

    Test sets on which masks will not be evaluated are told too.
    """
    _warn_of_empty_classes(train_sets, test_sets)
    for dataset in list_distinct(test_sets):
        source = f"test set {dataset.name!r} ({dataset.annotations_file})"
        warn_of_untested_masks(pack_records(dataset.records), source)
    _warn_of_shared_images(train_sets, test_sets)


def inspect_dataset(dataset: CocoDataset, *, everything: bool = False) -> None:
    """Look at the images and boxes of a dataset, fast: COCO's take some seconds.

    Every image file has to exist. The headers of some images, evenly chosen, have to be readable
    and of the annotated size, and their files complete. Warnings count what is odd: boxes beyond
    the image, annotations and images that stand twice, files outside the image folder, and masks
    that are not in their boxes.

    Args:
        everything: decode every image, which may take an hour for COCO's, and look at every mask.

    Raises:
        FileNotFoundError: images are missing, or are no files.
        ValueError: images cannot be read or are of another size, or the boxes are of another form
            than [x, y, width, height] in pixels. The text has a line for each kind of fault, with
            the count, the first example and the remedy.
    """
    began = time.perf_counter()
    source = f"dataset {dataset.name!r} ({dataset.annotations_file})"
    records = pack_records(dataset.records)
    missing, sentences = find_missing_files(records, dataset.image_dir)
    error = FileNotFoundError if missing else ValueError
    table = collect_boxes(records)
    form = find_other_form(table, records)
    if form is not None:
        sentences.append(form)
    left = np.setdiff1d(np.arange(len(records)), missing, assume_unique=True)
    sentences += check_images(records.select(left), source, everything=everything)
    if sentences:
        raise error("\n".join(f"{source}: {sentence}" for sentence in sentences))
    warn_of_boxes(table, records, source)
    warn_of_masks(records, source, everything=everything)
    _warn_of_names(records, dataset.image_dir, source)
    logger.info("%s: looked at in %.1f s", dataset.name, time.perf_counter() - began)


def _warn_of_names(records: Records, image_dir: Path, source: str) -> None:
    """Warn of images that are listed twice, and of file names that lead out of the folder."""
    seen: set[str] = set()
    repeated, outside = [], []
    for index, name in enumerate(records.file_names):
        place = os.path.normpath(name)
        if place in seen:
            repeated.append(index)
        seen.add(place)
        short = shorten_name(name, image_dir)
        if os.path.isabs(short) or (".." in short and os.path.normpath(short).startswith("..")):
            outside.append(short)
    if repeated:
        logger.warning(
            "%s: %d images are listed again under another id, the first is %s; each counts as an "
            "image of its own: keep one entry with all its annotations",
            *(source, len(repeated), describe_image(records, repeated[0])),
        )
    if outside:
        logger.warning(
            "%s: %d file names lead out of the image folder %s, the first is %r; they may not "
            "work elsewhere: write them relative to the image folder",
            *(source, len(outside), image_dir, outside[0]),
        )


def _warn_of_empty_classes(
    train_sets: Sequence[CocoDataset], test_sets: Sequence[CocoDataset]
) -> None:
    purposes: dict[tuple[str, ...], list[str]] = {}
    for purpose, sets in (("training", train_sets), ("testing", test_sets)):
        purposes.setdefault(_list_empty_classes(sets), []).append(purpose)
    names = dict.fromkeys(n for dataset in [*train_sets, *test_sets] for n in dataset.class_names)
    for empty, where in purposes.items():
        if empty:
            logger.warning(
                "%d of %d classes have no box in %s: %s; correct the annotations' category ids, or "
                "leave the classes out, if that is not meant",
                *(len(empty), len(names), " and in ".join(where), list_first(empty, 10)),
            )


def _list_empty_classes(sets: Sequence[CocoDataset]) -> tuple[str, ...]:
    used: set[str] = set()
    for dataset in sets:
        records = pack_records(dataset.records)
        used |= {dataset.class_names[index] for index in np.unique(records.categories)}
    names = dict.fromkeys(name for dataset in sets for name in dataset.class_names)
    return tuple(name for name in names if name not in used)


def _warn_of_shared_images(
    train_sets: Sequence[CocoDataset], test_sets: Sequence[CocoDataset]
) -> None:
    trained = {path for dataset in train_sets for path in _list_paths(dataset)}
    for dataset in test_sets:
        shared = [path for path in _list_paths(dataset) if path in trained]
        if shared:
            logger.warning(
                "%d of %d images of test set %r are training images too, the first is %s; its AP "
                "will be too high: take them out of one of the sets",
                *(len(shared), len(dataset.records), dataset.name, shared[0]),
            )


def _list_paths(dataset: CocoDataset) -> list[str]:
    """List the images of a dataset by paths of which each file has one."""
    folder = os.path.join(dataset.image_dir, "")
    real = os.path.realpath(folder)  # one look for all: the folder may be a link to the other's
    names = pack_records(dataset.records).file_names
    return [os.path.normpath(os.path.join(real, name.removeprefix(folder))) for name in names]
