"""Describe the machine and the versions that a process computes with."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from resnext_det.training.threads import count_processors

PACKAGES = (
    *("torch", "torchvision", "detectron2", "timm", "onnxruntime", "openvino"),
    *("pycocotools", "hotcoco", "numpy"),
)


@dataclass(frozen=True)
class Machine:
    """Say what computes.

    Attributes:
        processors: that this process may use.
        versions: of Python and of the packages that are installed.
        gpu: its name, "" without one.
    """

    cpu: str
    processors: float
    threads: int
    capability: str
    versions: Mapping[str, str]
    gpu: str = ""

    def describe(self) -> str:
        """Describe it in two lines."""
        known = [f"{name} {version}" for name, version in self.versions.items()]
        gpu = f"{self.gpu}; " if self.gpu else ""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return (
            f"{gpu}{self.cpu}, {self.capability}, {self.processors:g} processors, {threads}\n"
            f"{', '.join(known)}"
        )


def describe_machine(device: torch.device) -> Machine:
    """Find out what this process computes with."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        if version := _find_version(name):
            versions[name] = version
    on_gpu = device.type == "cuda"
    return Machine(
        cpu=read_cpu_name(),
        processors=count_processors(),
        threads=torch.get_num_threads(),
        capability=torch.backends.cpu.get_cpu_capability(),
        versions=versions,
        gpu=torch.cuda.get_device_name(device) if on_gpu else "",
    )


def _find_version(name: str) -> str:
    """Find the version of a package, "" where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if importlib.util.find_spec(name) is None:
            return ""
        return str(getattr(importlib.import_module(name), "__version__", "of unknown version"))


def read_cpu_name() -> str:
    """Name the processor's model, by the system's own list where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
