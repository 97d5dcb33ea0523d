"""Detections on files: images in, pictures with boxes and one JSON file out."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
from fvcore.common.config import CfgNode
from PIL import Image
from tqdm import tqdm

from resnext_det.data.coco import load_coco
from resnext_det.data.reading import read_image
from resnext_det.engines.portable.inference import Predictor
from resnext_det.evaluation.coco import coco_results
from resnext_det.evaluation.drawing import class_colours, draw_detections

logger = logging.getLogger(__name__)


def find_images(inputs: Sequence[str | Path]) -> list[Path]:
    """The image files among files and folders; a folder gives those in it and in the folders below, by name.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: there is no image among them.
    """
    known = Image.registered_extensions()
    paths: list[Path] = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            paths += sorted(
                path for path in entry.rglob("*") if path.suffix.lower() in known and path.is_file()
            )
        elif entry.is_file():
            paths.append(entry)
        else:
            raise FileNotFoundError(f"{entry} does not exist; give images or folders of images")
    if not paths:
        raise ValueError(
            f"there is no image in {', '.join(map(str, inputs)) or 'nothing'}; give images or folders of images"
        )
    return paths


def names_of_classes(cfg: CfgNode, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """A name for each of ``MODEL.ROI_HEADS.NUM_CLASSES`` classes: those given, those of the test set, or "class 0" ...

    Raises:
        ValueError: another number of names than of classes.
    """
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names = tuple(given or ())
    if not names and cfg.DATASETS.TEST:
        try:
            names = load_coco(cfg.DATASETS.TEST[0]).class_names
        except FileNotFoundError:
            logger.warning(
                "the annotations of %s are not here, so classes have numbers; give --classes",
                cfg.DATASETS.TEST[0],
            )
    names = names or tuple(f"class {index}" for index in range(count))
    if len(names) != count:
        raise ValueError(
            f"there are {len(names)} class names ({', '.join(names[:5])} ...) for MODEL.ROI_HEADS.NUM_CLASSES = {count}; give {count}"
        )
    return names


def predict_files(
    cfg: CfgNode, paths: Sequence[Path], names: Sequence[str], *, output_dir: str | Path, score: float = 0.5
) -> int:
    """Detect on every image; write a picture of the same name and, for all, ``detections.json``.

    ``detections.json`` is a list of COCO results (``image_id`` is the path, ``category_id`` the class from 0) with the class's name
    besides. An unreadable image is reported and passed over; the others are not lost.

    Args:
        score: detections below it are neither drawn nor written.

    Returns:
        the number of detections.

    Raises:
        ValueError: the weights do not fit, or no image could be read.
    """
    predictor = Predictor(cfg)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    colours = class_colours(names)
    rows, unreadable = [], 0
    for path, target in tqdm(
        list(zip(paths, _targets(paths, folder))), "detecting", unit="image", disable=None
    ):
        try:
            image = read_image(path, predictor.image_format)
        except ValueError as error:
            logger.warning("%s", error)
            unreadable += 1
            continue
        found = predictor(image)
        found = found[found.scores >= score]
        labels = [names[index] for index in found.pred_classes.tolist()]
        shown = read_image(path, "BGR")
        picture = draw_detections(shown, found.pred_boxes.tensor, labels, found.scores, colours=colours)
        if not cv2.imwrite(str(target), picture):
            raise OSError(
                f"the picture {target} could not be written; make room on that disk, or choose another --output"
            )
        for row, label in zip(coco_results(str(path), found, range(len(names))), labels):
            rows.append({**row, "category": label})
    if unreadable == len(paths):
        raise ValueError(f"none of the {unreadable} images could be read; see the warnings above")
    (folder / "detections.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return len(rows)


def _targets(paths: Sequence[Path], folder: Path) -> list[Path]:
    """A file name for each picture; equal names from different folders get a number, so that none is lost."""
    targets: list[Path] = []
    taken: set[str] = set()
    for path in paths:
        suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
        name, number = f"{path.stem}{suffix}", 1
        while name in taken:
            number += 1
            name = f"{path.stem}_{number}{suffix}"
        taken.add(name)
        targets.append(folder / name)
    return targets
