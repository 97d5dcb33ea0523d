"""Compute a part of a model by ONNX Runtime, on the CPU."""

from __future__ import annotations

import onnxruntime
import torch
from torch import Tensor

from resnext_det.runtimes.parts import Part, Run
from resnext_det.runtimes.tracing import convert_to_onnx

_ONLY_ERRORS = 3


def build(part: Part, dtype: torch.dtype) -> Run:
    """Make what computes a part by ONNX Runtime in float32, with as many threads as torch has."""
    assert dtype == torch.float32
    return open_session(convert_to_onnx(part))


def open_session(model: bytes) -> Run:
    """Open a session that computes an ONNX model of one input."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ONLY_ERRORS
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]

    def run(x: Tensor) -> tuple[Tensor, ...]:
        # The outputs are in memory of the session, which uses it again once they are forgotten:
        # fresh memory, with a page fault every 4 KiB, would cost 6 percent of a network's time.
        found = session.run(names, {given: x.contiguous().numpy()})
        return tuple(map(torch.from_numpy, found))

    return run
