"""Put images into a page, each within a number of bytes."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np
from markupsafe import Markup

from resnext_det.files import escape_controls
from resnext_det.report.page import join, render_fragment

_QUALITIES = (85, 75, 65, 50, 35)

_TEMPLATE = """\
<figure><img src="data:image/jpeg;base64,{{ data }}" alt="{{ alt }}" width="{{ width }}"
height="{{ height }}">
{%- if caption %}<figcaption>{{ caption }}</figcaption>{% endif %}</figure>"""


def embed_image(
    image: np.ndarray,
    alt: str,
    width: int = 480,
    *,
    caption: str | Markup = "",
    max_bytes: int = 40_000,
) -> Markup:
    """Embed an image as a JPEG thumbnail.

    Args:
        image: BGR uint8 (height, width, 3).
        alt: what it shows, for those who do not see it.
        width: of the thumbnail in pixels; a narrower image keeps its width.
        caption: stands below; text is escaped, HTML kept.
        max_bytes: of the JPEG; its quality is lowered until it fits, then its width.
    """
    small = shrink(image, width)
    data = _encode(small, max_bytes)
    height, shown = small.shape[:2]
    return render_fragment(
        _TEMPLATE,
        data=base64.b64encode(data).decode(),
        alt=escape_controls(alt),
        width=shown,
        height=height,
        caption=caption if isinstance(caption, Markup) else escape_controls(caption),
    )


def shrink(image: np.ndarray, width: int) -> np.ndarray:
    """Shrink an image to a width, with a height in proportion; a narrower one stays as it is."""
    if image.shape[1] <= width:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def place_pictures(pictures: Sequence[Markup], *, pairs: bool = False) -> Markup:
    """Place pictures in a grid that follows the width of the screen.

    Args:
        pairs: each shows two images beside each other, and needs more width.
    """
    kind = "pictures pairs" if pairs else "pictures"
    return Markup('<div class="{}">\n{}\n</div>').format(kind, join(pictures))


def _encode(image: np.ndarray, max_bytes: int) -> bytes:
    while True:
        for quality in _QUALITIES:
            flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
            data: bytes = cv2.imencode(".jpg", image, flags)[1].tobytes()
            if len(data) <= max_bytes:
                return data
        if image.shape[1] <= 32:
            return data
        image = shrink(image, image.shape[1] * 3 // 4)
