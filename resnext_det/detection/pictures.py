"""Detect on files: write pictures and videos with boxes and masks, and what is found as JSON.

It does without torch, so that exported detectors do.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from resnext_det.data.coco import CocoDataset, map_classes
from resnext_det.data.pixels import AnyImage, count_frames, to_pixels
from resnext_det.detection.contact_sheet import ContactSheets
from resnext_det.detection.drawing import (
    choose_colors,
    choose_labels,
    draw_detections,
    draw_truth_beside,
)
from resnext_det.detection.ground_truth import mark_boxes
from resnext_det.detection.inputs import name_pictures
from resnext_det.detection.results import DetectionTable, ImageDetections
from resnext_det.detection.video import convert_video, is_video
from resnext_det.files import list_first

logger = logging.getLogger(__name__)

_LEGIBLE = 320  # pixels of the longer side, from which on labels have room


class Detector(Protocol):
    """Name what ``detect_on_files`` needs of a detector."""

    @property
    def image_format(self) -> str:
        """Name the channels of the arrays that it takes: "BGR", "RGB" or "L"."""
        ...

    @property
    def lowest_score(self) -> float:
        """Tell the score that none of its detections is below."""
        ...

    def detect(self, image: AnyImage) -> ImageDetections:
        """Detect on one image of any kind that ``to_pixels`` takes."""
        ...


def detect_on_files(
    detector: Detector,
    paths: Sequence[Path],
    names: Sequence[str],
    *,
    output_dir: str | Path,
    score: float = 0.5,
    dataset: CocoDataset | None = None,
    show_truth: bool = False,
    contact_sheet: bool = False,
) -> tuple[int, int]:
    """Detect on images and videos; write pictures of the same names, and JSON files.

    The pictures of images under 320 pixels are enlarged by a whole factor, so that labels fit.

    These are ``detections.json``, a list of COCO results, each with the name of its class as
    ``category``, its ``file_name``, and ``segmentation`` where there are masks; and
    ``images.json``, of COCO's form, with the images and categories whose ids the results have. A
    video becomes one with boxes, and each of its frames is an image of ``images.json``. What cannot
    be read is reported and passed over. After Ctrl-C the files hold what was done so far.

    Args:
        detector: a ``Predictor``, or an ``ExportedDetector``.
        paths: images, videos, and numbers of cameras, as ``find_images`` gives them.
        names: of the detector's classes.
        output_dir: made where it is missing; of pictures with equal names the later ones get a
            number.
        score: detections below it are neither drawn nor written;
            ``MODEL.ROI_HEADS.SCORE_THRESH_TEST``, of RetinaNet that of ``MODEL.RETINANET``,
            holds besides.
        dataset: a dataset that has all the images: the JSON files have its ids, so
            that ``evaluate_coco`` compares them with its annotations.
        show_truth: draw the dataset's annotations beside the detections, and what is wrong and
            missed at IoU .5 by kinds, see ``ImageFindings``.
        contact_sheet: write ``contact_sheet_1.jpg`` ... too, with small pictures of all images.

    Returns:
        the numbers of detections, and of images and frames that could be read.

    Raises:
        ValueError: the score is not from 0 to 1, the weights do not fit, no image could be read, a
            picture would overwrite an image, the dataset has other classes or not all images, or
            there is none whose truth could be shown.
        OSError: a file could not be written.
        KeyboardInterrupt: after Ctrl-C; it tells what was done.
    """
    _check_score(detector.lowest_score, score, of_dataset=dataset is not None)
    if show_truth and dataset is None:
        raise ValueError(
            "there is no ground truth to show: name the set of the images with --register-coco "
            "NAME ANNOTATIONS IMAGES, or leave --show-truth out"
        )
    folder = Path(output_dir)
    targets = name_pictures(paths, folder)
    dataset = None if dataset is None else map_classes(dataset, names)
    table = DetectionTable(names, dataset)
    table.check_images(paths)
    folder.mkdir(parents=True, exist_ok=True)
    sheets = ContactSheets(folder, _write_picture, targets) if contact_sheet else None
    annotator = _Annotator(detector, table, score, dataset if show_truth else None, sheets)
    stopped = ""
    try:
        with sheets or nullcontext():
            _process_all(paths, targets, annotator)
    except KeyboardInterrupt:
        stopped = f"stopped after {len(table.images)} images and frames"
    if not table.images and not stopped:
        raise ValueError(f"none of the {len(paths)} images could be read; see the warnings above")
    table.write(folder)
    if stopped:
        raise KeyboardInterrupt(f"{stopped}; their {len(table.rows)} detections are in {folder}")
    return len(table.rows), len(table.images)


def check_same_names(given: Sequence[str], known: Sequence[str], file: str | Path) -> None:
    """Refuse class names that are not those of the detector's file, where that tells them.

    Raises:
        ValueError: they differ.
    """
    if known and given and tuple(known) != tuple(given):
        raise ValueError(
            f"the class names {', '.join(given)} are given, but the file {file} is of "
            f"a detector of {', '.join(known)}, in this order; leave --classes out"
        )


def _check_score(lowest: float, score: float, *, of_dataset: bool) -> None:
    if not 0 <= score <= 1:
        raise ValueError(f"the score {score:g} is not from 0 to 1; write, for example, 0.5 for 50%")
    if score < lowest:
        logger.warning(
            "the detector gives no score below MODEL.ROI_HEADS.SCORE_THRESH_TEST (of RetinaNet: "
            "MODEL.RETINANET.SCORE_THRESH_TEST) = %g; for %g set that too (of an exported file: at "
            "its export)",
            lowest,
            score,
        )
    elif score > lowest and of_dataset:
        logger.warning(
            "detections of scores under %g are left out, which lowers their AP; for that of "
            "--eval-only write --score %g",
            *(score, lowest),
        )


def _process_all(paths: Sequence[Path], targets: Sequence[Path], annotator: _Annotator) -> None:
    """Make the picture or video of every path; tell what cannot be read, and frames left out."""
    animated = {}
    for path, target in tqdm(list(zip(paths, targets)), "detecting", unit="image", disable=None):
        try:
            if is_video(path):
                annotator.make_video(path, target)
            else:
                annotator.make_picture(path, target)
                animated[path] = count_frames(path)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("%s", error)
    several = [f"{path} ({count} frames)" for path, count in animated.items() if count > 1]
    if several:
        logger.warning(
            "of files that hold several images the first alone was taken: %s; save the others as "
            "files of their own, or as a video",
            list_first(several),
        )


class _Annotator:
    """Detect on files, gather what is found, and draw it.

    Args:
        truth: a dataset whose annotations are drawn beside what is found.
        sheets: get a small picture of every image.
    """

    def __init__(
        self,
        detector: Detector,
        table: DetectionTable,
        score: float,
        truth: CocoDataset | None = None,
        sheets: ContactSheets | None = None,
    ) -> None:
        self.detector = detector
        self.table = table
        self.score = score
        self.labels = choose_labels(table.class_names)
        self.colors = choose_colors(self.labels)
        self.annotations = None if truth is None else _locate_annotations(truth)
        self.sheets = sheets

    def make_picture(self, path: Path, target: Path) -> None:
        """Write the picture of an image file, in the format that the target's suffix names."""
        shown, format = to_pixels(path, "BGR"), self.detector.image_format
        image = shown if format == "BGR" else to_pixels(path, format)
        found = self._detect(image, path)
        width = shown.shape[1] * max(1, math.ceil(_LEGIBLE / max(shown.shape[:2])))
        if self.annotations is None:
            picture = self._draw(found, shown, width=width)
        else:
            marked = mark_boxes(self.annotations[path.resolve()], found, self.labels)
            picture = draw_truth_beside(shown, *marked, width=2 * width + 8)
        _write_picture(target, picture)
        if self.sheets is not None:
            width = self.sheets.choose_width(shown)
            small = self._draw(found, shown, width=width, show_labels=False)
            counts = Counter(self.labels[index] for index in found.classes.tolist())
            told = [(f"{n} {label}", self.colors[label]) for label, n in counts.most_common()]
            self.sheets.add(small, path.name, told)

    def make_video(self, path: Path, target: Path) -> None:
        """Write the video of a video file or camera."""

        def convert(frame: np.ndarray, number: int) -> np.ndarray:
            image = Image.fromarray(frame[:, :, ::-1])
            return self._draw(self._detect(image, path, number), frame)

        convert_video(path, target, convert)

    def _detect(self, image: AnyImage, path: Path, frame: int | None = None) -> ImageDetections:
        found = self.detector.detect(image).select(self.score)
        self.table.add(found, path, frame)
        return found

    def _draw(self, found: ImageDetections, image: np.ndarray, **options: Any) -> np.ndarray:
        labels = [self.labels[index] for index in found.classes.tolist()]
        return draw_detections(
            image, found.boxes, labels, found.scores, found.masks, colors=self.colors, **options
        )


def _locate_annotations(dataset: CocoDataset) -> dict[Path, Sequence[Mapping[str, Any]]]:
    """Locate the annotations of every image: {resolved path: detectron2's dicts}."""
    return {Path(each["file_name"]).resolve(): each["annotations"] for each in dataset.records}


def _write_picture(path: Path, picture: np.ndarray) -> None:
    _, data = cv2.imencode(path.suffix, picture)
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise OSError(
            f"the picture {path} could not be written: {error.strerror}; make room on that "
            "disk, or choose another --output"
        ) from error
