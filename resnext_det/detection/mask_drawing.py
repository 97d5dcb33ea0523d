"""Draw masks on pictures: a transparent color over their pixels, and a darker edge around it."""

from __future__ import annotations

import cv2
import numpy as np

from resnext_det.detection.labels import Color

_OPACITY = 0.45  # of the color over the mask's pixels
_EDGE_BRIGHTNESS = 0.7  # of the edge, over the color's


def draw_mask(canvas: np.ndarray, mask: np.ndarray, color: Color, thickness: int) -> None:
    """Draw a mask on a picture of its image, whatever the picture's size.

    Args:
        canvas: BGR uint8 (height, width, 3), which is changed.
        mask: bool (H, W), of the image's size.
        color: BGR, laid over the mask's pixels; the edge is darker, so that two masks of one color
            beside each other can be told apart.
        thickness: of the edge in pixels.
    """
    bits = mask.view(np.uint8)
    left, top, width, height = cv2.boundingRect(bits)
    if not width:
        return
    part = bits[top : top + height, left : left + width]
    scale = np.array(canvas.shape[1::-1]) / bits.shape[::-1]
    x0, y0 = np.floor((left, top) * scale).astype(int).tolist()
    x1, y1 = np.ceil((left + width, top + height) * scale).astype(int).tolist()
    if (scale != 1).any():  # a pixel of the picture is inside where half of it is
        way = cv2.INTER_AREA if scale[0] < 1 else cv2.INTER_NEAREST
        part = (cv2.resize(255 * part, (x1 - x0, y1 - y0), interpolation=way) > 127).view(np.uint8)
    region = canvas[y0:y1, x0:x1]
    tinted = cv2.addWeighted(region, 1 - _OPACITY, np.full_like(region, color), _OPACITY, 0)
    cv2.copyTo(tinted, part, region)
    outlines, _ = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    edge = tuple(round(_EDGE_BRIGHTNESS * value) for value in color)
    cv2.drawContours(region, outlines, -1, edge, thickness)
