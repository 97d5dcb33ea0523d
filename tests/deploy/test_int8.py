"""A quantized file computes its convolutions in int8 and its boxes in float32, and is bounded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from resnext_det.deploy.export import export_detector  # noqa: E402
from resnext_det.deploy.exported import ExportedDetector  # noqa: E402
from resnext_det.deploy.int8 import find_exact_nodes, quantize_exported  # noqa: E402
from tests.deploy.test_export import draw, make_predictor  # noqa: E402


def test_what_stays_in_float32() -> None:
    make = onnx.helper.make_node
    nodes = [
        make("Sub", ["image", "mean"], ["x"], "normalize"),
        make("Conv", ["x", "w1"], ["a"], "first"),
        make("Relu", ["a"], ["b"], "relu"),
        make("Conv", ["b", "w2"], ["c"], "second"),
        make("Add", ["c", "b"], ["d"], "shortcut"),
        make("Add", ["d", "anchors"], ["e"], "box"),
        make("Gemm", ["d", "w3", "bias"], ["f"], "layer"),
        make("Relu", ["f"], ["g"], "layer_relu"),
        make("Gemm", ["g", "w4", "bias"], ["scores"], "classes"),
        make("MatMul", ["d", "e"], ["boxes"], "align"),
        make("Conv", ["b", "model.roi_heads.mask_head.predictor.weight"], ["masks"], "predictor"),
    ]
    weights = [onnx.helper.make_tensor(name, 1, [1], [1]) for name in ("w1", "w2", "w3", "w4")]
    weights.append(onnx.helper.make_tensor("bias", 1, [1], [1]))
    graph = onnx.helper.make_graph(nodes, "graph", [], [], weights)
    assert list(find_exact_nodes(graph)) == ["normalize", "box", "classes", "align", "predictor"]


def test_a_bound_needs_a_measure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_loss = 1\.0 bounds .*, --test-data ANNOTATIONS IMA"):
        quantize_exported(tmp_path / "a.onnx", tmp_path / "b.onnx", ("", ""), max_loss=1.0)


@pytest.mark.slow
def test_a_detector_in_int8(tmp_path: Path) -> None:
    """Against itself in float32; a bound that it exceeds leaves no file."""
    exact, path = tmp_path / "exact.onnx", tmp_path / "int8.onnx"
    predictor = make_predictor(tmp_path, [])
    export_detector(predictor, exact)
    sizes = [(60, 90), (80, 64), (64, 64)]
    for index, size in enumerate(sizes):
        Image.fromarray(draw(*size)).save(tmp_path / f"{index}.png")
    boxes = [predictor.detect(tmp_path / f"{index}.png").boxes[0] for index in range(len(sizes))]
    found = predictor.detect(tmp_path / "0.png")
    content = {
        "images": [
            {"id": index + 1, "file_name": f"{index}.png", "height": height, "width": width}
            for index, (height, width) in enumerate(sizes)
        ],
        "annotations": [
            {
                **{"id": index + 1, "image_id": index + 1, "category_id": 1, "iscrowd": 0},
                "bbox": [float(v) for v in (*box[:2], *(box[2:] - box[:2]))],
                "area": float(np.prod(box[2:] - box[:2])),
            }
            for index, box in enumerate(boxes)
        ],
        "categories": [
            {"id": index + 1, "name": name} for index, name in enumerate(predictor.class_names)
        ],
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    files = tmp_path / "set.json", tmp_path
    numbers = quantize_exported(exact, path, files, test_data=files, max_loss=100)
    assert list(numbers) == ["AP"] and path.stat().st_size < 0.7 * exact.stat().st_size
    quantized = ExportedDetector(path)
    assert quantized.class_names == predictor.class_names
    near = quantized.detect(tmp_path / "0.png")
    assert abs(len(near.scores) - len(found.scores)) <= 0.2 * len(found.scores)
    assert abs(float(near.scores.mean() - found.scores.mean())) < 0.05
    made = {name: node.op_type for node in onnx.load(path).graph.node for name in node.output}
    convolutions = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    assert convolutions and all(
        made[name] == "DequantizeLinear" for node in convolutions for name in node.input[:2]
    )
