"""Convert a part of a model to a graph with dynamic sizes, and check what it is called with."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from resnext_det.runtimes.folded import fold_norms
from resnext_det.runtimes.parts import Part, Run

# Cells of the example that is traced, for every axis that may change. They differ, so that none is
# taken for another, and from those of an example that a model is compared on.
_CELLS = (2, 3, 4, 5)
_NOISY = ("torch.onnx", "torch.jit")
_LEAST = 64  # pixels of an axis with no multiple, so that the last map has several cells
_DEFORMABLE = "torchvision::deform_conv2d"
_OPSET = 19  # the first with DeformConv


def convert_to_onnx(part: Part) -> bytes:
    """Convert a part to an ONNX model of one input; the axes in ``part.multiples`` stay dynamic.

    By torch's older exporter, which traces: the newer one, and OpenVINO's reader of torch.export's
    graphs, give as fast a graph after ten times as long (X-26-8x4d: 4 s of CPU, here 0.2 s). What a
    trace wrote as a number that depends on the size is found in the comparison on the example.
    """
    shape = list(part.example.shape)
    for axis, multiple in part.multiples.items():
        small = axis > 0 and multiple == 1
        shape[axis] = _CELLS[axis] * (_LEAST if small else multiple)
    example, file = part.example.new_zeros(shape), io.BytesIO()
    with torch.no_grad(), silence_exporters():
        network = fold_norms(part.network)  # which leaves a fraction of the operators
        ranks = {f"y{index}": output.ndim for index, output in enumerate(network(example))}
        # The exporter would write the sizes of this example for axes that are not named.
        torch.onnx.register_custom_op_symbolic(_DEFORMABLE, _write_deformable, _OPSET)
        sizes = {name: {axis: f"{name}_{axis}" for axis in range(ranks[name])} for name in ranks}
        torch.onnx.export(
            network,
            (example,),
            file,  # type: ignore[arg-type]  # the annotation is the newer exporter's
            dynamo=False,
            opset_version=_OPSET,
            input_names=["x"],
            output_names=list(ranks),
            dynamic_axes={"x": {axis: f"x_{axis}" for axis in part.multiples}, **sizes},
        )
    return file.getvalue()


def _write_deformable(
    graph: Any, x: Any, weight: Any, offset: Any, mask: Any, bias: Any, *numbers: Any
) -> Any:
    """Write torchvision's deformable convolution as ONNX's, whose offsets are arranged alike."""
    from torch.onnx import symbolic_helper as helper

    *sizes, groups, offset_groups, use_mask = (helper._get_const(n, "i", "n") for n in numbers)
    stride, padding, dilation = sizes[:2], sizes[2:4], sizes[4:]
    return graph.op(
        *("DeformConv", x, weight, offset, bias),
        *((mask,) if use_mask else ()),
        strides_i=stride,
        pads_i=[*padding, *padding],
        dilations_i=dilation,
        group_i=groups,
        offset_group_i=offset_groups,
    )


@contextmanager
def silence_exporters() -> Iterator[None]:
    """Keep back the warnings and log lines of exporters, which speak of their own internals."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    # Else a failure shows the whole graph; torch has no public switch.
    set_log = getattr(torch._C, "_jit_set_onnx_log_enabled", lambda enabled: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        set_log(False)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            set_log(True)
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


class CheckedRun:
    """Compute a part by ``run`` after a look at the input: its shape fits, and it becomes float32.

    Copies of an optimized model share it; it cannot be saved, as a runtime's memory cannot.
    """

    def __init__(self, part: Part, run: Run) -> None:
        self.part, self.run = part, run

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        self.part.check(x)
        return self.run(x.detach().float())

    def __deepcopy__(self, memo: Any) -> CheckedRun:
        return self

    def __reduce__(self) -> Any:
        raise ValueError(
            "an optimized model cannot be saved or sent to another process; save the model that "
            "optimize() was given, and optimize it where it is loaded"
        )
