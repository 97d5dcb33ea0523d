"""Detect with a trained detector: on images in memory, or on files, with pictures and JSON."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from tqdm import tqdm

from resnext_det.config.loading import override_config
from resnext_det.data.annotations.coco_json import read_category_names
from resnext_det.data.coco import CocoDataset, load_coco, locate_dataset, map_classes
from resnext_det.data.pixels import AnyImage, apply_to_each, count_frames, to_pixels
from resnext_det.data.transforms import ResizeShortestEdge, resize_image
from resnext_det.detection.drawing import choose_colors, choose_labels, draw_detections
from resnext_det.detection.inputs import name_pictures
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.results import DetectionTable
from resnext_det.detection.video import convert_video, is_video
from resnext_det.detection.weights import load_detector, load_trained_config, read_trained
from resnext_det.files import list_first
from resnext_det.instances import Instances, name_classes
from resnext_det.training import distributed

logger = logging.getLogger(__name__)


class Predictor:
    """Detect on images of any kind, in the manner of detectron2's DefaultPredictor.

    Args:
        cfg: the file of a trained detector, which holds its configuration; or a configuration whose
            ``MODEL.WEIGHTS`` names a file of a whole detector.
        overrides: KEY VALUE pairs that change the configuration, and hold, aloud, against the one
            in the file.
        preprocessing: what is true of the weights, where their file does not tell, see
            ``parse_preprocessing``; the configuration is held to it.

    Attributes:
        cfg: the configuration, with the overrides.
        known_names: of the classes, in the order of ``pred_classes``; empty where the file of the
            weights does not tell.
        class_names: these, else "class 0", "class 1" ...

    Raises:
        ValueError, FileNotFoundError: see ``read_trained`` and ``load_detector``; there is no such
            ``MODEL.DEVICE``; the configuration is of one step of the protocol in two steps.
    """

    def __init__(
        self,
        cfg: CfgNode | str | Path,
        overrides: Sequence[Any] = (),
        *,
        preprocessing: str | None = None,
    ) -> None:
        if not isinstance(cfg, CfgNode):
            cfg = load_trained_config(cfg, overrides)
        elif overrides:
            cfg = override_config(cfg, overrides)
        for key, value in (("META_ARCHITECTURE", "ProposalNetwork"), ("LOAD_PROPOSALS", True)):
            if cfg.MODEL[key] == value:
                raise ValueError(
                    f"MODEL.{key} = {value!r} is half a detector, of the protocol in two steps, "
                    "and cannot detect on an image alone; give a configuration of a whole one"
                )
        device = distributed.resolve_device(cfg.MODEL.DEVICE)
        self.cfg = cfg
        self.image_format: str = cfg.INPUT.FORMAT
        self.resize = ResizeShortestEdge((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST)
        file = read_trained(cfg, overridden=overrides[::2], preprocessing=preprocessing)
        self.known_names = file.class_names or ()
        self.class_names = name_classes(cfg.MODEL.ROI_HEADS.NUM_CLASSES, self.known_names)
        self.model = build_detector(cfg)
        load_detector(self.model, file)
        self.model.to(device).eval()

    @overload
    def __call__(self, image: AnyImage) -> Instances: ...

    @overload
    def __call__(self, image: list[AnyImage] | tuple[AnyImage, ...]) -> list[Instances]: ...

    def __call__(self, image: Any) -> Any:
        """Detect on one image, or on each image of a list.

        The images of a list go through the model one by one: together they would not be faster on a
        CPU, and their results would not be the same to the last bit.

        Args:
            image: the path of a file; an image of Pillow, of any mode; (H, W, C) uint8, channels in
                the order of ``INPUT.FORMAT``, as ``read_image`` gives them, or gray, (H, W); or a
                list of such. Files and images of Pillow are turned upright by their EXIF
                orientation.

        Returns:
            ``pred_boxes`` in the (upright) image's pixels, ``scores`` and ``pred_classes``, best
            first, on the CPU; of a list, a list.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is broken, or no image; the array is of another shape or type; see
                ``to_pixels``.
        """
        return apply_to_each(image, self.image_format, self._detect)

    @torch.inference_mode()
    def _detect(self, image: AnyImage) -> Instances:
        pixels = to_pixels(image, self.image_format)
        height, width = pixels.shape[:2]
        size = self.resize.min_sizes[0]
        if size:  # 0 leaves the image as it is
            pixels = resize_image(pixels, *self.resize.compute_size(height, width, size))
        tensor = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
        (found,) = self.model([{"image": tensor, "height": height, "width": width}])
        return found["instances"].to("cpu")


def choose_class_names(
    cfg: CfgNode, given: Sequence[str] = (), known: Sequence[str] = (), dataset: str = ""
) -> tuple[str, ...]:
    """Choose names for the classes: those of the weights' file, or given, or those of a dataset.

    Without all of them, these are "class 0" ...

    Args:
        given: by the user.
        known: of the file of the weights, if it tells.
        dataset: a name; by default the first of ``DATASETS.TEST``, where its annotations are at
            hand. Its classes are taken in the order of their ids. A generated set is not asked.

    Raises:
        ValueError: another number of names than of classes; those given are not those of the file.
    """
    if known and given and tuple(known) != tuple(given):
        raise ValueError(
            f"the class names {', '.join(given)} are given, but the file {cfg.MODEL.WEIGHTS} is of "
            f"a detector of {', '.join(known)}, in this order; leave --classes out"
        )
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    return name_classes(count, known or given or _read_names(cfg, count, dataset))


def _read_names(cfg: CfgNode, count: int, dataset: str) -> tuple[str, ...]:
    for name in [dataset] if dataset else cfg.DATASETS.TEST[:1]:
        files = locate_dataset(name)
        if files is None or not files[0].is_file():
            # A detector is used where its data are not.
            reason = f"the annotations of {name} are not here"
        else:
            names = tuple(read_category_names(files[0], name).values())
            if dataset or len(names) == count:
                logger.warning(
                    "the weights do not tell the names of their classes, so those of %s are taken "
                    "in the order of their ids: %s; if the training had another order, give "
                    "--classes",
                    *(name, list_first(names)),
                )
                return names
            reason = f"the {len(names)} classes of {name} are not the detector's {count}"
        logger.warning("%s, so classes have numbers; give --classes", reason)
    return ()


def predict_files(
    detector: CfgNode | Predictor,
    paths: Sequence[Path],
    names: Sequence[str] = (),
    *,
    output_dir: str | Path,
    score: float = 0.5,
    dataset: CocoDataset | str | None = None,
) -> tuple[int, int]:
    """Detect on images and videos; write pictures of the same names, and JSON files.

    These are ``detections.json``, a list of COCO results, each with the name of its class as
    ``category``, and its ``file_name``; and ``images.json``, of COCO's form, with the images and
    categories whose ids the results have. A video becomes one with boxes, and each of its frames is
    an image of ``images.json``. What cannot be read is reported and passed over. After Ctrl-C the
    files hold what was done so far.

    Args:
        detector: a predictor, or its configuration.
        paths: images, videos, and numbers of cameras, as ``find_images`` gives them.
        names: of the classes; by default those of ``choose_class_names``.
        output_dir: made where it is missing; of pictures with equal names the later ones get a
            number.
        score: detections below it are neither drawn nor written;
            ``MODEL.ROI_HEADS.SCORE_THRESH_TEST`` holds besides.
        dataset: a dataset, or its name, that has all the images: the JSON files have its ids, so
            that ``evaluate_coco`` compares them with its annotations.

    Returns:
        the numbers of detections, and of images and frames that could be read.

    Raises:
        ValueError: the score is not from 0 to 1, the weights do not fit, no image could be read, a
            picture would overwrite an image, or the dataset has other classes or not all images.
        OSError: a file could not be written.
        KeyboardInterrupt: after Ctrl-C; it tells what was done.
    """
    predictor = detector if isinstance(detector, Predictor) else Predictor(detector)
    if isinstance(dataset, str):
        dataset = load_coco(dataset) if dataset else None
    _check_score(predictor.cfg, score, of_dataset=dataset is not None)
    folder = Path(output_dir)
    targets = name_pictures(paths, folder)
    of_dataset = "" if dataset is None else dataset.name
    names = choose_class_names(predictor.cfg, names, predictor.known_names, of_dataset)
    table = DetectionTable(names, None if dataset is None else map_classes(dataset, names))
    table.check_images(paths)
    folder.mkdir(parents=True, exist_ok=True)
    stopped = ""
    try:
        _process_all(paths, targets, _Annotator(predictor, table, score))
    except KeyboardInterrupt:
        stopped = f"stopped after {len(table.images)} images and frames"
    if not table.images and not stopped:
        raise ValueError(f"none of the {len(paths)} images could be read; see the warnings above")
    table.write(folder)
    if stopped:
        raise KeyboardInterrupt(f"{stopped}; their {len(table.rows)} detections are in {folder}")
    return len(table.rows), len(table.images)


def _check_score(cfg: CfgNode, score: float, *, of_dataset: bool) -> None:
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
    """Detect on files, gather what is found, and draw it."""

    def __init__(self, predictor: Predictor, table: DetectionTable, score: float) -> None:
        self.predictor = predictor
        self.table = table
        self.score = score
        self.labels = choose_labels(table.class_names)
        self.colors = choose_colors(self.labels)

    def make_picture(self, path: Path, target: Path) -> None:
        """Write the picture of an image file, in the format that the target's suffix names."""
        shown, format = to_pixels(path, "BGR"), self.predictor.image_format
        image = shown if format == "BGR" else to_pixels(path, format)
        _, data = cv2.imencode(target.suffix, self._annotate(image, shown, path))
        try:
            target.write_bytes(data.tobytes())
        except OSError as error:
            raise OSError(
                f"the picture {target} could not be written: {error.strerror}; make room on that "
                "disk, or choose another --output"
            ) from error

    def make_video(self, path: Path, target: Path) -> None:
        """Write the video of a video file or camera."""

        def convert(frame: np.ndarray, number: int) -> np.ndarray:
            return self._annotate(Image.fromarray(frame[:, :, ::-1]), frame, path, number)

        convert_video(path, target, convert)

    def _annotate(
        self, image: AnyImage, shown: np.ndarray, path: Path, frame: int | None = None
    ) -> np.ndarray:
        found = self.predictor(image)
        found = found[found.scores >= self.score]
        self.table.add(found, path, frame)
        labels = [self.labels[index] for index in found.pred_classes.tolist()]
        boxes = found.pred_boxes.tensor
        return draw_detections(shown, boxes, labels, found.scores, colors=self.colors)
