"""Predict the memory of a training step from steps on small images that compute almost nothing.

Convolutions, matrix products and RoIAlign give zeros there (``AllocationLog``), so that such a step
takes a second. Everything else runs as it is: the engine's own model, the sampling of anchors and
regions, autograd, the parts of a batch, the optimizer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from resnext_det import roi_align
from resnext_det.detection.allocation_log import AllocationLog
from resnext_det.detection.batch_parts import AnchorDraw
from resnext_det.instances import Boxes, Instances
from resnext_det.masks import BitMasks, PolygonMasks
from resnext_det.training.loop import LossParts

_SCALES = (0.4, 0.6)  # of the sides of the small images
_IMAGES = (1, 2)  # of a part
_OBJECT_SIDE = 8  # pixels


@dataclass(frozen=True)
class Trial:
    """Hold what a training step of an engine needs, on the CPU.

    Attributes:
        model: bare, in training mode, with any weights.
        optimizer: of its parameters.
        draw_anchors: draws the anchors of samples as the model's RPN does, see ``BatchParts``.
        convert: turns a sample with this package's ``Instances`` into one that the model takes.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    draw_anchors: AnchorDraw
    convert: Callable[[dict[str, Any]], dict[str, Any]] = lambda sample: sample


@dataclass(frozen=True)
class StepMemory:
    """Predict how many bytes of tensors a training step holds at most.

    The memory of each phase of a step (a module's call, the arrival of its output's gradient) is
    taken to be linear in the pixels of an image and in the images of a part, each with the other
    fixed. That of the step is the largest of all phases, which may be of another phase than on
    small images.

    Attributes:
        pixels: how many the smaller and the larger of the two measured images have.
        peaks: bytes by phase, and there by (row, column): row 0 or 1 for one or two images, column
            0 or 1 for the smaller or the larger one.
    """

    pixels: tuple[int, int]
    peaks: Mapping[str, Mapping[tuple[int, int], int]]

    def predict(self, images: int, height: int, width: int) -> int:
        """Predict the bytes of a step.

        Args:
            images: of a part of the batch, or of the batch where that is computed at once.
            height, width: of a padded image.
        """
        first, second = self.pixels
        along = (height * width - first) / (second - first)
        across = images - _IMAGES[0]  # _IMAGES are neighbors

        def extrapolate(peak: Mapping[tuple[int, int], int]) -> float:
            one = peak[0, 0] + along * (peak[0, 1] - peak[0, 0])
            two = peak[1, 0] + along * (peak[1, 1] - peak[1, 0])
            return one + across * (two - one)

        return round(max(map(extrapolate, self.peaks.values())))


def measure_step(
    trial: Trial,
    split: LossParts,
    *,
    parts: int,
    objects: int,
    size: tuple[int, int],
    unit: int,
    masks: str = "",
    amp_dtype: torch.dtype | None = None,
) -> StepMemory:
    """Measure what predicts the memory of a training step, by four steps on small images.

    Args:
        split: computes the losses of a batch, see ``LossParts``.
        parts: into which it divides the batch.
        objects: of an image, at most.
        size: height and width of the largest image, in pixels.
        unit: pixels; sides of images are padded to multiples of it.
        masks: "polygon" or "bitmask", as INPUT.MASK_FORMAT; empty for none.
        amp_dtype: of mixed precision, or None; see ``train_loop``.
    """
    sizes = [_round_size(size, scale, unit) for scale in _SCALES]
    if sizes[0] == sizes[1]:  # the images are as small as they can be
        sizes[1] = (sizes[0][0] + unit, sizes[0][1] + unit)
    found: dict[tuple[int, int], Mapping[str, int]] = {}
    for row, column in product(range(2), range(2)):
        samples = [
            trial.convert(make_sample(*sizes[column], objects=objects, masks=masks))
            for _ in range(_IMAGES[row] * parts)
        ]
        with _run_quietly(), _cut_one_region():
            found[row, column] = _log_step(trial, split, samples, amp_dtype)
    phases = set.intersection(*(set(peaks) for peaks in found.values()))
    return StepMemory(
        (sizes[0][0] * sizes[0][1], sizes[1][0] * sizes[1][1]),
        {name: {place: peaks[name] for place, peaks in found.items()} for name in phases},
    )


def _round_size(size: tuple[int, int], scale: float, unit: int) -> tuple[int, int]:
    height, width = (max(1, round(side * scale / unit)) * unit for side in size)
    return height, width


def make_sample(height: int, width: int, *, objects: int, masks: str = "") -> dict[str, Any]:
    """Make a training sample whose left half is one object, with the others, small ones, in it.

    Where every region that touches an object counts as an object, enough regions do, and the right
    half leaves enough that are background.

    Args:
        height, width: of the image, in pixels.
        objects: how many.
        masks: "polygon" or "bitmask", as INPUT.MASK_FORMAT; empty for none.

    Returns:
        a dict as detectron2's, with an image of zeros and this package's ``Instances``.
    """
    side, half = min(_OBJECT_SIDE, height // 2), width // 2
    boxes = torch.zeros(objects, 4)
    boxes[:, 0] = torch.arange(objects) * side % max(half - side, 1)
    boxes[:, 1] = torch.arange(objects) * side // max(half - side, 1) * side % (height - side)
    boxes[:, 2:] = boxes[:, :2] + side
    boxes[0] = torch.tensor([0, 0, half, height])
    truth = Instances(
        (height, width), gt_boxes=Boxes(boxes), gt_classes=torch.zeros(objects, dtype=torch.int64)
    )
    if masks == "polygon":
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].double().numpy()
        truth.set("gt_masks", PolygonMasks([[outline] for outline in corners]))
    elif masks:
        truth.set("gt_masks", BitMasks(torch.ones(objects, height, width, dtype=torch.bool)))
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    return {"file_name": f"{height}x{width}", "image": image, "instances": truth}


@contextmanager
def _run_quietly() -> Iterator[None]:
    """Leave the caller's random state as it is, and hold back what a model warns of."""
    package = logging.getLogger(__name__.split(".")[0])
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        package.setLevel(level)


@contextmanager
def _cut_one_region() -> Iterator[None]:
    """Let the faster RoIAlign cut only the largest region out of each map.

    It goes from region to region, each freed before the next, which takes half of a step's time.
    """
    group = roi_align.group_regions

    def give_largest(*arguments: Any) -> Iterator[Any]:
        def measure(found: Any) -> int:
            return (found.y.stop - found.y.start) * (found.x.stop - found.x.start)

        if groups := list(group(*arguments)):
            yield max(groups, key=measure)

    with patch.object(roi_align, "group_regions", give_largest):
        yield


def _log_step(
    trial: Trial, split: LossParts, batch: Sequence[Any], amp_dtype: torch.dtype | None
) -> Mapping[str, int]:
    """Run a step as ``train_loop`` does; return the most bytes by phase."""
    model, optimizer = trial.model, trial.optimizer
    tensors = [*model.parameters(), *model.buffers()]
    log = AllocationLog()
    for tensor in tensors:
        log.note(tensor)
    with ExitStack() as stack:
        stack.enter_context(log)
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(log.enter(name)).remove)
            stack.callback(module.register_forward_hook(log.leave(name)).remove)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # makes the averages that it keeps, such as momentum
        optimizer.zero_grad()
        log.peaks.clear()
        log.phase = "before"
        parts = split(model, batch)
        while True:
            with torch.autocast("cpu", dtype=amp_dtype, enabled=amp_dtype is not None):
                losses = next(parts, _END)
            if losses is _END:
                break
            if losses is None:
                optimizer.zero_grad()
                continue
            log.phase = "losses"
            torch.stack(list(losses.values())).sum().backward()
            del losses
        log.phase = "optimizer"
        optimizer.step()
        optimizer.zero_grad()
        optimizer.state.clear()
    return log.peaks


_END: Any = object()
