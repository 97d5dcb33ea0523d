"""Resize an image inside a graph, with the pixels that PIL's bilinear filter gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# PIL's weights have 22 bits after the point. They are kept as two halves of 11 bits, whose products
# with pixels float32 adds up without rounding.
_HALF = 2**11
# Rows of the result that are computed together, from one window of the image.
_TILE = 8

# Python's own min and max would fix the sizes of the image that is traced.
smaller: Callable[[int, int], int] = torch.sym_min  # type: ignore[assignment]
larger: Callable[[int, int], int] = torch.sym_max  # type: ignore[assignment]


def name_size(size: int, *, least: int = 1) -> int:
    """Give a size a name in the graph that is traced, where it would be a long formula.

    Sizes are computed with one another at every layer, and formulas grow till tracing takes
    minutes.

    Args:
        least: that it can be.
    """
    named: Any = torch.full((), size, dtype=torch.int64).item()
    torch._check(named >= least)
    return named


def compute_resized_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Compute (height, width) of an image whose shorter side shall have ``min_size`` pixels.

    The longer side gets at most ``max_size``. It is ``ResizeShortestEdge.compute_size`` in
    integers, which a graph follows; they differ by a pixel for one image size of ten thousand,
    where that one's floating-point numbers round a half down.
    """
    shorter, longer = smaller(height, width), larger(height, width)

    def scale(side: int) -> int:
        by_shorter = (2 * min_size * side + shorter) // (2 * shorter)
        by_longer = (2 * max_size * side + longer) // (2 * longer)
        return larger(smaller(by_shorter, by_longer), 1)

    return scale(height), scale(width)


def resize_image(image: Tensor, height: int, width: int, *, tall_by_rows: bool) -> Tensor:
    """Resize (H, W, C), whole numbers from 0 to 255, to float32 (height, width, C).

    The numbers are those of PIL's bilinear filter on uint8, to the last one: a pass over the
    columns, then one over the rows, each rounded.

    Args:
        tall_by_rows: see ``shrinks_tall_images_by_rows``.
    """
    old_height, old_width, channels = image.shape
    first_height = old_height
    if tall_by_rows:
        gain = old_height - height - 2 * larger(old_width - width, 0)
        rows_first = smaller(larger(gain, 0), 1)  # 0 or 1: a graph has no "if"
        shrunk_height = name_size(rows_first * height, least=0)
        first_height = name_size(shrunk_height + (1 - rows_first) * old_height)
        # One of both has no row.
        kept = image.narrow(0, 0, first_height - shrunk_height).flatten(1)
        image = torch.cat([_resize_rows(image.flatten(1), shrunk_height), kept])
    # Turned as matrices of bytes, which is several times as fast as turning pixels of three bytes.
    columns = image.reshape(first_height, -1).t().reshape(old_width, channels * first_height)
    columns = _resize_rows(columns, width).view(width * channels, first_height)
    resized = _resize_rows(columns.t().contiguous(), height)
    return resized.view(height, width, channels).float()


def shrinks_tall_images_by_rows() -> bool:
    """Tell whether the Pillow installed shrinks the rows first where that saves more work.

    Pillow 13 does, where the height loses more than twice the pixels that the width loses; older
    ones begin with the columns, whose rounded numbers are others.
    """
    image = np.random.default_rng(0).integers(0, 256, (90, 20, 3), dtype=np.uint8)
    resized = Image.fromarray(image).resize((17, 30), Image.Resampling.BILINEAR)
    by_rows = resize_image(torch.from_numpy(image), 30, 17, tall_by_rows=True)
    return np.array_equal(by_rows.numpy(), np.asarray(resized))


def _resize_rows(image: Tensor, size: int) -> Tensor:
    """Resize (N, L) to (size, L), rounded; uint8, and ``size`` may be 0.

    Positions are in units of half a pixel of the image, divided by ``size``, so that all are
    integers: row y of the result has its center at (2 y + 1) * N, row n of the image at
    (2 n + 1) * size.
    """
    count, device = image.shape[0], image.device
    tiles, divisor = (size + _TILE - 1) // _TILE, larger(size, 1)
    centers = (2 * torch.arange(tiles * _TILE, device=device) + 1) * count
    reach = 2 * larger(count, size)  # the filter's: a pixel, of the smaller of both images
    centers = centers.view(-1, _TILE, 1)
    first = ((centers[:, 0] - reach + size) // (2 * divisor)).clamp(min=0)  # (tiles, 1)
    window = ((_TILE - 1) * count + reach) // divisor + 2
    rows = first + torch.arange(window, device=device)  # (tiles, window)
    weights = reach - ((2 * rows[:, None] + 1) * size - centers).abs()
    weights = weights.clamp(min=0) * (rows < count)[:, None]  # (tiles, _TILE, window)
    total = weights.sum(dim=2, keepdim=True).clamp(min=1)
    upper, rest = weights * _HALF // total, weights * _HALF % total
    lower = (rest * (2 * _HALF) + total) // (2 * total)
    pixels = image[rows.clamp(max=count - 1)].float()  # (tiles, window, L)
    halves = torch.cat([upper, lower], dim=1).float() / _HALF
    whole, below = (halves @ pixels).split(_TILE, dim=1)
    resized = (whole + (below.floor() / _HALF + 0.5)).floor().to(torch.uint8)
    return resized.flatten(0, 1).narrow(0, 0, size)
