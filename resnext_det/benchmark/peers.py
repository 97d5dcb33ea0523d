"""Run a peer's network in another runtime, as a user of both would by their documentation."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnext_det.runtimes.openvino_core import get_core

Run = Callable[[], list[np.ndarray]]

_PACKAGES = {
    "ONNX Runtime": ("onnx", "onnxscript", "onnxruntime"),
    "OpenVINO": ("openvino",),
}


def list_runtimes() -> list[str]:
    """List the runtimes that are installed."""
    return [
        name
        for name, packages in _PACKAGES.items()
        if all(importlib.util.find_spec(package) is not None for package in packages)
    ]


def run_in_onnxruntime(network: nn.Module, images: Tensor, dtype: str) -> Run:
    """Export a network to ONNX at the images' size, and return what runs it on them.

    Raises:
        ValueError: another type than float32, which ONNX Runtime lacks on a CPU.
    """
    import onnxruntime

    if dtype != "float32":
        raise ValueError(f"ONNX Runtime has no {dtype} on a CPU")
    with torch.no_grad(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        program: Any = torch.onnx.export(network.eval(), (images,), dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, feed)


def run_in_openvino(network: nn.Module, images: Tensor, dtype: str) -> Run:
    """Convert a network for OpenVINO at the images' size, and return what runs it on them.

    Its precision is named, as on some processors OpenVINO computes in bfloat16 unasked.
    """
    core = get_core()
    import openvino

    with torch.no_grad():
        model = openvino.convert_model(
            network.eval(), example_input=images, input=[tuple(images.shape)]
        )
    settings = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = core.compile_model(model, "CPU", settings)
    feed = [images.numpy()]

    def run() -> list[np.ndarray]:
        found = compiled(feed)
        return [found[index] for index in range(len(compiled.outputs))]

    return run
