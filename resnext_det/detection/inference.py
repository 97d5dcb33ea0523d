"""Detect with a trained detector: on an image in memory, or on files, with pictures and JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from tqdm import tqdm

from resnext_det.data.coco import find_dataset, list_datasets
from resnext_det.data.coco_json import read_category_names
from resnext_det.data.reading import read_image
from resnext_det.data.transforms import ResizeShortestEdge, resize_image
from resnext_det.detection.drawing import choose_colors, draw_detections
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.weights import load_detector
from resnext_det.evaluation.coco import make_coco_results
from resnext_det.files import write_text
from resnext_det.instances import Instances, name_classes
from resnext_det.training import distributed

logger = logging.getLogger(__name__)

# The kinds of files that pictures are written as; for an image of another kind, a PNG.
_PICTURES = (".jpg", ".jpeg", ".png")


class Predictor:
    """Detect on single images, in the manner of detectron2's DefaultPredictor.

    Args:
        cfg: a configuration whose ``MODEL.WEIGHTS`` names a file of a whole detector.

    Raises:
        ValueError, FileNotFoundError: see ``load_detector``; there is no such ``MODEL.DEVICE``; the
            configuration is of one step of the protocol in two steps.
    """

    def __init__(self, cfg: CfgNode) -> None:
        for key, value in (("META_ARCHITECTURE", "ProposalNetwork"), ("LOAD_PROPOSALS", True)):
            if cfg.MODEL[key] == value:
                raise ValueError(
                    f"MODEL.{key} = {value!r} is half a detector, of the protocol in two steps, "
                    "and cannot detect on an image alone; give a configuration of a whole one"
                )
        device = distributed.resolve_device(cfg.MODEL.DEVICE)
        self.image_format: str = cfg.INPUT.FORMAT
        self.resize = ResizeShortestEdge((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST)
        self.model = build_detector(cfg)
        load_detector(cfg, self.model)
        self.model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Instances:
        """Detect on one image.

        Args:
            image: (H, W, C) uint8, channels in the order of ``INPUT.FORMAT``, as ``read_image``
                gives them.

        Returns:
            ``pred_boxes`` in the image's pixels, ``scores`` and ``pred_classes``, best first, on
            the CPU.

        Raises:
            ValueError: the array has another shape or type.
        """
        channels = len(self.model.pixel_mean)
        if image.ndim != 3 or image.shape[2] != channels or image.dtype != np.uint8:
            raise ValueError(
                f"the image is {image.dtype} of the shape {image.shape}; give uint8 of the shape "
                f"(height, width, {channels}), channels in the order {self.image_format}"
            )
        height, width = image.shape[:2]
        size = self.resize.min_sizes[0]
        if size:  # 0 leaves the image as it is
            image = resize_image(image, *self.resize.compute_size(height, width, size))
        tensor = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
        (found,) = self.model([{"image": tensor, "height": height, "width": width}])
        return found["instances"].to("cpu")


def find_images(inputs: Sequence[str | Path], *, outside: str | Path | None = None) -> list[Path]:
    """Find the image files among files and folders, each once, those of a folder by name.

    Args:
        inputs: files, whatever their names, and folders, which are searched with those below.
        outside: a folder to pass over where it lies below an input: with an earlier run's pictures.

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
        passed_over = "" if outside is None else f" (the output folder {outside} does not count)"
        raise ValueError(
            f"there is no image in {', '.join(map(str, inputs)) or 'nothing'}{passed_over}; give "
            "images or folders of images"
        )
    return list(found.values())


def choose_class_names(cfg: CfgNode, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Choose names for the classes: those given, those of the test set, or "class 0" ...

    Raises:
        ValueError: another number of names than of classes.
    """
    return name_classes(cfg.MODEL.ROI_HEADS.NUM_CLASSES, given or _read_test_set_names(cfg))


def _read_test_set_names(cfg: CfgNode) -> tuple[str, ...]:
    for name in cfg.DATASETS.TEST[:1]:
        annotations, images = find_dataset(name) if name in list_datasets() else (None, None)
        if annotations is not None and images is not None and annotations.is_file():
            return tuple(read_category_names(annotations, name).values())
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
) -> tuple[int, int]:
    """Detect on every image; write a picture of the same name and, for all, ``detections.json``.

    ``detections.json`` is a list of COCO results (``image_id`` is the path, ``category_id`` the
    class from 0), each with the name of its class as ``category``. An image that cannot be read is
    reported and passed over.

    Args:
        cfg: a configuration whose ``MODEL.WEIGHTS`` names a file of a whole detector.
        paths: images, as ``find_images`` gives them.
        names: of the classes.
        output_dir: made where it is missing; of pictures with equal names the later ones get a
            number.
        score: detections below it are neither drawn nor written;
            ``MODEL.ROI_HEADS.SCORE_THRESH_TEST`` holds besides.

    Returns:
        the numbers of detections and of images that could be read.

    Raises:
        ValueError: the score is not from 0 to 1, the weights do not fit, no image could be read, or
            a picture would overwrite an image.
        OSError: a file could not be written.
    """
    _check_score(cfg, score)
    predictor = Predictor(cfg)
    folder = Path(output_dir)
    targets = _name_pictures(paths, folder)
    folder.mkdir(parents=True, exist_ok=True)
    colors = choose_colors(names)
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
        boxes = found.pred_boxes.tensor
        picture = draw_detections(shown, boxes, labels, found.scores, colors=colors)
        if not cv2.imwrite(str(target), picture):
            raise OSError(
                f"the picture {target} could not be written; make room on that disk, or choose "
                "another --output"
            )
        for row, label in zip(make_coco_results(str(path), found, range(len(names))), labels):
            rows.append({**row, "category": label})
    if unreadable == len(paths):
        raise ValueError(f"none of the {unreadable} images could be read; see the warnings above")
    write_text(folder / "detections.json", json.dumps(rows, indent=1))
    return len(rows), len(paths) - unreadable


def _check_score(cfg: CfgNode, score: float) -> None:
    if not 0 <= score <= 1:
        raise ValueError(f"the score {score:g} is not from 0 to 1; write, for example, 0.5 for 50%")
    lowest = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
    if score < lowest:
        logger.warning(
            "the detector gives no score below MODEL.ROI_HEADS.SCORE_THRESH_TEST = %g; for %g set "
            "that too",
            lowest,
            score,
        )


def _name_pictures(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Name a picture for each image; taken names get a number; no image is overwritten."""
    targets: dict[Path, None] = {}
    for path in paths:
        suffix = path.suffix.lower() if path.suffix.lower() in _PICTURES else ".png"
        target, number = folder / f"{path.stem}{suffix}", 1
        while target in targets:
            number += 1
            target = folder / f"{path.stem}_{number}{suffix}"
        targets[target] = None
    images = {path.resolve() for path in paths}
    lost = next((target for target in targets if target.resolve() in images), None)
    if lost is not None:
        raise ValueError(
            f"the picture {lost} would overwrite an image; choose another folder for --output"
        )
    return list(targets)
