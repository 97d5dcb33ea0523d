"""Augment an image with its boxes, with detectron2's numbers from an explicit generator.

Every draw is made with the calls and in the order of detectron2's ``DatasetMapper``, so that
``RandomState(seed)`` here gives what ``numpy.random.seed(seed)`` gives there: images equal in every
pixel, boxes in every bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from resnext_det.data.color_jitter import ColorJitter
from resnext_det.data.crops import RandomCrop, ScaleJitter
from resnext_det.data.geometry import (
    Flip,
    InterpolatedResize,
    Resize,
    Step,
    check_cutting,
    move_boxes,
)
from resnext_det.data.masks import MASK_FORMATS, make_masks
from resnext_det.data.proposals import KEYS, transform_proposals
from resnext_det.data.reading import FORMATS, check_image_size, read_image
from resnext_det.data.records import SMALLEST_SIDE, XYWH_ABS
from resnext_det.instances import Boxes, Instances

SAMPLINGS = ("choice", "range")
FLIPS = ("horizontal", "vertical", "none")


class Augmentation(Protocol):
    """Draw the steps for an image of (height, width) from a sample's own generator."""

    def draw(self, random_state: np.random.RandomState, height: int, width: int) -> list[Step]: ...


@dataclass(frozen=True)
class ResizeShortestEdge:
    """Draw a size for the shorter side, as detectron2's transform of this name.

    Args:
        min_sizes: sizes to draw from ("choice"), or (lowest, highest) ("range", both included); 0
            leaves the image alone.
        max_size: the longest side allowed, in pixels.
        sampling: "choice" or "range".

    Raises ValueError on sizes below 0, on "range" without two sizes in order, and on another
    sampling.
    """

    min_sizes: tuple[int, ...]
    max_size: int
    sampling: str = "choice"

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise ValueError(
                f"MIN_SIZE_TRAIN_SAMPLING is {self.sampling!r}; it is one of {', '.join(SAMPLINGS)}"
            )
        if not self.min_sizes or min(self.min_sizes) < 0:
            raise ValueError(
                f"min sizes are {self.min_sizes}; give one or more sizes in pixels, such as "
                "(640, 800)"
            )
        if self.max_size < 1:
            raise ValueError(
                f"max size is {self.max_size}; give the longest side allowed, such as 1333 pixels"
            )
        in_order = len(self.min_sizes) == 2 and self.min_sizes[0] <= self.min_sizes[1]
        if self.sampling == "range" and not in_order:
            raise ValueError(
                f"min sizes are {self.min_sizes}; sampling 'range' takes two: (lowest, highest)"
            )

    def draw(self, random_state: np.random.RandomState, height: int, width: int) -> list[Step]:
        """Draw the steps for an image: a resize, or none for the size 0."""
        if self.sampling == "range":
            size = int(random_state.randint(self.min_sizes[0], self.min_sizes[1] + 1))
        else:
            size = int(random_state.choice(self.min_sizes))
        if not size:
            return []
        return [Resize(height, width, *self.compute_size(height, width, size))]

    def list_steps(self, height: int, width: int) -> list[Resize]:
        """List the steps for an image in a test, to the last size; none for the size 0."""
        size = self.min_sizes[-1]
        return [Resize(height, width, *self.compute_size(height, width, size))] if size else []

    def compute_size(self, height: int, width: int, size: int) -> tuple[int, int]:
        """Compute (height, width) of an image resized to ``size``; at least one pixel a side."""
        scale = size * 1.0 / min(height, width)
        new_height, new_width = (
            (size * 1.0, scale * width) if height < width else (scale * height, size * 1.0)
        )
        if max(new_height, new_width) > self.max_size:
            shrink = self.max_size * 1.0 / max(new_height, new_width)
            new_height, new_width = new_height * shrink, new_width * shrink
        return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


@dataclass(frozen=True)
class Stretch:
    """Bring every image to one size, whatever its aspect ratio, as ``InterpolatedResize`` does.

    Raises ValueError on sides below 1.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(
                f"INPUT.STRETCH is {(self.height, self.width)}; give height and width in pixels, "
                "such as (800, 800)"
            )

    def draw(self, random_state: np.random.RandomState, height: int, width: int) -> list[Step]:
        """Give the step for an image; nothing is drawn."""
        return [*self.list_steps(height, width)]

    def list_steps(self, height: int, width: int) -> list[Resize]:
        """List the one step for an image, in a test as in training."""
        return [InterpolatedResize(height, width, self.height, self.width)]


@dataclass(frozen=True)
class RandomFlip:
    """Mirror with a probability: "horizontal", "vertical" or "none" (which draws nothing)."""

    direction: str = "horizontal"
    probability: float = 0.5

    def __post_init__(self) -> None:
        if self.direction not in FLIPS:
            raise ValueError(f"RANDOM_FLIP is {self.direction!r}; it is one of {', '.join(FLIPS)}")

    def draw(self, random_state: np.random.RandomState, height: int, width: int) -> list[Step]:
        """Draw the steps for an image: a flip, or none."""
        if self.direction == "none" or random_state.uniform(0, 1.0) >= self.probability:
            return []
        return [Flip(self.direction, height, width)]


class DetectionMapper:
    """Turn a record into a sample, as detectron2's DatasetMapper does.

    The draws of the colors come first, then those of the crop, of the size and of the flip, in
    detectron2's order. Padding keeps its gray.

    Args:
        is_train: keep the boxes and flip; otherwise the image is only resized and the annotations
            are left out.
        min_sizes: a size or sizes, see ResizeShortestEdge.
        max_size: the longest side allowed.
        sampling: "choice" or "range"; testing always takes "choice", as detectron2 does.
        flip: "horizontal", "vertical" or "none".
        image_format: "BGR", "RGB" or "L".
        proposal_topk: how many of a record's proposals, if it has any, come with its sample; None
            leaves them alone.
        mask_format: "polygon" or "bitmask": the objects' masks come with the boxes; None leaves
            them out.
        color_jitter: changes the colors of the image that was read.
        crop: cuts a window out of it.
        scale_jitter: takes the place of the resize to one of ``min_sizes``.
        stretch: takes the place of the resize to one of ``min_sizes``.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        min_sizes: int | Sequence[int],
        max_size: int,
        sampling: str = "choice",
        flip: str = "horizontal",
        image_format: str = "BGR",
        proposal_topk: int | None = None,
        mask_format: str | None = None,
        color_jitter: ColorJitter | None = None,
        crop: RandomCrop | None = None,
        scale_jitter: ScaleJitter | None = None,
        stretch: Stretch | None = None,
    ) -> None:
        if image_format not in FORMATS:
            raise ValueError(f"INPUT.FORMAT is {image_format!r}; it is one of {', '.join(FORMATS)}")
        if mask_format not in (None, *MASK_FORMATS):
            raise ValueError(
                f"INPUT.MASK_FORMAT is {mask_format!r}; it is one of {', '.join(MASK_FORMATS)}"
            )
        sizes = (min_sizes, min_sizes) if isinstance(min_sizes, int) else tuple(min_sizes)
        self.is_train = is_train
        resize = ResizeShortestEdge(sizes, max_size, sampling if is_train else "choice")
        flips = RandomFlip(flip if is_train else "none")
        self.color_jitter = color_jitter
        self.crops = crop is not None or scale_jitter is not None
        if self.crops and mask_format is not None:
            check_cutting()
        # In the order in which they are drawn and done.
        self.augmentations: list[Augmentation] = [stretch or scale_jitter or resize, flips]
        if crop is not None:
            self.augmentations.insert(0, crop)
        self.image_format = image_format
        self.proposal_topk = proposal_topk
        self.mask_format = mask_format

    def __call__(
        self, record: dict[str, Any], random_state: np.random.RandomState | None = None
    ) -> dict[str, Any]:
        """Read and map one record, which stays as it is.

        Returns:
            The record without its annotations, with "image": uint8 (C, H, W), and in training with
            "instances": gt_boxes float32 (N, 4), gt_classes int64 (N,) and, where masks are asked
            for and an object is no crowd, gt_masks; crowds, boxes without area and masks of which
            nothing is left are left out. Where proposals are asked for, they are "proposals": see
            ``transform_proposals``.

        Raises:
            FileNotFoundError, ValueError: see ``read_image`` and ``check_image_size``; training
                without random_state; an object has no mask, or none of the format asked for.
        """
        if random_state is None:
            if self.is_train:
                raise ValueError(
                    "random_state is None, but training draws a size and a flip; give one of numpy"
                )
            random_state = np.random.RandomState(0)
        image = read_image(record["file_name"], self.image_format)
        check_image_size(record, image)
        if self.color_jitter is not None:
            image = self.color_jitter.apply(image, random_state, self.image_format)
        steps: list[Step] = []
        for augmentation in self.augmentations:
            for step in augmentation.draw(random_state, *image.shape[:2]):
                image = step.apply_image(image)
                steps.append(step)
        new_size = image.shape[:2]

        sample = {key: value for key, value in record.items() if key != "annotations"}
        sample["image"] = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
        if self.proposal_topk is not None and "proposal_boxes" in record:
            sample = {key: value for key, value in sample.items() if key not in KEYS}
            sample["proposals"] = transform_proposals(
                record, new_size, steps, topk=self.proposal_topk
            )
        if self.is_train and "annotations" in record:
            sample["instances"] = self._make_instances(record["annotations"], new_size, steps)
        return sample

    def _make_instances(
        self, annotations: Sequence[dict[str, Any]], size: tuple[int, int], steps: Sequence[Step]
    ) -> Instances:
        kept = [annotation for annotation in annotations if annotation.get("iscrowd", 0) == 0]
        others = {int(annotation["bbox_mode"]) for annotation in kept} - {XYWH_ABS}
        if others:
            raise ValueError(
                f"bbox_mode {max(others)} is not supported; give boxes as [x, y, width, height] (1)"
            )
        corners = transform_boxes([annotation["bbox"] for annotation in kept], size, steps)
        boxes = torch.from_numpy(corners.astype(np.float32))
        classes = [annotation["category_id"] for annotation in kept]
        instances = Instances(
            size, gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes, dtype=torch.int64)
        )
        keep = torch.ones(len(kept), dtype=torch.bool)
        if self.mask_format is not None and kept:  # detectron2 gives no masks of no object
            segmentations = [annotation.get("segmentation") for annotation in kept]
            masks = make_masks(segmentations, size, steps, self.mask_format)
            keep = masks.nonempty()
            instances.gt_masks = masks
            if self.crops:  # what is left of an object may not fill what is left of its box
                boxes = masks.get_bounding_boxes().tensor
                instances.gt_boxes = Boxes(boxes)
        keep = keep & (boxes[:, 2:] - boxes[:, :2] > SMALLEST_SIDE).all(dim=1)
        return instances[keep]


def transform_boxes(
    boxes: Sequence[Sequence[float]], size: tuple[int, int], steps: Sequence[Step]
) -> np.ndarray:
    """Transform annotated boxes (x, y, width, height) along with their image, and clip them to it.

    Equals detectron2's ``transform_instance_annotations`` to the last bit, two surprises included:
    the corners of a box are rounded to float32 before they are moved, and a box of four integers
    has its resized corners truncated to whole pixels (there an integer array is scaled in place).

    Args:
        boxes: N boxes as JSON gave them; whether their numbers are integers matters.
        size: (height, width) of the transformed image.
        steps: that the image went through.

    Returns:
        float64, (N, 4): x0, y0, x1, y1.
    """
    height, width = size
    integral = np.array([all(isinstance(value, int) for value in box) for box in boxes], dtype=bool)
    given = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    corners = scale_boxes(given, integral, None)
    for chosen, dtype in ((integral, np.int64), (~integral, np.float64)):
        corners[chosen] = move_boxes(steps, corners[chosen].astype(dtype))
    return np.minimum(corners.clip(min=0), [width, height, width, height])


def scale_boxes(boxes: np.ndarray, integral: np.ndarray, factors: np.ndarray | None) -> np.ndarray:
    """Find the corners of boxes (N, 4), x, y, width, height, in resized images.

    Args:
        integral: (N,), whether JSON gave a box by four integers.
        factors: (2,) or (N, 2), of x and y; None where images are not resized.

    Returns:
        float64, (N, 4): x0, y0, x1, y1, with the rounding of ``transform_boxes``.
    """
    exact = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    single = boxes.astype(np.float32)
    rounded = np.hstack([single[:, :2], single[:, :2] + single[:, 2:]]).astype(np.float64)
    corners = np.where(integral[:, None], exact, rounded)
    if factors is None:
        return corners
    corners = corners * np.concatenate([factors, factors], axis=-1)
    return np.where(integral[:, None], np.trunc(corners), corners)
