"""Compute a part of a model by OpenVINO, on the CPU."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from resnext_det.runtimes.openvino_core import get_core, switch_off_telemetry
from resnext_det.runtimes.parts import Part, Run
from resnext_det.runtimes.tracing import OutputMemory, convert_to_onnx

switch_off_telemetry()
import openvino  # noqa: E402

_CACHED = 1000  # layers' kernels of earlier image sizes: some ten sizes, and not 5000 kernels
_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


def build(part: Part, dtype: torch.dtype) -> Run:
    """Make what computes a part by OpenVINO, with as many threads as torch has now.

    Raises:
        ValueError: this CPU has no bfloat16 in OpenVINO.
    """
    if dtype == torch.bfloat16:
        able = get_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" not in able:
            raise ValueError(
                "backend 'openvino' has no bfloat16 on this CPU, which lacks the instructions for "
                "it; leave dtype out"
            )
    return compile_graph(convert(part), dtype)


def convert(part: Part) -> openvino.Model:
    """Convert a part to OpenVINO's graph, with dynamic sizes.

    Raises:
        ValueError: OpenVINO cannot read an operator of it, such as a deformable convolution.
    """
    try:
        return get_core().read_model(convert_to_onnx(part))
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.startswith("-- No conversion")]
        if not lines:
            raise
        raise ValueError(
            f"backend 'openvino' cannot read an operator of this model ({lines[0][3:]}); choose "
            "'onnxruntime' or 'folded'"
        ) from error


def compile_graph(graph: openvino.Model, dtype: torch.dtype) -> Run:
    """Compile a graph of one input for this CPU; a quantized graph with dtype float32."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "CPU_RUNTIME_CACHE_CAPACITY": _CACHED,
    }
    compiled = get_core().compile_model(graph, "CPU", settings)
    request = compiled.create_infer_request()
    count = len(compiled.outputs)
    lock = threading.Lock()  # a request computes one input at a time

    def learn(x: Tensor) -> tuple[Tensor, ...]:
        with lock:
            found = compiled([x.contiguous().numpy()], share_inputs=True)
        return tuple(torch.from_numpy(found[index]) for index in range(count))

    def fill(x: Tensor, outputs: tuple[Tensor, ...]) -> None:
        x = x.contiguous()  # kept until the end, as OpenVINO does not keep what it is given
        with lock:
            request.set_input_tensor(_share(x))
            for index, output in enumerate(outputs):
                request.set_output_tensor(index, _share(output))
            request.infer()

    return OutputMemory(learn, fill)


def _share(x: Tensor) -> Any:
    return openvino.Tensor(x.numpy(), shared_memory=True)
