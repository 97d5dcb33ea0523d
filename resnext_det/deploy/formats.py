"""Write a traced detector as a file: ONNX, OpenVINO's own format, or torch's."""

from __future__ import annotations

import logging
import operator
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torchvision.ops import nms

from resnext_det.deploy.metadata import INPUT, KEY, MASKS, Metadata
from resnext_det.runtimes.openvino_core import get_core

OPSET = 18

# Below every finite float32, so that all scores but minus infinity are above it.
_LOWEST = -3.4028235e38
# From so many boxes on torchvision, on a CPU, does not shift the groups apart, see _suppress.
_MOST_SHIFTED = 1000


def write_onnx(program: ExportedProgram, path: Path, metadata: Metadata, example: Tensor) -> None:
    """Write a program that detects on an image of any size as ONNX.

    Args:
        program: traced, from an image to the outputs that the metadata list.
        example: an image, as the program takes it.
    """
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        written = torch.onnx.export(
            program,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(metadata.list_outputs()),
            opset_version=OPSET,
            custom_translation_table={
                torch.ops.resnext_det.suppress_overlaps.default: _suppress,
                torch.ops.torchvision.roi_pool.default: _pool_regions,
            },
            verbose=False,
        )
    assert written is not None
    model = written.model_proto
    _name_sizes(model, metadata.mask_size)
    _forget_source(model)
    onnx.checker.check_model(model)
    save_with_metadata(model, path, metadata)


def save_with_metadata(model: Any, path: Path, metadata: Metadata) -> None:
    """Save a model of onnx, and behind it the metadata with its checksum.

    Protobuf reads what stands one behind the other as one message.
    """
    import onnx

    content = model.SerializeToString()
    text = metadata.add_checksum(content).to_json()
    behind = onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key=KEY, value=text)])
    path.write_bytes(content + behind.SerializeToString())


def write_openvino(onnx_file: Path, path: Path, metadata: Metadata) -> None:
    """Write what ``write_onnx`` wrote in OpenVINO's own format: ``path`` and a file .bin."""
    core = get_core()
    import openvino

    model = core.read_model(onnx_file)
    model.set_rt_info(metadata.to_json(), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def write_program(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Write a program as ``torch.export.load`` reads it, with operators of torchvision alone."""
    own = torch.ops.resnext_det.suppress_overlaps.default
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torchvision, for torch's developers
        program = program.run_decompositions({own: _suppress_in_torch})
    _allow_single_boxes(program)
    torch.export.save(program, path, extra_files={KEY: metadata.to_json()})


def _allow_single_boxes(program: ExportedProgram) -> None:
    """Take out the assertions that suppression keeps two boxes or more.

    torchvision (0.29) declares so of its operator, though it keeps one, or none, as well.
    """
    graph = program.graph_module.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):
        condition: Any = node.args[0]
        if condition.target is not operator.ge or condition.args[1] != 2:
            continue
        size: Any = condition.args[0]
        if size.args[0].target is torch.ops.torchvision.nms.default:
            graph.erase_node(node)
    program.graph_module.recompile()


def _name_sizes(model: Any, mask_size: int) -> None:
    """Name the sizes that differ from image to image."""
    wanted = {
        INPUT: ("height", "width", 3),
        "boxes": ("detections", 4),
        "scores": ("detections",),
        "classes": ("detections",),
        MASKS: ("detections", mask_size, mask_size),
    }
    for value in (*model.graph.input, *model.graph.output):
        for dimension, size in zip(value.type.tensor_type.shape.dim, wanted[value.name]):
            dimension.Clear()
            if isinstance(size, int):
                dimension.dim_value = size
            else:
                dimension.dim_param = size


def _forget_source(model: Any) -> None:
    """Take out what the exporter noted of every node: lines of code, with the paths of files."""
    graph = model.graph
    for entry in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del entry.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]


def _suppress_in_torch(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Write ``suppress_overlaps`` without a branch: groups are shifted apart, see ``_suppress``.

    Up to 1000 boxes they are so in float32, and more in float64, where nothing is rounded.
    """
    count = boxes.shape[0]
    # A box that is added for the largest coordinate where there is none.
    largest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max() + 1
    rounded = boxes + (groups.to(boxes) * largest)[:, None]
    exact = boxes.double() + (groups.double() * largest.double())[:, None]
    few = torch.full((), count, device=boxes.device) <= _MOST_SHIFTED
    return nms(torch.where(few, rounded.double(), exact), scores.double(), threshold)


def _suppress(boxes: Any, scores: Any, groups: Any, threshold: float) -> Any:
    """Write ``suppress_overlaps`` in ONNX: every group is a class of NonMaxSuppression.

    Up to 1000 boxes torchvision, and so the eager detector, shifts each group by the largest
    coordinate, in float32, which rounds the boxes a little: so does this, for the same choice. More
    it leaves where they are, and so does this.
    """
    import onnx
    from onnxscript import opset18 as op

    count = op.Shape(scores)
    few = op.CastLike(op.LessOrEqual(count, op.Constant(value_ints=[_MOST_SHIFTED])), boxes)
    largest = op.Add(op.ReduceMax(boxes, keepdims=0), op.Constant(value_float=1.0))
    shifts = op.Mul(op.CastLike(groups, boxes), op.Mul(largest, few))
    shifted = op.Add(boxes, op.Unsqueeze(shifts, [1]))
    one = op.Constant(value_int=1)
    highest = op.ReduceMax(op.Concat(groups, op.Constant(value_ints=[0]), axis=0), keepdims=0)
    every = op.Range(op.Constant(value_int=0), op.Add(highest, one), one)
    own = op.Equal(op.Unsqueeze(every, [1]), op.Unsqueeze(groups, [0]))  # (groups, N)
    by_group = op.Where(own, op.Unsqueeze(scores, [0]), op.Constant(value_float=float("-inf")))
    chosen = op.NonMaxSuppression(
        op.Unsqueeze(shifted, [0]),
        op.Unsqueeze(by_group, [0]),
        op.Constant(value_ints=[2**31 - 1]),
        op.Constant(value_floats=[threshold]),
        op.Constant(value_floats=[_LOWEST]),
    )
    kept = op.Squeeze(op.Slice(chosen, [2], [3], [1]), [1])
    # Best first, and of equals the first: in the order of their indices, then of their scores.
    nothing = onnx.helper.make_tensor("value", onnx.TensorProto.INT64, [1], [0])
    marks = op.ScatterElements(
        op.ConstantOfShape(count, value=nothing), kept, op.Expand(one, op.Shape(kept)), axis=0
    )
    kept = op.Squeeze(op.NonZero(marks), [0])
    _, order = op.TopK(op.Gather(scores, kept), op.Shape(kept), axis=0, largest=1, sorted=1)
    return op.Gather(kept, order)


def _pool_regions(
    features: Any, regions: Any, scale: float, height: int, width: int
) -> tuple[Any, Any]:
    """Write RoIPool in ONNX, which rounds as torchvision does; onnxscript's own does not work.

    Returns:
        the regions, and what stands for the places of the maxima, which no detector reads.
    """
    from onnxscript import opset18 as op

    pooled = op.MaxRoiPool(features, regions, pooled_shape=[height, width], spatial_scale=scale)
    return pooled, op.Cast(pooled, to=6)  # int32
