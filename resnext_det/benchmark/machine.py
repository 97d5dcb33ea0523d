"""Describe the machine that is timed on, and notice whether others use it meanwhile."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from resnext_det.training.threads import count_processors

PACKAGES = (
    *("torch", "torchvision", "detectron2", "timm", "onnxruntime", "openvino"),
    *("pycocotools", "hotcoco", "numpy"),
)
_BUSY = 0.1  # a part of a processor that a quiet machine's other programs stay under


@dataclass(frozen=True)
class Machine:
    """Say what is timed on.

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
        cpu=_read_cpu_name(),
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


def _read_cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


class OthersWatch:
    """Measure how many processors other programs use, from now on.

    Args:
        stat: the system's count of the time of all processors (Linux).
    """

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._began, self._busy, self._own = time.monotonic(), self._read_busy(), _read_own()

    def measure(self) -> float | None:
        """Measure the processors that others used; None where the system does not tell."""
        busy, passed = self._read_busy(), time.monotonic() - self._began
        if busy is None or self._busy is None or passed <= 0:
            return None
        return max(0.0, (busy - self._busy - (_read_own() - self._own)) / passed)

    def describe(self) -> str:
        """Say whether the times may be trusted."""
        others = self.measure()
        if others is None:
            return "Whether other programs used the processors meanwhile is not known here."
        used = f"Other programs used {others:.2f} of {os.cpu_count()} processors meanwhile"
        if others <= _BUSY:
            return f"{used}: the machine was quiet."
        return f"{used}: these are no times for the record; ratios, turn by turn, suffer less."

    def _read_busy(self) -> float | None:
        """Read the seconds that all processors were busy; another guest's are busy too."""
        if sys.platform == "win32":
            return None
        try:
            words = self._stat.read_text().split("\n", 1)[0].split()
            user, nice, system, _, _, interrupts, soft, steal = map(int, words[1:9])
            return (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            return None


def _read_own() -> float:
    """Read the seconds that this process and the ended ones it started were busy."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
