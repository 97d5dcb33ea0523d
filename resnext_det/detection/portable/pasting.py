"""Paste the masks of regions into the image, with the numbers of detectron2."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Bytes of float32 pixels that are computed at once on a GPU.
_MEMORY = 2**30


def paste_masks(
    probabilities: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Scale square masks to their boxes, bilinearly, and mark the pixels that belong to them.

    On a CPU each mask is computed where its box is; on a GPU, and in a graph that is traced or
    compiled, many masks are computed at all pixels together.

    Args:
        probabilities: (N, S, S) or (N, 1, S, S), from 0 to 1.
        boxes: (N, 4), of any extent, in pixels of the image.
        image_size: (height, width) of the image.
        threshold: the least probability of a pixel of the mask.

    Returns:
        bool (N, height, width).
    """
    masks = probabilities.reshape(-1, 1, *probabilities.shape[-2:])
    height, width = image_size
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _sample(masks, boxes, (0, 0, width, height)) >= threshold
    shape = (len(masks), height, width)
    if boxes.device.type == "cpu":
        # NumPy's zeros take no time where no mask reaches, as the system makes pages when written.
        pasted = torch.from_numpy(np.zeros(shape, bool))
        for mask, box, whole in zip(masks, boxes, pasted):
            x0, y0, x1, y1 = window = _find_window(box, image_size)
            found = _sample(mask[None], box[None], window) >= threshold
            whole[y0:y1, x0:x1] = found[0]
        return pasted
    pasted = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
    count = max(_MEMORY // (4 * height * width), 1)
    for mask, box, whole in zip(masks.split(count), boxes.split(count), pasted.split(count)):
        whole.copy_(_sample(mask, box, (0, 0, width, height)) >= threshold)
    return pasted


def _find_window(box: Tensor, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Find the pixels that a mask can reach: one more at each side of its box, in the image."""
    height, width = image_size
    x0, y0 = (box[:2].floor() - 1).clamp(min=0).to(torch.int32).tolist()
    x1, y1 = (box[2:].ceil() + 1).to(torch.int32).tolist()
    return x0, y0, max(x0, min(x1, width)), max(y0, min(y1, height))


def _sample(masks: Tensor, boxes: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """Sample masks (N, 1, S, S) at the centers of the pixels in a window of the image.

    Args:
        window: (x0, y0, x1, y1).

    Returns:
        (N, y1 - y0, x1 - x0); 0 far from the boxes.
    """
    x0, y0, x1, y1 = window
    left, top, right, bottom = boxes.split(1, dim=1)  # each (N, 1)
    x = torch.arange(x0, x1, device=boxes.device, dtype=torch.float32) + 0.5
    y = torch.arange(y0, y1, device=boxes.device, dtype=torch.float32) + 0.5
    x = (x - left) / (right - left) * 2 - 1  # (N, width)
    y = (y - top) / (bottom - top) * 2 - 1
    shape = (boxes.shape[0], y.shape[1], x.shape[1])
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(masks, grid.to(masks.dtype), align_corners=False)[:, 0]
