"""Describe an exported detector within its own file, for readers that have no torch."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Annotated

import msgspec

KEY = "resnext_det"
"""Of the metadata: ONNX's ``metadata_props``, OpenVINO's ``rt_info``, torch's ``extra_files``."""

INPUT = "image"
OUTPUTS = ("boxes", "scores", "classes")
MASKS = "masks"
"""The graph's input, uint8 RGB (H, W, 3), and its outputs; MASKS is the last where there is one."""

SUFFIXES = (".onnx", ".xml")
"""Of ONNX, and of OpenVINO's own format, whose weights lie beside it in a file .bin."""

# The field metadata_props of a message of ONNX, and the first field of its entry, the key.
_BEHIND = re.compile(rb"r[\x80-\xff]*[\x00-\x7f]\n%c%b" % (len(KEY), KEY.encode()))
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
        detector: "FPN", "C4", "DC5" or "RetinaNet".
        min_size, max_size: in pixels; the graph resizes images to these sides, or, with a
            ``min_size`` of 0, leaves them as they are.
        score_threshold: the graph gives no detection below it.
        max_detections: of an image.
        mask_size: cells along a side of the masks that the graph gives; 0 where it gives none.
        content_size, content_crc32: of the graph and the weights that stand before the metadata in
            an ONNX file, or of OpenVINO's .bin; in bytes.
    """

    version: str
    class_names: _Names
    architecture: str
    detector: str
    min_size: _Size
    max_size: _Positive
    score_threshold: _Fraction
    max_detections: _Positive
    mask_size: _Size = 0
    content_size: int | None = None
    content_crc32: int | None = None

    def list_outputs(self) -> tuple[str, ...]:
        """List the names of the graph's outputs, in their order."""
        return (*OUTPUTS, MASKS) if self.mask_size else OUTPUTS

    def add_checksum(self, content: bytes) -> Metadata:
        """Return the metadata of this graph and these weights."""
        return msgspec.structs.replace(
            self, content_size=len(content), content_crc32=zlib.crc32(content)
        )

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


def is_damaged(path: Path, metadata: Metadata) -> bool:
    """Tell whether the graph or the weights in a file are others than when it was written.

    Where there is no checksum, or another program wrote the file anew, such as a quantizer or
    OpenVINO's converter, that is not known, and the file counts as sound.
    """
    size = metadata.content_size
    if size is None:
        return False
    is_onnx = path.suffix.lower() == ".onnx"
    checksum, left = 0, size
    with (path if is_onnx else path.with_suffix(".bin")).open("rb") as file:
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            checksum, left = zlib.crc32(part, checksum), left - len(part)
        behind = file.read(64)
    as_written = _BEHIND.match(behind) is not None if is_onnx else not left and not behind
    return as_written and checksum != metadata.content_crc32
