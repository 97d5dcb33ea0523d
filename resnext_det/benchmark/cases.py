"""Define a comparison: who takes part, how each is built, and how far outputs may differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from resnext_det.benchmark.timing import Step

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
"""Precisions by name; tf32 is float32 whose products a GPU rounds."""

MODES = ("inference", "training")
"""What a network is timed in."""

LIMITS = {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 0.1, "int8": 0.3}
"""How much outputs may differ, for what computes them to be timed."""

Result = TypeVar("Result")


CALIBRATED = 8
"""Images on which int8 is calibrated here; as they are noise, its AP is another question."""

_INT8 = ("auto", "openvino", "onnxruntime")


def select_names(names: Sequence[str], dtype: str) -> list[str]:
    """Select the implementations that compute in a precision; int8 is of few backends."""
    return [name for name in names if dtype != "int8" or name.rpartition(", ")[2] in _INT8]


class Key(NamedTuple):
    """Name one that takes part: an implementation of a network, in a precision."""

    network: str
    name: str
    dtype: str

    def __str__(self) -> str:
        return ", ".join(filter(None, self))


@dataclass(frozen=True)
class Candidate:
    """One implementation, ready to run.

    Attributes:
        step: what is timed.
        compute: gives the outputs that have to agree.
        multiply_adds: of a step; None where they are not counted.
        weights: bytes that stand on the device also between steps.
        keeps: what has to live as long as these, such as a folder that is read from.
    """

    step: Step
    compute: Callable[[], Any]
    multiply_adds: int | None = None
    weights: int = 0
    keeps: object = None


class Case(ABC):
    """Define what is compared; it can be pickled, as memory is measured in a new process."""

    device: torch.device
    limits: Mapping[str, float] = LIMITS
    threads: int | None = None
    """How many it is timed on; None leaves torch's."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Say in a line what is compared."""

    @property
    @abstractmethod
    def reference(self) -> str:
        """Name the implementation that the others are compared with, in float32."""

    @abstractmethod
    def list_keys(self) -> list[Key]:
        """List who takes part; of every network the reference in float32 is the first."""

    @abstractmethod
    def build(self, key: Key) -> Candidate:
        """Build one of them. Whatever goes wrong is told, and the others are compared."""

    def forget(self) -> None:  # noqa: B027 (most keep nothing)
        """Free what is kept for building another one."""

    def compare(self, found: Any, expected: Any) -> float:
        """Tell how far outputs are from the reference's."""
        return measure_difference(found, expected)


@dataclass(frozen=True)
class NetworkCase(Case):
    """Compare implementations of networks, with the same weights, on images of one size.

    Args:
        networks: names of architectures, which are timed in the same turns.
        mode: one of ``MODES``.
        batch, height, width: of the images.
        dtypes: names in ``DTYPES``. On what runs in torch as it is, bfloat16 means autocast.
        backends: of ``resnext_det.optimize``, beside the exact networks; for inference.

    Raises:
        ValueError: the mode is unknown.
    """

    networks: Sequence[str]
    mode: str
    batch: int
    height: int
    width: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtypes: Sequence[str] = ("float32",)
    backends: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is unknown; choose {' or '.join(MODES)}")

    def describe_images(self) -> str:
        """Describe the shape of the images, such as "1x3x800x1088"."""
        return f"{self.batch}x3x{self.height}x{self.width}"


def hold_precision(dtype: str, call: Callable[[], Result]) -> Callable[[], Result]:
    """Wrap a call, so that on a GPU it rounds products of float32 for "tf32", and for no other."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def held() -> Result:
        before = matmul.allow_tf32, cudnn.allow_tf32
        matmul.allow_tf32 = cudnn.allow_tf32 = dtype == "tf32"
        try:
            return call()
        finally:
            matmul.allow_tf32, cudnn.allow_tf32 = before

    return held


def measure_difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Measure the largest difference of arrays or tensors, as a part of the expected's largest.

    Returns:
        The largest of all outputs; infinity where one is missing, has another shape or is not
        finite.
    """
    if found.keys() != expected.keys():
        return float("inf")
    differences = [0.0]
    for name, value in expected.items():
        wanted, given = as_array(value), as_array(found[name])
        if wanted.shape != given.shape or not np.isfinite(given).all():
            return float("inf")
        if wanted.size:
            largest = float(np.abs(wanted).max()) or 1.0
            differences.append(float(np.abs(given - wanted).max()) / largest)
    return max(differences)


def as_array(value: Any) -> np.ndarray:
    """Copy a tensor, an array or a number to a float64 array."""
    if isinstance(value, torch.Tensor):
        value = value.detach().float().cpu().numpy()
    return np.asarray(value, np.float64)
