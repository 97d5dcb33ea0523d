"""A file of an exported detector that is made by hand, and what it finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from resnext_det.deploy.formats import save_with_metadata
from resnext_det.deploy.metadata import Metadata

NAMES = ("nut", "bolt", "screw")
DESCRIPTION: dict[str, Any] = {
    **{"version": "0.2.0", "class_names": NAMES, "architecture": "X-26-8x4d", "detector": "FPN"},
    **{"min_size": 64, "max_size": 96, "score_threshold": 0.05, "max_detections": 100},
}
# Each box in parts of the image's width and height; its score is the mean of a channel.
_PARTS = np.array([[0, 0, 0.5, 0.5], [0.25, 0.25, 0.75, 1], [0, 0.5, 1, 1]], np.float32)
_CLASSES = [1, 0, 2]
_CELLS = np.arange(28, dtype=np.float32)
# A disk, which fades from the middle of the first box, of the second and of the third.
_RADII = np.hypot(_CELLS[:, None] - 13.5, _CELLS - 13.5)
MASKS = 1 / (1 + np.exp(_RADII - np.array([[[4]], [[9]], [[15]]]))).astype(np.float32)


def write_model(
    path: Path,
    description: dict[str, Any] | str | None = DESCRIPTION,
    *,
    classes: list[int] = _CLASSES,
    divisor: float = 255.0,
    outputs: tuple[str, ...] = ("boxes", "scores", "classes"),
    sealed: bool = False,
) -> Path:
    """Write an ONNX file that finds three boxes in every image.

    Args:
        outputs: with "masks" it gives ``MASKS`` too.
        sealed: write a checksum.
    """
    make = helper.make_node
    nodes = [
        make("Shape", ["image"], ["shape"]),
        make("Gather", ["shape", "order"], ["sides"]),
        make("Cast", ["sides"], ["lengths"], to=TensorProto.FLOAT),
        make("Mul", ["parts", "lengths"], ["boxes"]),
        make("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        make("ReduceMean", ["levels", "axes"], ["means"], keepdims=0),
        make("Div", ["means", "divisor"], ["scores"]),
        make("Identity", ["given"], ["classes"]),
        make("Identity", ["disks"], ["masks"]),
    ]
    values = {
        **{"order": np.array([1, 0, 1, 0]), "axes": np.array([0, 1]), "parts": _PARTS},
        **{"divisor": np.float32(divisor), "given": np.array(classes), "disks": MASKS},
    }
    kinds = dict.fromkeys(("boxes", "scores", "masks"), TensorProto.FLOAT)
    kinds["classes"] = TensorProto.INT64
    shapes = {"boxes": [3, 4], "scores": [3], "classes": [3], "masks": list(MASKS.shape)}
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])],
        [helper.make_tensor_value_info(name, kinds[name], shapes[name]) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if isinstance(description, dict) and sealed:
        save_with_metadata(model, path, Metadata(**description))
        return path
    if description is not None:
        text = description if isinstance(description, str) else json.dumps(description)
        helper.set_model_props(model, {"resnext_det": text})
    onnx.save(model, path)
    return path


def expect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Compute what the file finds on RGB pixels: boxes, scores and classes."""
    height, width = image.shape[:2]
    boxes = _PARTS * np.array([width, height, width, height], np.float32)
    return boxes, (image.mean((0, 1)) / 255).astype(np.float32), _CLASSES
