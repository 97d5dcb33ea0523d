"""Quantize the convolutions and layers of an exported detector; boxes stay in float32."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resnext_det.data.coco import load_coco, register_files
from resnext_det.data.pixels import to_pixels
from resnext_det.deploy.evaluation import Files, measure_ap
from resnext_det.deploy.exported import ExportedDetector
from resnext_det.deploy.formats import save_with_metadata
from resnext_det.runtimes.quantization import IMAGES, check_numbers, quantize_onnx

_MASK_PREDICTOR = "mask_head.predictor.weight"  # in int8, masks would be twice as far off
_BETWEEN = ("Add", "Relu", "MaxPool", "Resize")


def quantize_exported(
    exact: Path,
    path: Path,
    calibration_data: Files,
    *,
    test_data: Files | None = None,
    max_loss: float | None = None,
) -> dict[str, tuple[float, float]]:
    """Quantize the .onnx file of a detector by ONNX Runtime, on images of a set.

    Resizing, decoding, RoIAlign and suppression stay in float32, and so do the layers that give the
    classes, boxes and masks of regions. The convolutions that give those of RetinaNet's anchors,
    a large share of its work, are quantized: in float32 they left its AP as it was.

    Args:
        exact: the .onnx file that ``export_detector`` wrote.
        path: the file to write; where it loses too much, it is not written.
        calibration_data: a COCO file and its image folder.
        test_data: another set, on which AP is measured.
        max_loss: how much less the AP may be, of boxes and of masks, in percent.

    Returns:
        by the names that ``measure_ap`` gives, the AP of the exact file and of the quantized one;
        empty without ``test_data``.

    Raises:
        ValueError, FileNotFoundError: see ``load_coco``; ``max_loss`` stands without ``test_data``;
            the file loses more.
    """
    import onnx

    if max_loss is not None and test_data is None:
        raise ValueError(
            f"max_loss = {max_loss} bounds the loss of AP, which nothing measures; give a set to "
            "measure it on, --test-data ANNOTATIONS IMAGES"
        )
    detector, content = ExportedDetector(exact), exact.read_bytes()
    quantized = quantize_onnx(content, _read_images(*calibration_data), find_exact_nodes)
    model = onnx.load_from_string(quantized)
    del model.metadata_props[:]
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        partial = Path(folder, path.name)
        save_with_metadata(model, partial, detector.metadata)
        found = {}
        if test_data is not None:
            before, after = (
                measure_ap(each.detect, each.class_names, test_data)
                for each in (detector, ExportedDetector(partial))
            )
            found = {name: (before[name], after[name]) for name in before}
            for pair in found.values():
                check_numbers(*pair, max_loss)
        os.replace(partial, path)
    return found


def _read_images(annotations: str | Path, images: str | Path) -> Iterator[np.ndarray]:
    """Read images of a set, evenly spaced in it, as the file takes them."""
    records = load_coco(register_files(annotations, images)).records
    for record in records[:: -(-len(records) // IMAGES) or 1]:
        yield np.ascontiguousarray(to_pixels(record["file_name"], "RGB"))


def find_exact_nodes(graph: Any) -> Iterable[str]:
    """Find the nodes that are no convolution, no layer with ReLU, and not between such nodes.

    The convolution that gives masks is among them.

    Args:
        graph: of ONNX, whose nodes are in the order of computation.
    """
    constants = {value.name for value in graph.initializer}
    rectified = {name for node in graph.node if node.op_type == "Relu" for name in node.input}
    quantized: set[str] = set()
    for node in graph.node:
        if node.op_type in ("Gemm", "MatMul"):
            chosen = node.input[1] in constants and node.output[0] in rectified
        elif node.op_type in _BETWEEN:
            chosen = all(name in quantized for name in node.input if name and name not in constants)
        else:
            chosen = node.op_type == "Conv" and not node.input[1].endswith(_MASK_PREDICTOR)
        if chosen:
            quantized.update(node.output)
        else:
            yield node.name
