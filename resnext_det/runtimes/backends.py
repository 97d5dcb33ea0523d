"""Find the backends that are installed, and refuse what one cannot do."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from resnext_det.runtimes import BACKENDS, DTYPES
from resnext_det.runtimes.packages import EXTRAS, describe_missing
from resnext_det.runtimes.parts import Part, Run
from resnext_det.runtimes.pyramid import split_pyramid
from resnext_det.training.precision import measure_speed

Build = Callable[[Part, torch.dtype], Run]
"""Make what computes a part's outputs from its input, both in float32, by a backend."""

# Which packages a backend needs beyond torch; the extra that brings them has the key's name.
_PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
_SLOWER = 1.5  # a smaller factor may be the noise of a busy machine


def list_backends(
    dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> tuple[str, ...]:
    """List the backends that are installed and compute in ``dtype`` on ``device`` (the CPU)."""
    device = device or torch.device("cpu")
    return tuple(name for name in BACKENDS[1:] if not _find_fault(name, dtype, device))


def find_backend(name: str, dtype: torch.dtype, device: torch.device) -> Build:
    """Import a backend's ``build``.

    Raises:
        ValueError: its packages are missing, or it does not compute in ``dtype`` or on ``device``.
    """
    if fault := _find_fault(name, dtype, device):
        raise ValueError(fault)
    module: ModuleType = importlib.import_module(f"resnext_det.runtimes.{name}")

    def build(part: Part, dtype: torch.dtype) -> Run:
        split = split_pyramid(part) if dtype == torch.float32 else None
        if split is None:
            return module.build(part, dtype)
        front, tail = split
        run = module.build(front, dtype)

        @torch.no_grad()
        def run_both(x: Tensor) -> tuple[Tensor, ...]:
            return tail(run(x))

        return run_both

    return build


def choose_int8_backend(device: torch.device) -> str:
    """Choose what computes in int8: OpenVINO, which is faster, or else ONNX Runtime."""
    found = list_backends(torch.int8, device)
    return "onnxruntime" if found == ("onnxruntime",) else "openvino"


def check_backend(name: str) -> None:
    """Refuse an unknown backend, and one whose packages are missing.

    Raises:
        ValueError: see above.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is unknown; choose one of {', '.join(BACKENDS)}")
    if fault := _find_missing(name):
        raise ValueError(fault)


def read_dtype(name: str) -> torch.dtype:
    """Read the name of a type, such as "bfloat16".

    Raises:
        ValueError: no backend computes in it.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is not supported; choose one of {', '.join(DTYPES)}")
    return getattr(torch, name)


def check_dtype(dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a type that no backend computes in, and bfloat16 where it is slower than float32.

    Raises:
        ValueError: see above.
    """
    read_dtype(str(dtype).removeprefix("torch."))
    if dtype == torch.bfloat16 and device.type == "cpu":
        speed = measure_speed(dtype)
        if speed * _SLOWER <= 1:
            raise ValueError(
                f"dtype torch.bfloat16: this CPU lacks the instructions for it, and a small "
                f"convolution takes {1 / speed:.1f} times as long as in float32; leave dtype out"
            )


def _find_fault(name: str, dtype: torch.dtype, device: torch.device) -> str:
    """Say why a backend cannot be used; "" if it can."""
    if name in EXTRAS and device.type != "cpu":
        return (
            f"backend {name!r} computes on the CPU here, and the model is on {device}; move the "
            "model to the CPU, or choose 'folded' or 'compiled'"
        )
    if name == "onnxruntime" and dtype == torch.bfloat16:
        return (
            "backend 'onnxruntime' has no bfloat16 on a CPU; choose 'openvino' or 'compiled', or "
            "leave dtype out"
        )
    if name not in EXTRAS and dtype == torch.int8:
        return f"backend {name!r} has no int8; choose 'openvino' or 'onnxruntime'"
    return _find_missing(name, dtype)


def _find_missing(name: str, dtype: torch.dtype = torch.float32) -> str:
    extra, other = EXTRAS.get(name, ""), ", or choose 'folded'"
    needed = _PACKAGES.get(extra, ())
    if dtype == torch.int8:
        other = ""
        if name == "openvino":
            needed = (*needed, "nncf")
    missing = describe_missing(needed, extra)
    return f"backend {name!r} needs {missing}{other}" if missing else ""
