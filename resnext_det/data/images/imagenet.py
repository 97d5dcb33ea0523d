"""Open ImageNet-1K (ILSVRC 2012) in the arrangements of image-net.org, Kaggle and torchvision."""

from __future__ import annotations

import csv
import gzip
import io
import logging
import os
import re
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from resnext_det.data.images.archives import open_flat_archive
from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.locations import open_flat_folder, open_path
from resnext_det.data.images.storage import ArchiveSource, FileSource
from resnext_det.files import is_hidden

logger = logging.getLogger(__name__)

NUM_CLASSES = 1000
NUM_IMAGES = {"train": 1_281_167, "val": 50_000}

_KAGGLE = "ILSVRC/Data/CLS-LOC"
_PLACES = {
    "train": ("train", f"{_KAGGLE}/train", "ILSVRC2012_img_train.tar"),
    "val": ("val", f"{_KAGGLE}/val", "ILSVRC2012_img_val.tar"),
}
_DEVKIT = "ILSVRC2012_devkit_t12"
_META, _GROUND_TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
_SOLUTION = "LOC_val_solution.csv"
_ANNOTATIONS = "ILSVRC/Annotations/CLS-LOC/val"
_OBJECT = re.compile(rb"<object>.*?<name>\s*(\S+?)\s*</name>", re.DOTALL)
_AGAIN = "copy or download it again"
_MOST_BYTES = 64 << 20  # of the development kit, which has 3 MiB


def open_imagenet(folder: Path, split: str) -> ImageSet:
    """Open ``imagenet_train`` or ``imagenet_val``; the classes are WordNet ids in ascending order.

    The training images are, in the first place that is there, ``train/`` (a folder or an archive
    for each class), ``ILSVRC/Data/CLS-LOC/train/`` or ``ILSVRC2012_img_train.tar``; the validation
    images ``val/``, ``ILSVRC/Data/CLS-LOC/val/`` or ``ILSVRC2012_img_val.tar``, in class folders or
    not: then ``read_validation_wnids`` finds their classes.

    Args:
        folder: ``$DETECTRON2_DATASETS/imagenet``.
        split: "train" or "val".

    Raises:
        FileNotFoundError: the images, or what says their classes, are not there.
        ValueError: an archive or the labels are damaged, or do not fit the images.
    """
    name = f"imagenet_{split}"
    places = [folder / place for place in _PLACES[split]]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise FileNotFoundError(
            f"image set {name!r} is not there: none of {', '.join(map(str, places))} exists; put "
            "it there, set DETECTRON2_DATASETS to the folder of imagenet/, or give the path of a "
            "folder or .tar of class folders"
        )
    entries = os.scandir(place) if place.is_dir() else ()
    has_folders = any(entry.is_dir() and not is_hidden(entry.name) for entry in entries)
    if split == "train" or has_folders:
        found = replace(open_path(place), name=name)
    else:
        source = open_flat_folder(place) if place.is_dir() else open_flat_archive(place)
        found = _label(name, place, source, read_validation_wnids(folder))
    if (len(found), len(found.class_names)) != (NUM_IMAGES[split], NUM_CLASSES):
        logger.warning(
            "%s, %s: %d images of %d classes, where the published set has %d of %d.",
            *(name, place, len(found), len(found.class_names), NUM_IMAGES[split], NUM_CLASSES),
        )
    return found


def _label(
    name: str, place: Path, source: FileSource | ArchiveSource, wnids: dict[str, str]
) -> ImageSet:
    """Label images that are in no class folders by their file names."""
    stems = [file_name.rpartition(".")[0] for file_name in source.paths.list_names()]
    unknown = [stem for stem in stems if stem not in wnids]
    missing = len(set(wnids).difference(stems))
    if unknown or missing:
        parts = [f"{len(unknown)} without a label, {unknown[0]} the first"] if unknown else []
        parts += [f"{missing} of {len(wnids)} missing"] if missing else []
        raise ValueError(
            f"{place} holds {len(stems)} images: {', '.join(parts)}; copy or download the images "
            "again, and the labels that belong to them"
        )
    class_names = sorted(set(wnids.values()))
    numbers = {wnid: number for number, wnid in enumerate(class_names)}
    labels = np.array([numbers[wnids[stem]] for stem in stems], np.int64)
    return ImageSet(name, tuple(class_names), labels, source)


def read_validation_wnids(folder: Path) -> dict[str, str]:
    """Read the WordNet id of every validation image, by its name without suffix.

    They are read from the first that is there: the development kit, ``ILSVRC2012_devkit_t12/`` or
    ``ILSVRC2012_devkit_t12.tar.gz``; Kaggle's ``LOC_val_solution.csv`` (here, or in ``ILSVRC/``);
    Kaggle's ``ILSVRC/Annotations/CLS-LOC/val/``.

    Args:
        folder: ``$DETECTRON2_DATASETS/imagenet``.

    Returns:
        {"ILSVRC2012_val_00000001": "n01751748", ...}.

    Raises:
        FileNotFoundError: none is there.
        ValueError: it is damaged, or scipy, which reads the development kit, is missing.
    """
    devkit, archive = folder / _DEVKIT, folder / f"{_DEVKIT}.tar.gz"
    if devkit.is_dir():
        return _combine_devkit(*_read_folder(devkit), str(devkit))
    if archive.is_file():
        return _combine_devkit(*_read_archive(archive), str(archive))
    for solution in (folder / _SOLUTION, folder / "ILSVRC" / _SOLUTION):
        if solution.is_file():
            return _read_solution(solution)
    if (folder / _ANNOTATIONS).is_dir():
        return _read_annotations(folder / _ANNOTATIONS)
    raise FileNotFoundError(
        f"the validation images of ImageNet are in no class folders, and nothing in {folder} says "
        f"their classes; put there {_DEVKIT}.tar.gz (of image-net.org) or Kaggle's {_SOLUTION}, or "
        "move the images into one folder for each class"
    )


def _read_folder(devkit: Path) -> tuple[bytes, bytes]:
    try:
        return (devkit / _META).read_bytes(), (devkit / _GROUND_TRUTH).read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"development kit {devkit} lacks {error.filename}; extract {_DEVKIT}.tar.gz again"
        ) from None


def _read_archive(archive: Path) -> tuple[bytes, bytes]:
    """Read the two files out of an archive, which may be compressed, in little memory."""
    try:
        with archive.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(archive) if compressed else archive.open("rb") as unpacked:
            whole = unpacked.read(_MOST_BYTES + 1)
        if len(whole) > _MOST_BYTES:
            raise ValueError(f"it holds over {_MOST_BYTES >> 20} MiB, where the kit has 3")
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as tar:
            members = [tar.getmember(f"{_DEVKIT}/{name}") for name in (_META, _GROUND_TRUTH)]
            if any(member.size > len(whole) for member in members):  # a file with holes
                raise ValueError("a file in it is larger than all of it")
            files = map(tar.extractfile, members)
            meta, truth = (file.read() if file else b"" for file in files)
            return meta, truth
    except (tarfile.TarError, zlib.error, EOFError, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"development kit {archive} is damaged ({reason}); {_AGAIN}") from error


def _combine_devkit(meta: bytes, ground_truth: bytes, where: str) -> dict[str, str]:
    """Look up the ILSVRC2012 id, 1 to 1000, of each image; image after image has one line."""
    wnid_of_id = _read_meta(meta, where)
    found: dict[str, str] = {}
    for number, line in enumerate(ground_truth.split(), start=1):
        if not line.isdigit() or int(line) not in wnid_of_id:
            raise ValueError(
                f"{where}/{_GROUND_TRUTH}, line {number}: {line[:20].decode(errors='replace')!r} "
                f"is no id of a class; {_AGAIN}"
            )
        found[f"ILSVRC2012_val_{number:08d}"] = wnid_of_id[int(line)]
    return found


def _read_meta(meta: bytes, where: str) -> dict[int, str]:
    """Read the WordNet id of each ILSVRC2012 id."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError(
            f"{where}/{_META} is a file of MATLAB, which scipy reads: pip install scipy, or put "
            f"Kaggle's {_SOLUTION} beside it instead"
        ) from None
    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        leaves = [synset for synset in synsets if int(synset["num_children"]) == 0]
        return {int(leaf["ILSVRC2012_ID"]): str(leaf["WNID"]) for leaf in leaves}
    except Exception as error:  # loadmat raises errors of many types on a damaged file
        raise ValueError(f"{where}/{_META} is damaged ({error}); {_AGAIN}") from error


def _read_solution(path: Path) -> dict[str, str]:
    """Read lines such as ``ILSVRC2012_val_00048981,n03995372 85 1 499 272 n03995372 ...``.

    Every box of an image is of its class.
    """
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.reader(file)
        if next(rows, None) != ["ImageId", "PredictionString"]:
            raise ValueError(
                f"{path} does not begin with ImageId,PredictionString as Kaggle's does; {_AGAIN}"
            )
        found: dict[str, str] = {}
        for row in rows:
            words = row[1].split() if len(row) == 2 else []
            if not words:
                raise ValueError(
                    f"{path}, line {rows.line_num}: {','.join(row)[:80]!r} names no class; {_AGAIN}"
                )
            found[row[0]] = words[0]
    return found


def _read_annotations(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.xml")):
        wnids = set(_OBJECT.findall(path.read_bytes()))
        if len(wnids) != 1:
            raise ValueError(f"{path} names {len(wnids)} classes, where an image has one; {_AGAIN}")
        found[path.stem] = wnids.pop().decode()
    return found
