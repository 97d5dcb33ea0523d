"""The floors of the house: who may import whom, and what importing the package needs."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import resnext_det

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "resnext_det"
FILES = sorted(PACKAGE.rglob("*.py"))
TOOLS = sorted((ROOT / "tools").glob("*.py"))

FLOORS = (
    (
        *("architecture", "layers", "instances", "files", "console", "signals"),
        *("roi_align", "sparse_rpn"),
    ),
    ("deformable", "masks", "rle"),
    ("resnext",),
    ("shared_res5",),
    ("config", "forms"),
    ("weights",),
    ("data", "training"),
    ("evaluation", "runtimes"),
    ("detection", "classification"),
    ("paper", "deploy", "benchmark", "command_line"),
    ("report",),
    ("tools",),
)
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}

# Within detection/: both engines stand on what they share, and the jobs on both engines.
DETECTION_FLOORS = (
    (
        *("datasets", "evaluation", "weights", "training", "drawing", "inputs", "results", "video"),
        *("advice", "backends", "best", "own_data", "pictures", "periodic_evaluation"),
        *("diagnosis", "tensorboard", "validation", "labels", "contact_sheet"),
        *("ground_truth", "mask_drawing", "record", "batch_parts", "dense_parts"),
        *("memory_saving", "allocation_log", "step_memory", "memory_prediction", "fit_memory"),
    ),
    ("portable", "detectron2"),
    ("jobs", "inference"),
    ("two_step",),
)
DETECTION_FLOOR_OF = {part: floor for floor, parts in enumerate(DETECTION_FLOORS) for part in parts}


def name_module(path: Path) -> str:
    """Name the module of a file, such as ``resnext_det.config.checks``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def name_part(module: str) -> str:
    """Name the part of the house that a module is in: ``config``, ``resnext``, ``tools``..."""
    names = module.split(".")
    return "tools" if names[0] == "tools" else names[1]


@cache
def parse(path: Path) -> ast.Module:
    """Parse a file once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def list_imports(path: Path) -> list[str]:
    """List every module that a file imports, wherever in the file, for types too."""
    imported: list[str] = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write 'from resnext_det ...', not a relative import"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                home = ROOT / name.replace(".", "/")
                found = home.is_dir() or home.with_suffix(".py").exists()
                imported.append(name if found else node.module)
    return imported


def test_a_file_imports_from_lower_floors_alone() -> None:
    for path in [*FILES, *TOOLS]:
        module = name_module(path)
        if module == "resnext_det":  # the public names
            continue
        part = name_part(module)
        assert part in FLOOR_OF, f"{module} is on no floor; give it one in FLOORS"
        for imported in list_imports(path):
            public = imported == "resnext_det" and part != "tools"
            assert not public, f"{module} imports the public names"
            if imported.startswith("resnext_det."):
                other = name_part(imported)
                lower = other == part or FLOOR_OF[other] < FLOOR_OF[part]
                assert lower, f"{module} imports {imported}"


def test_the_engines_stand_side_by_side() -> None:
    for path in sorted((PACKAGE / "detection").rglob("*.py")):
        module = name_module(path)
        if module == "resnext_det.detection":  # the public names
            continue
        part = module.split(".")[2]
        for imported in list_imports(path):
            if imported.startswith("resnext_det.detection"):
                other = imported.split(".")[2]
                same = other == part
                lower = DETECTION_FLOOR_OF[other] < DETECTION_FLOOR_OF[part]
                flat = part not in ("portable", "detectron2") and (
                    DETECTION_FLOOR_OF[other] == DETECTION_FLOOR_OF[part]
                )
                assert same or lower or flat, f"{module} imports {imported}"


def test_no_file_imports_itself_through_others() -> None:
    """No circles, not even of types."""
    graph = {
        name_module(path): {name for name in list_imports(path) if name.startswith("resnext_det.")}
        for path in FILES
        if path.name != "__init__.py" or path.parent.name == "detectron2"
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_lowest_file_needs_the_standard_library_alone() -> None:
    names = {name.split(".")[0] for name in list_imports(PACKAGE / "architecture.py")}
    assert names <= set(sys.stdlib_module_names)


def test_only_its_own_engine_imports_detectron2() -> None:
    plugin = PACKAGE / "detection" / "detectron2"
    beside_ours = PACKAGE / "benchmark"  # times it
    for path in [*FILES, *TOOLS]:
        if plugin in path.parents or beside_ours in path.parents:
            continue
        chooses = path == PACKAGE / "detection" / "jobs.py"
        for imported in list_imports(path):
            assert imported.split(".")[0] != "detectron2", f"{path} imports {imported}"
            registration = path == PACKAGE / "__init__.py" and imported == name_module(plugin)
            of_the_engine = imported.startswith(name_module(plugin))
            assert registration or chooses or not of_the_engine, f"{path} imports {imported}"


def test_the_package_neither_prints_nor_star_imports() -> None:
    for path in FILES:
        for node in ast.walk(parse(path)):
            where = f"{path}:{getattr(node, 'lineno', 1)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{where} prints; use the module's logger"
            if isinstance(node, ast.ImportFrom):
                assert all(alias.name != "*" for alias in node.names), f"{where} star import"


def test_contributing_names_every_part_and_no_other() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().split("| floor |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)(?:/|\.py)`", text))
    assert named == set(FLOOR_OF)


def test_no_module_is_called_utils() -> None:
    assert [path for path in [*FILES, *TOOLS] if "util" in path.stem] == []


IMPORT_ALONE = """
import sys, threading
import torch
before = set(sys.modules)
tops = {name.partition(".")[0] for name in before}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top == "resnext_det" or top in sys.stdlib_module_names or top in tops - REFUSED:
            return None
        raise ModuleNotFoundError(f"blocked: {name}", name=name)

REFUSED = {"fvcore", "yacs", "yaml", "iopath", "cv2", "PIL", "pycocotools", "hotcoco", "tqdm",
           "torchvision", "detectron2", "tabulate", "matplotlib", "tensorboard", "timm", "pandas",
           "scipy", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf"}
sys.meta_path.insert(0, Refuse())

import socket
def refuse(*arguments, **options): raise AssertionError("a connection is opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse

import resnext_det
ours = sorted(name for name in sys.modules if name.startswith("resnext_det"))
names = ["detection", "detection.detectron2"]
assert ours == ["resnext_det", *(f"resnext_det.{name}" for name in names)], ours
assert threading.active_count() == 1
network = resnext_det.ResNeXt(resnext_det.Architecture(26, 4, 8, stem_channels=8, res2_channels=32))
assert network.eval()(torch.zeros(1, 3, 32, 32))["res4"].shape == (1, 128, 2, 2)
try:
    import cv2
except ModuleNotFoundError as error:
    assert "blocked" in str(error)
else:
    raise AssertionError("the block does not work")
"""


def test_importing_needs_torch_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALONE],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded, nothing written


def test_every_public_name_is_there() -> None:
    for name in resnext_det.__all__:
        assert getattr(resnext_det, name) is not None
        assert name in dir(resnext_det)
    assert sorted(resnext_det.__all__) == resnext_det.__all__
    with pytest.raises(AttributeError, match="has no 'ResNext'; it has Architecture"):
        _ = resnext_det.ResNext


def test_the_public_names_are_those_that_are_typed() -> None:
    """Compare the names that a type checker reads, those imported on use, and ``__all__``."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: node.module for node in nodes for alias in node.names}
    ours = {name for name, home in homes.items() if (home or "").startswith("resnext_det")}
    assert ours - {"register_with_detectron2"} == set(resnext_det.__all__)
    for name, home in resnext_det._HOMES.items():
        assert homes[name] == home
        assert importlib.util.find_spec(home) is not None
