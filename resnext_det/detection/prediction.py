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

from resnext_det.data.coco import find_dataset, list_datasets
from resnext_det.data.coco_json import read_coco_json
from resnext_det.data.reading import read_image
from resnext_det.detection.drawing import class_colours, draw_detections
from resnext_det.detection.inference import Predictor
from resnext_det.evaluation.coco import coco_results

logger = logging.getLogger(__name__)

_PICTURES = (
    ".jpg",
    ".jpeg",
    ".png",
)  # the kinds of file that pictures are written as; for another kind a PNG


def find_images(inputs: Sequence[str | Path], *, outside: str | Path | None = None) -> list[Path]:
    """The image files among files and folders, each once; a folder gives those in it and in the folders below, by name.

    Args:
        inputs: files, whatever their names, and folders.
        outside: a folder that is passed over where it lies below an input: that of the pictures of an earlier run.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: there is no image among them.
    """
    Image.init()
    readable = {
        suffix for suffix, format in Image.registered_extensions().items() if format in Image.OPEN
    }
    avoided = None if outside is None else Path(outside).resolve()
    found: dict[Path, Path] = {}
    for entry in map(Path, inputs):
        if not entry.exists():
            raise FileNotFoundError(f"{entry} does not exist; give images or folders of images")
        below = sorted(
            path for path in entry.rglob("*") if path.suffix.lower() in readable and path.is_file()
        )
        for path in below if entry.is_dir() else [entry]:
            resolved = path.resolve()
            if not entry.is_dir() or avoided is None or avoided not in resolved.parents:
                found.setdefault(resolved, path)
    if not found:
        raise ValueError(
            f"there is no image in {', '.join(map(str, inputs)) or 'nothing'}"
            f"{'' if outside is None else f' (what lies in the output folder {outside} does not count)'}; give images or folders of images"
        )
    return list(found.values())


def names_of_classes(cfg: CfgNode, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """A name for each of ``MODEL.ROI_HEADS.NUM_CLASSES`` classes: those given, those of the test set, or "class 0" ...

    Raises:
        ValueError: another number of names than of classes.
    """
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names = (
        tuple(given or ())
        or _names_of_test_set(cfg)
        or tuple(f"class {index}" for index in range(count))
    )
    if len(names) != count:
        raise ValueError(
            f"there are {len(names)} class names ({', '.join(names[:5])} ...) for MODEL.ROI_HEADS.NUM_CLASSES = {count}; give {count}"
        )
    return names


def _names_of_test_set(cfg: CfgNode) -> tuple[str, ...]:
    for name in cfg.DATASETS.TEST[:1]:
        annotations, images = find_dataset(name) if name in list_datasets() else (None, None)
        if annotations is not None and images is not None and annotations.is_file():
            return tuple(read_coco_json(annotations, images, name)[0].values())
        # A detector is used where its data are not.
        logger.warning(
            "the annotations of %s are not here, so classes have numbers; give --classes", name
        )
    return ()


def predict_files(
    cfg: CfgNode,
    paths: Sequence[Path],
    names: Sequence[str],
    *,
    output_dir: str | Path,
    score: float = 0.5,
) -> int:
    """Detect on every image; write a picture of the same name and, for all, ``detections.json``.

    ``detections.json`` is a list of COCO results (``image_id`` is the path, ``category_id`` the class from 0) with the class's name
    besides. An unreadable image is reported and passed over; the others are not lost.

    Args:
        cfg: a configuration whose ``MODEL.WEIGHTS`` names a file of a whole detector.
        paths: images, as ``find_images`` gives them.
        names: of the classes.
        output_dir: made where it is missing; of pictures with equal names the later ones get a number.
        score: detections below it are neither drawn nor written. ``MODEL.ROI_HEADS.SCORE_THRESH_TEST`` holds besides.

    Returns:
        the number of detections.

    Raises:
        ValueError: the score is none, the weights do not fit, no image could be read, or a picture would overwrite an image.
        OSError: a file could not be written.
    """
    _check_score(cfg, score)
    predictor = Predictor(cfg)
    folder = Path(output_dir)
    targets = _targets(paths, folder)
    folder.mkdir(parents=True, exist_ok=True)
    colours = class_colours(names)
    rows, unreadable = [], 0
    for path, target in tqdm(list(zip(paths, targets)), "detecting", unit="image", disable=None):
        try:
            image, shown = read_image(path, predictor.image_format), read_image(path, "BGR")
        except (ValueError, OSError) as error:
            logger.warning("%s", error)
            unreadable += 1
            continue
        found = predictor(image)
        found = found[found.scores >= score]
        labels = [names[index] for index in found.pred_classes.tolist()]
        picture = draw_detections(
            shown, found.pred_boxes.tensor, labels, found.scores, colours=colours
        )
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


def _check_score(cfg: CfgNode, score: float) -> None:
    if not 0 <= score <= 1:
        raise ValueError(f"the score {score:g} is not from 0 to 1; write, for example, 0.5 for 50%")
    lowest = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
    if score < lowest:
        logger.warning(
            "the detector gives no score below MODEL.ROI_HEADS.SCORE_THRESH_TEST = %g; for %g set that too",
            lowest,
            score,
        )


def _targets(paths: Sequence[Path], folder: Path) -> list[Path]:
    """A file for each picture; equal names from different folders get a number, so that none is lost."""
    targets: list[Path] = []
    taken: set[str] = set()
    for path in paths:
        suffix = path.suffix.lower() if path.suffix.lower() in _PICTURES else ".png"
        name, number = f"{path.stem}{suffix}", 1
        while name in taken:
            number += 1
            name = f"{path.stem}_{number}{suffix}"
        taken.add(name)
        targets.append(folder / name)
    images = {path.resolve() for path in paths}
    lost = next((target for target in targets if target.resolve() in images), None)
    if lost is not None:
        raise ValueError(
            f"the picture {lost} would overwrite an image; choose another folder for --output"
        )
    return targets
