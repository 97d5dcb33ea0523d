"""Gather the detections on images and frames, and write them as files that COCO's tools read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnext_det.data.coco import CocoDataset
from resnext_det.detection.inputs import locate_images
from resnext_det.evaluation.coco import make_result_rows
from resnext_det.files import list_first, write_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """Hold what a detector finds on an image, as arrays of numpy, best first.

    Attributes:
        image_size: height and width in pixels.
        boxes: float32 (N, 4), x0, y0, x1, y1 in pixels of the image.
        scores: float32 (N,), from 0 to 1.
        classes: int64 (N,), from 0, in the order of the detector's class names.
        masks: bool (N, height, width); None of a detector of boxes alone.
        mask_probabilities: float32 (N, S, S), of the cells that a box is cut into; a mask is where
            they are 0.5 or more. Only exported detectors of masks give them; else None.
    """

    image_size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None = None
    mask_probabilities: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, score: float) -> ImageDetections:
        """Select the detections of this score or more."""
        chosen = self.scores >= score
        fields = (self.boxes, self.scores, self.classes, self.masks, self.mask_probabilities)
        selected = (None if field is None else field[chosen] for field in fields)
        return ImageDetections(self.image_size, *selected)  # type: ignore[arg-type]


class DetectionTable:
    """Gather detections, with the ids of a COCO dataset or, without one, ids of its own.

    Attributes:
        rows: COCO results, those of masks with ``segmentation``, each with the name of its class as
            ``category``, and ``file_name``; in a video, ``frame`` too, from 0.
        images: of COCO's form, with the ids that the rows have; without a dataset they count from
            1.

    Args:
        class_names: of the detector.
        dataset: with its classes in the detector's order. Without it, category ids are the numbers
            of the detector's classes, from 0.
    """

    def __init__(self, class_names: Sequence[str], dataset: CocoDataset | None = None) -> None:
        self.class_names = tuple(class_names)
        self.category_ids = range(len(class_names)) if dataset is None else dataset.category_ids
        self.rows: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self._dataset = dataset
        self._ids = {} if dataset is None else locate_images(dataset)

    def check_images(self, paths: Iterable[Path]) -> None:
        """Refuse images that the dataset lacks; warn where some of the dataset's are left out.

        Raises:
            ValueError: there are such images.
        """
        if self._dataset is None:
            return
        every = list(paths)
        strange = [str(path) for path in every if path.resolve() not in self._ids]
        if strange:
            raise ValueError(
                f"{len(strange)} of {len(every)} images are not in the dataset "
                f"{self._dataset.name!r}, whose ids the detections shall have: "
                f"{list_first(strange)}; give images of {self._dataset.image_dir}, or leave the "
                "dataset out"
            )
        if len(every) < len(self._ids):
            logger.warning(
                "%d of the %d images of %s are given; evaluated on the whole set, the others count "
                "as images without detections",
                *(len(every), len(self._ids), self._dataset.name),
            )

    def add(self, found: ImageDetections, path: Path, frame: int | None = None) -> None:
        """Add the detections on an image, or on a frame of a video."""
        number = {} if frame is None else {"frame": frame}
        image_id = len(self.images) + 1 if self._dataset is None else self._ids[path.resolve()]
        height, width = found.image_size
        entry = {"id": image_id, "file_name": str(path), **number, "width": width, "height": height}
        self.images.append(entry)
        rows = make_result_rows(
            image_id, found.boxes, found.scores, found.classes, self.category_ids, found.masks
        )
        for row, index in zip(rows, found.classes.tolist(), strict=True):
            name = self.class_names[index]
            self.rows.append({**row, "category": name, "file_name": str(path), **number})

    def write(self, folder: Path) -> None:
        """Write ``detections.json`` and ``images.json``.

        The first is a list of COCO results, the second has COCO's form, with the images and
        categories that the results name, and no annotations.

        Raises:
            OSError: the folder cannot be written to.
        """
        names = zip(self.category_ids, self.class_names, strict=True)
        categories = [{"id": number, "name": name} for number, name in names]
        table = {"images": self.images, "annotations": [], "categories": categories}
        write_text(folder / "detections.json", json.dumps(self.rows, indent=1))
        write_text(folder / "images.json", json.dumps(table, indent=1))
