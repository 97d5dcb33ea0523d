"""Measure parts of detectors with masks, cascades and RetinaNet in turns with detectron2's.

    OMP_NUM_THREADS=1 python -m tests.benchmark.parts

Medians of the processor's time of this process, which other programs hardly change. Two minutes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from resnext_det.architecture import Architecture
from resnext_det.benchmark.engines import (
    PLUGIN,
    PORTABLE,
    build_engine,
    draw_samples,
    load_converter,
)
from resnext_det.detection.portable.pasting import paste_masks
from resnext_det.detection.portable.roi_pooler import ROIPooler
from resnext_det.masks import BitMasks, rasterize_polygons
from resnext_det.rle import encode_masks

HEIGHT, WIDTH = 800, 1216
Pair = tuple[str, Callable[[], Any], Callable[[], Any]]


def draw_boxes(count: int) -> torch.Tensor:
    """Draw boxes within the image, small and large."""
    size = torch.tensor([WIDTH, HEIGHT])
    corners = torch.rand(count, 2) * size * 0.7
    sides = torch.minimum(12 * torch.exp(3.5 * torch.rand(count, 2)), size - corners)
    return torch.cat([corners, corners + sides], dim=1)


def list_masks() -> Iterator[Pair]:
    """List what is computed with 100 masks of an image."""
    import pycocotools.mask
    from detectron2.layers import paste_masks_in_image
    from detectron2.structures import BitMasks as TheirMasks

    boxes, size = draw_boxes(100), (HEIGHT, WIDTH)
    drawn = torch.nn.functional.interpolate(torch.rand(100, 1, 4, 4), (28, 28), mode="bilinear")

    def encode_theirs() -> list[Any]:
        arrays = (np.asarray(mask[:, :, None], dtype=np.uint8, order="F") for mask in pasted)
        return [pycocotools.mask.encode(array)[0] for array in arrays]

    pasted = paste_masks(drawn, boxes, size).numpy()
    yield (
        "pasting 100 masks",
        lambda: paste_masks_in_image(drawn[:, 0], boxes, size),
        lambda: paste_masks(drawn, boxes, size),
    )
    yield "encoding 100 masks", encode_theirs, lambda: encode_masks(pasted)
    polygons = draw_samples(1, *size)[0]["instances"].gt_masks.polygons
    whole = np.stack([rasterize_polygons(parts, *size) for parts in polygons])[np.arange(100) % 20]
    ours, theirs = BitMasks(whole), TheirMasks(torch.from_numpy(whole))
    yield (
        "cutting 100 bitmaps",
        lambda: theirs.crop_and_resize(boxes, 28),
        lambda: ours.crop_and_resize(boxes, 28),
    )


def list_regions() -> Iterator[Pair]:
    """List RoIAlign by torchvision's operator, as in detectron2, and by matrix products."""
    strides = (4, 8, 16, 32)
    maps = [torch.randn(1, 256, HEIGHT // each, WIDTH // each).requires_grad_() for each in strides]
    last = [one.detach().to(memory_format=torch.channels_last).requires_grad_() for one in maps]
    for name, count, cells in (("stage of a cascade", 256, 7), ("mask head", 64, 14)):
        options: dict[str, Any] = {"resolution": cells, "strides": strides, "sampling_ratio": 0}
        boxes, gradient = [draw_boxes(count)], torch.randn(count, 256, cells, cells)

        def step(
            given: list[torch.Tensor],
            by_matrices: bool,
            options: dict[str, Any] = options,
            boxes: list[torch.Tensor] = boxes,
            gradient: torch.Tensor = gradient,
        ) -> None:
            pooler = ROIPooler(**options, pooler_type="ROIAlignV2", by_matrices=by_matrices)
            pooler(given, boxes).backward(gradient)

        label = f"RoIAlign of a {name}, {count} regions, with gradients"
        yield label, lambda step=step: step(maps, False), lambda step=step: step(last, True)  # type: ignore[misc]


def make_losses(engine: str) -> Callable[[], None]:
    """Make RetinaNet's labels and losses of an image, with the gradients of its predictions."""
    from detectron2.utils.events import EventStorage

    model: Any = build_engine(engine, Architecture.parse("R-50"), "RetinaNet").train()
    targets = [one["instances"] for one in load_converter(engine)(draw_samples(1, HEIGHT, WIDTH))]
    generator = torch.Generator().manual_seed(0)
    sizes = [(-(-HEIGHT // stride), -(-WIDTH // stride)) for stride in (8, 16, 32, 64, 128)]
    maps = [torch.zeros(1, 256, *size) for size in sizes]
    logits = [torch.randn(1, 720, *size, generator=generator) * 0.6 - 4.6 for size in sizes]
    deltas = [torch.randn(1, 36, *size, generator=generator) * 0.1 for size in sizes]
    for one in (*logits, *deltas):
        one.requires_grad_()

    def step() -> None:
        if engine == PORTABLE:
            model.head.forward = lambda _: (logits, deltas)
            losses = model.compute_losses(
                model.anchor_generator(maps), *model.predict(maps), targets
            )
        else:
            with EventStorage():
                losses = model.forward_training(None, maps, [logits, deltas], targets)
        sum(losses.values()).backward()

    return step


def main() -> int:
    """Measure, and print a line for each part."""
    torch.manual_seed(0)
    losses: Pair = ("RetinaNet's losses, an image", make_losses(PLUGIN), make_losses(PORTABLE))
    for name, theirs, ours in (*list_masks(), *list_regions(), losses):
        seconds: list[list[float]] = [[], []]
        for turn in range(5):
            for taken, step in zip(seconds, (theirs, ours)):
                began = time.process_time()
                step()
                if turn > 1:  # in the second, torch compiles detectron2's focal loss
                    taken.append(1000 * (time.process_time() - began))
        print(
            f"{name}: {statistics.median(seconds[0]):.0f} ms in detectron2, "
            f"{statistics.median(seconds[1]):.0f} here",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
