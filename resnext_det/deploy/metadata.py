"""Describe an exported detector within its own file, for readers that have no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

KEY = "resnext_det"
"""Of the metadata: ONNX's ``metadata_props``, OpenVINO's ``rt_info``, torch's ``extra_files``."""

INPUT = "image"
OUTPUTS = ("boxes", "scores", "classes")
"""The graph's input, uint8 RGB (H, W, 3), and its outputs."""

SUFFIXES = (".onnx", ".xml")
"""Of ONNX, and of OpenVINO's own format, whose weights lie beside it in a file .bin."""

_Positive = Annotated[int, msgspec.Meta(gt=0)]
_Size = Annotated[int, msgspec.Meta(ge=0)]
_Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Names = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class Metadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Say what an exported detector is.

    Attributes:
        version: of resnext_det, which wrote the file.
        class_names: in the order of the classes that the graph gives.
        architecture: of the backbone, such as "X-50-32x4d".
        detector: "FPN", "C4" or "DC5".
        min_size, max_size: in pixels; the graph resizes images to these sides, or, with a
            ``min_size`` of 0, leaves them as they are.
        score_threshold: the graph gives no detection below it.
        max_detections: of an image.
        license: of the weights, where their file told it.
    """

    version: str
    class_names: _Names
    architecture: str
    detector: str
    min_size: _Size
    max_size: _Positive
    score_threshold: _Fraction
    max_detections: _Positive
    license: str | None = None

    def to_json(self) -> str:
        """Write the text that stands under ``KEY``."""
        return msgspec.json.encode(self).decode()


def parse_metadata(text: str) -> Metadata:
    """Read the text that stands under ``KEY``; of a later version, what is unknown is passed over.

    Raises:
        ValueError: it is no JSON, or a value is missing, or of another kind; the text is the reason
            alone.
    """
    try:
        return msgspec.json.decode(text, type=Metadata)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from error


def is_exported(path: str | Path) -> bool:
    """Tell the file of an exported detector by its suffix, .onnx or .xml."""
    return Path(path).suffix.lower() in SUFFIXES
