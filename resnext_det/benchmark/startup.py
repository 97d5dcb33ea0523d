"""Time what a user waits for before the work begins: imports, --help, building, weights."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from resnext_det.architecture import Architecture
from resnext_det.benchmark.cases import Candidate, Case, Key
from resnext_det.benchmark.engines import THEIRS, build_engine, list_engines
from resnext_det.benchmark.trunks import build_trunk
from resnext_det.weights import load_weights

PARTS = ("import", "help", "build", "weights")

# What a process of its own runs.
_IMPORTS = {
    "import torch": "import torch",
    "import torchvision": "import torchvision",
    "import resnext_det": "import resnext_det",
    "resnext_det.ResNeXt": "import resnext_det; resnext_det.ResNeXt",
    "resnext_det.Predictor": "import resnext_det; resnext_det.Predictor",
    "detectron2's DefaultPredictor": "from detectron2.engine import DefaultPredictor",
}
_MAIN = "import sys; from resnext_det.command_line import main; sys.exit(main({}))"
_HELPS = {
    "python": "pass",
    "resnext-det --help": _MAIN.format(["--help"]),
    "resnext-det train --help": _MAIN.format(["train", "--help"]),
}


@dataclass(frozen=True)
class StartupCase(Case):
    """Compare the times until something is ready.

    Args:
        part: "import", "help": new processes; "build": an FPN detector; "weights": a trunk's file.
        network: the name of an architecture, for the last two.
    """

    part: str
    network: str = "X-50-32x4d"
    device = torch.device("cpu")

    @property
    def limits(self) -> Mapping[str, float]:  # type: ignore[override]
        return {"float32": 0.0}

    @property
    def title(self) -> str:
        return {
            "import": "start-up: Python processes that import",
            "help": "start-up: what answers at once",
            "build": f"start-up: building Faster R-CNN {self.network} FPN with random weights",
            "weights": f"start-up: loading a file of weights into a {self.network} trunk",
        }[self.part]

    @property
    def reference(self) -> str:
        return self.list_keys()[0].name

    def list_keys(self) -> list[Key]:
        with_detectron2 = importlib.util.find_spec("detectron2") is not None
        names = {
            "import": list(_IMPORTS)[: None if with_detectron2 else -1],
            "help": list(_HELPS),
            "build": list(list_engines(self.network)),
            "weights": ["torch.load", *[THEIRS] * with_detectron2, "resnext_det"],
        }[self.part]
        return [Key("", name, "float32") for name in names]

    def build(self, key: Key) -> Candidate:
        if self.part == "build":
            architecture = Architecture.parse(self.network)
            return Candidate(lambda: build_engine(key.name, architecture, "FPN"), dict)
        if self.part == "weights":
            return self._build_loading(key.name)
        code = {**_IMPORTS, **_HELPS}[key.name]
        command = [sys.executable, "-W", "ignore", "-c", code]

        def start() -> None:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        return Candidate(start, dict)

    def _build_loading(self, name: str) -> Candidate:
        folder, architecture = TemporaryDirectory(), Architecture.parse(self.network)
        path, model = Path(folder.name, "weights.pth"), build_trunk("resnext_det", architecture)
        torch.save({"model": model.state_dict()}, path)
        load = _make_loading(name, model, path)

        def compute() -> Mapping[str, Any]:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
            load()
            return model.state_dict()

        return Candidate(load, compute, keeps=folder)


def _make_loading(name: str, model: torch.nn.Module, path: Path) -> Callable[[], object]:
    if name == "resnext_det":
        return lambda: load_weights(model, path)
    if name == THEIRS:
        from detectron2.checkpoint import DetectionCheckpointer

        return lambda: DetectionCheckpointer(model).load(str(path))
    return lambda: model.load_state_dict(torch.load(path, weights_only=True)["model"])
