"""Compute a part of a model by OpenVINO, on the CPU."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnext_det.runtimes.openvino_core import get_core, switch_off_telemetry
from resnext_det.runtimes.parts import Part, Run
from resnext_det.runtimes.tracing import convert_to_onnx

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
    return _CompiledGraph(get_core().compile_model(graph, "CPU", settings))


class _CompiledGraph:
    """Compute the outputs of a compiled graph of one input, into memory of ours.

    Its own memory would have to be copied, as its next call overwrites it.
    """

    _KEPT = 64  # sizes of images; a data set has some hundreds

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self.compiled, self.request = compiled, compiled.create_infer_request()
        self.shapes: dict[tuple[int, ...], list[tuple[int, ...]]] = {}  # of the outputs, by input
        self.memory = OutputMemory()
        self.lock = threading.Lock()  # a request computes one input at a time

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x.contiguous()  # kept until the end, as OpenVINO does not keep what it is given
        with self.lock:
            shapes = self.shapes.get(tuple(x.shape))
            if shapes is None:
                return self._learn(x)
            outputs = self.memory.take(shapes)
            self.request.set_input_tensor(_share(x))
            for index, output in enumerate(outputs):
                self.request.set_output_tensor(index, _share(output))
            self.request.infer(share_outputs=True)  # else it copies them
        return outputs

    def _learn(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs by another request, in memory of their own; remember their shapes."""
        found = self.compiled([x.numpy()], share_inputs=True)
        outputs = tuple(torch.from_numpy(found[index]) for index in range(len(found)))
        if len(self.shapes) >= self._KEPT:
            del self.shapes[next(iter(self.shapes))]
        self.shapes[tuple(x.shape)] = [tuple(output.shape) for output in outputs]
        return outputs


class OutputMemory:
    """Give tensors for outputs, in memory of earlier ones that are forgotten, where there is some.

    Fresh memory has a page fault every 4 KiB, which costs a tenth of the time of a network.
    """

    _CALLS = 2  # of which memory is kept, as a caller may hold the last outputs until the next

    def __init__(self) -> None:
        # Flat arrays, the last used at the end, each with a reference that dies with the last
        # tensor on it.
        self.kept: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def take(self, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        """Make a tensor of float32 of each shape, of any content; call it in one thread a time."""
        tensors = tuple(map(self._take_one, shapes))
        del self.kept[: -self._CALLS * len(shapes)]  # what is held lives on without us
        return tensors

    def _take_one(self, shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape)
        free = [index for index, (_, user) in enumerate(self.kept) if user() is None]
        fitting = [index for index in free if self.kept[index][0].size >= size]
        array = np.empty(size, np.float32)
        if fitting:
            array = self.kept.pop(min(fitting, key=lambda index: self.kept[index][0].size))[0]
        view = array[:size].reshape(shape)
        self.kept.append((array, weakref.ref(view)))
        return torch.from_numpy(view)  # which holds the view as long as the memory is used


def _share(x: Tensor) -> Any:
    return openvino.Tensor(x.numpy(), shared_memory=True)
