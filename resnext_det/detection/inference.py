"""Detect with a trained detector, on images in memory or on files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from fvcore.common.config import CfgNode

from resnext_det.config.loading import override_config
from resnext_det.config.parts import find_class_node
from resnext_det.data.annotations.coco_json import read_category_names
from resnext_det.data.coco import CocoDataset, load_coco, locate_dataset
from resnext_det.data.pixels import AnyImage, apply_to_each, to_pixels
from resnext_det.detection.backends import CalibrationData, optimize_detector
from resnext_det.detection.datasets import build_test_resize
from resnext_det.detection.pictures import check_same_names, detect_on_files
from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.results import ImageDetections
from resnext_det.detection.weights import load_detector, load_trained_config, read_trained
from resnext_det.files import list_first
from resnext_det.instances import Instances, name_classes
from resnext_det.runtimes.backends import check_backend
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
        backend: what computes, see ``optimize``; None is exact.
        dtype: "float32", "bfloat16" or "int8", in which a backend computes.
        calibration_data: of "int8", see ``optimize_detector``.

    Attributes:
        cfg: the configuration, with the overrides.
        known_names: of the classes, in the order of ``pred_classes``; empty where the file of the
            weights does not tell.
        class_names: these, else "class 0", "class 1" ...

    Raises:
        ValueError, FileNotFoundError: see ``read_trained`` and ``load_detector``; there is no such
            ``MODEL.DEVICE``; the configuration is of one step of the protocol in two steps; see
            ``optimize`` of the backend.
    """

    def __init__(
        self,
        cfg: CfgNode | str | Path,
        overrides: Sequence[Any] = (),
        *,
        preprocessing: str | None = None,
        backend: str | None = None,
        dtype: str | None = None,
        calibration_data: CalibrationData = None,
    ) -> None:
        if backend is not None:
            check_backend(backend)  # before the weights are read
        if not isinstance(cfg, CfgNode | str | Path):
            raise ValueError(
                f"a Predictor of {cfg!r} is none; give the file of a trained detector, such as "
                "output/model_final.pth, or a configuration whose MODEL.WEIGHTS names one"
            )
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
        self.resize = build_test_resize(cfg)
        file = read_trained(cfg, overridden=overrides[::2], preprocessing=preprocessing)
        self.known_names = file.class_names or ()
        self.class_names = name_classes(_count_classes(cfg), self.known_names)
        model = build_detector(cfg)
        load_detector(model, file)
        self.model = optimize_detector(
            cfg, model.to(device).eval(), backend, dtype, calibration_data
        )

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
            first, on the CPU, and of a detector of masks ``pred_masks``, bool (N, H, W); of a list,
            a list.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is broken, or no image; the array is of another shape or type; see
                ``to_pixels``.
        """
        return apply_to_each(image, self.image_format, self._detect)

    @property
    def lowest_score(self) -> float:
        """Tell the lowest score of what is detected: ``SCORE_THRESH_TEST`` of the heads."""
        return self.cfg.MODEL[find_class_node(self.cfg)].SCORE_THRESH_TEST

    def detect(self, image: AnyImage) -> ImageDetections:
        """Detect on one image, as a call does, and give arrays of numpy."""
        found = self(image)
        fields = [found.pred_boxes.tensor, found.scores, found.pred_classes]
        fields += [found.pred_masks] if found.has("pred_masks") else []
        return ImageDetections(found.image_size, *(field.numpy() for field in fields))

    @torch.inference_mode()
    def _detect(self, image: AnyImage) -> Instances:
        pixels = to_pixels(image, self.image_format)
        height, width = pixels.shape[:2]
        for step in self.resize.list_steps(height, width):
            pixels = step.apply_image(pixels)
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
    check_same_names(given, known, cfg.MODEL.WEIGHTS)
    count = _count_classes(cfg)
    return name_classes(count, known or given or _read_names(cfg, count, dataset))


def _count_classes(cfg: CfgNode) -> int:
    return cfg.MODEL[find_class_node(cfg)].NUM_CLASSES


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
    show_truth: bool = False,
    contact_sheet: bool = False,
) -> tuple[int, int]:
    """Detect on images and videos; write pictures of the same names, and JSON files.

    See ``detect_on_files``, which also says what is raised.

    Args:
        detector: a predictor, or its configuration.
        paths: images, videos, and numbers of cameras, as ``find_images`` gives them.
        names: of the classes; by default those of ``choose_class_names``.
        output_dir, score, show_truth, contact_sheet: see there.
        dataset: a dataset, or its name.

    Returns:
        the numbers of detections, and of images and frames that could be read.
    """
    predictor = detector if isinstance(detector, Predictor) else Predictor(detector)
    if isinstance(dataset, str):
        dataset = load_coco(dataset) if dataset else None
    of_dataset = "" if dataset is None else dataset.name
    names = choose_class_names(predictor.cfg, names, predictor.known_names, of_dataset)
    return detect_on_files(
        predictor,
        paths,
        names,
        output_dir=output_dir,
        score=score,
        dataset=dataset,
        show_truth=show_truth,
        contact_sheet=contact_sheet,
    )
