"""Compute RoIAlign (arXiv 1703.06870) as matrix products, with a deterministic gradient.

RoIAlign samples a region at a grid of points, so each of its cells is the product of a vector over
the map's rows and one over its columns, and a region is two small matrix products. In channels-last
memory these are faster on a CPU than torchvision's operator, which computes one channel after the
other; and the gradient is two products more, where torchvision's adds with atomics on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# Numbers of an intermediate result on a GPU, where many regions are computed at once.
_NUMBERS_AT_ONCE = 2**26

_FARTHEST = 2**20  # pixels; samples that adapt to a region's size would take minutes


@dataclass(frozen=True)
class RegionGrid:
    """Say which cells of a region RoIAlign computes, and from which samples.

    Args:
        cells: a region has so many along each axis.
        scale: of the map, against the pixels of the regions: 1 / stride.
        sampling_ratio: samples per cell and axis; 0 adapts it to the region's size.
        aligned: whether pixels have their centers at half integers (``ROIAlignV2``).
        every: compute each so many-th cell along each axis, from the first one on.
    """

    cells: int
    scale: float
    sampling_ratio: int
    aligned: bool
    every: int = 1

    def keep_every(self, step: int) -> RegionGrid:
        """Return the grid of which a convolution 1x1 of stride ``step`` would read the cells."""
        return replace(self, every=self.every * step)


def align_regions(features: Tensor, regions: Tensor, grid: RegionGrid) -> Tensor:
    """Cut regions out of maps, as ``torchvision.ops.roi_align`` does, within rounding.

    Weights are computed, and products taken, in float32 at least, also under autocast. A trace or a
    compiled graph calls torchvision's operator, as runtimes know that one.

    Args:
        features: maps (N, C, H, W); fastest in channels-last memory.
        regions: (R, 5), floating: the map's index, then x0, y0, x1, y1 in pixels. They get no
            gradient.

    Returns:
        (R, C, n, n), where n is ``grid.cells / grid.every`` rounded up, in channels-last memory
        and of the type of ``features``.

    Raises:
        ValueError: a region is not finite, or more than a million pixels away.
        RuntimeError: a second derivative is asked for (in the backward pass).
    """
    dtype = torch.promote_types(torch.promote_types(features.dtype, regions.dtype), torch.float32)
    regions = regions.detach().to(dtype)
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        from torchvision.ops import roi_align

        cut = roi_align(
            *(features.to(dtype), regions, grid.cells, grid.scale),
            *(grid.sampling_ratio, grid.aligned),
        )
        return cut[..., :: grid.every, :: grid.every].to(features.dtype)
    far = regions[~(regions.abs() <= _FARTHEST)]
    if len(far):
        raise ValueError(
            f"a region to be cut out of a map reaches to {far[0].item()}, which is in no image; "
            "drop boxes that are not finite, and clip the others to their image"
        )
    height, width = features.shape[2:]
    columns = _compute_weights(regions[:, 1], regions[:, 3], width, grid)
    rows = _compute_weights(regions[:, 2], regions[:, 4], height, grid)
    return _Align.apply(features, rows, columns, regions[:, 0].long().tolist())


def _compute_weights(start: Tensor, end: Tensor, size: int, grid: RegionGrid) -> Tensor:
    """Compute how much of each of ``size`` pixels of an axis is in each cell of each region.

    Args:
        start, end: of the regions along this axis, (R,), in pixels of the image.

    Returns:
        (R, n, size); the weights of a cell sum to 1, or to less where samples are off the map.
    """
    offset = 0.5 if grid.aligned else 0.0
    start, end = start * grid.scale - offset, end * grid.scale - offset
    length = end - start
    if not grid.aligned:
        length = length.clamp(min=1.0)
    cell = length / grid.cells
    if grid.sampling_ratio > 0:
        samples = torch.full_like(cell, grid.sampling_ratio)
    else:
        samples = cell.ceil().clamp(min=0)
    divisor = samples.clamp(min=1)
    index = torch.arange(0, grid.cells, grid.every, dtype=start.dtype, device=start.device)
    pixel = torch.arange(size, dtype=start.dtype, device=start.device)
    corner = start[:, None] + index * cell[:, None]  # (R, n)
    weights = start.new_zeros(len(start), len(index), size)
    for number in range(int(samples.max()) if len(samples) else 0):
        point = corner + (number + 0.5) * (cell / divisor)[:, None]
        counts = (point >= -1) & (point <= size) & (number < samples)[:, None]
        distance = (point.clamp(0, size - 1)[..., None] - pixel).abs()
        weights += (1 - distance).clamp_(min=0) * counts[..., None]
    return weights / divisor[:, None, None]


@dataclass(frozen=True)
class _Group:
    """Select neighboring regions, which are computed at once, and the part of a map they need."""

    image: int
    regions: slice
    y: slice
    x: slice


def _find_extents(weights: Tensor) -> list[slice]:
    """Find for each region the pixels from the first to the last of any weight."""
    used = (weights != 0).any(dim=1)
    first = used.int().argmax(dim=1)
    last = used.shape[1] - used.flip(1).int().argmax(dim=1)
    last = last.where(used.any(dim=1), first)
    return [slice(*pair) for pair in torch.stack([first, last], dim=1).tolist()]


def _runs_regions_apart(weights: Tensor) -> bool:
    return weights.device.type == "cpu"


def group_regions(
    images: list[int], rows: Tensor, columns: Tensor, channels: int
) -> Iterator[_Group]:
    """Group regions: alone on a CPU, each from its part of the map; else many from the whole."""
    if _runs_regions_apart(rows):
        extents = zip(images, _find_extents(rows), _find_extents(columns))
        for index, (image, y, x) in enumerate(extents):
            yield _Group(image, slice(index, index + 1), y, x)
        return
    most = max(1, _NUMBERS_AT_ONCE // (rows.shape[1] * columns.shape[2] * channels))
    whole_y, whole_x, first = slice(0, rows.shape[2]), slice(0, columns.shape[2]), 0
    for index in range(1, len(images) + 1):
        is_last = index == len(images) or images[index] != images[first]
        if is_last or index - first == most:
            yield _Group(images[first], slice(first, index), whole_y, whole_x)
            first = index


class _Align(torch.autograd.Function):
    """Multiply maps (N, C, H, W) by each region's weights of rows and columns."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, rows: Tensor, columns: Tensor, images: list[int]
    ) -> Tensor:
        _, channels, height, width = features.shape
        ctx.save_for_backward(rows, columns)
        ctx.images, ctx.dtype, ctx.shape = images, features.dtype, features.shape
        maps = features.permute(0, 2, 3, 1).to(rows.dtype).reshape(-1, height, width * channels)
        count, cells, _ = rows.shape
        out = torch.empty(
            *(count, channels, cells, cells),
            dtype=features.dtype,
            device=features.device,
            memory_format=torch.channels_last,
        )
        regions = out.permute(0, 2, 3, 1)  # (R, n, n, C)
        with torch.autocast(features.device.type, enabled=False):
            for group in group_regions(images, rows, columns, channels):
                of, x = group.regions, group.x
                part = maps[group.image, group.y, x.start * channels : x.stop * channels]
                weights = rows[of, :, group.y].flatten(0, 1)  # (r * n, y)
                part = torch.mm(weights, part)
                part = part.view(of.stop - of.start, cells, x.stop - x.start, channels)
                weights = columns[of, None, :, x]  # (r, 1, n, x)
                if out.dtype == rows.dtype:
                    torch.matmul(weights, part, out=regions[of])
                else:
                    regions[of] = torch.matmul(weights, part)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # once_differentiable lets torch.autograd.grad pass
            raise RuntimeError(
                "ResNeXtStandardROIHeads, ResNeXtCascadeROIHeads and ResNeXtSharedRes5ROIHeads "
                "have no second derivatives, which create_graph=True asks for; write "
                "StandardROIHeads, CascadeROIHeads or ResNeXtRes5ROIHeads instead"
            )
        rows, columns = ctx.saved_tensors
        count, channels, height, width = ctx.shape
        grad = grad.permute(0, 2, 3, 1).to(rows.dtype)  # (R, n, n, C)
        maps = rows.new_zeros(count, height, width * channels)
        with torch.autocast(grad.device.type, enabled=False):
            for group in group_regions(ctx.images, rows, columns, channels):
                of, x = group.regions, group.x
                weights = columns[of, None, :, x].transpose(2, 3)  # (r, 1, x, n)
                part = torch.matmul(weights, grad[of])  # (r, n, x, C)
                weights = rows[of, :, group.y].flatten(0, 1)  # (r * n, y)
                part = part.reshape(len(weights), (x.stop - x.start) * channels)
                target = maps[group.image, group.y, x.start * channels : x.stop * channels]
                target.addmm_(weights.t(), part)
        maps = maps.view(count, height, width, channels).permute(0, 3, 1, 2)
        return maps.to(ctx.dtype), None, None, None


def join_regions(count: int, cuts: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Join regions that were cut out of several maps.

    Their gradients are taken apart at once, where ``index_put_`` clones that of all regions.

    Args:
        count: R, of all regions.
        cuts: per map (Ri, C, n, n).
        places: per map the indices (Ri,) of its regions among all.

    Returns:
        (R, C, n, n), contiguous.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _join(count, places, *cuts)
    return _Join.apply(count, places, *cuts)


def _join(count: int, places: Sequence[Tensor], *cuts: Tensor) -> Tensor:
    joined = cuts[0].new_zeros(count, *cuts[0].shape[1:])
    for place, cut in zip(places, cuts):
        joined.index_put_((place,), cut)
    return joined


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, places: Sequence[Tensor], *cuts: Tensor) -> Tensor:
        ctx.places = places
        return _join(count, places, *cuts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(grad[place] for place in ctx.places)


def arrange_for_convolutions(regions: Tensor) -> Tensor:
    """Arrange regions (R, C, n, n) in channels-last memory, on a CPU and outside of traced graphs.

    The convolutions of a mask head then take four fifths of the time, and give the same within
    rounding.
    """
    if regions.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return regions
    return regions.contiguous(memory_format=torch.channels_last)
