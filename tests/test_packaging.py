"""Install the wheel: it works without the clone, and declares what it imports."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import resnext_det
from resnext_det.command_line import COMMANDS
from tests.test_command_line import HELP_OF_ALL

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = {  # of other names
    "cv2": "choose_opencv()",
    "PIL": "Pillow",
    "yaml": "PyYAML",
    "huggingface_hub": "huggingface-hub",
}


def run(*command: object, cwd: Path, path: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {} if path is None else {"PYTHONPATH": str(path)}
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None, reason="setuptools is not installed"
)
def test_the_package_works_without_the_clone(tmp_path: Path) -> None:
    """Every configuration and every command is in it, and found from an empty folder."""
    source, installed, empty = (tmp_path / name for name in ("source", "installed", "empty"))
    for name in ("resnext_det", "configs", "tools"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ("build", "--build-lib", installed, "egg_info", "--egg-base", tmp_path)
    run("setup.py", "-q", *build, cwd=source)
    names = {path.relative_to(installed).as_posix() for path in installed.rglob("*")}
    shutil.rmtree(source)
    empty.mkdir()
    for name in ("configs", "tools", "resnext_det"):
        files = (ROOT / name).rglob("*")
        inside = "" if name == "resnext_det" else "resnext_det/"
        shipped = {f"{inside}{file.relative_to(ROOT).as_posix()}" for file in files}
        ends = (".py", ".yaml", "py.typed", ".safetensors")
        assert {one for one in shipped if one.endswith(ends)} <= names
    commands = (tmp_path / "resnext_det.egg-info" / "entry_points.txt").read_text()
    assert "resnext-det = resnext_det.command_line:main" in commands

    main = ("-m", "resnext_det.command_line")
    assert run(*main, "--version", cwd=empty, path=installed).startswith("resnext-det ")
    helps = run("-c", HELP_OF_ALL, cwd=empty, path=installed)
    assert helps.count("usage: resnext-det") == 1 + len(COMMANDS)
    load = (
        "import resnext_det as r; name = 'configs/modern/faster_rcnn_X50_32x4d_FPN_1x.yaml';"
        "print(r.config_file(name)); print(r.load_config(name).MODEL.RESNETS.NUM_GROUPS);"
        "print(r.read_weights('resnext://shapes/X-26-8x4d').path)"
    )
    found, groups, weights = run("-c", load, cwd=empty, path=installed).splitlines()
    assert Path(found).is_relative_to(installed) and groups == "32"
    assert Path(weights).is_relative_to(installed)


def test_what_is_imported_is_declared() -> None:
    imported = set()
    for path in [*(ROOT / "resnext_det").rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    undeclared = {"resnext_det", "_typeshed", "detectron2", "omegaconf"}  # which detectron2 brings
    others = imported - set(sys.stdlib_module_names) - undeclared
    declared = re.findall(r'"\{?([\w.-]+(?:\(\))?)\}?>=', (ROOT / "setup.py").read_text())
    assert {DISTRIBUTIONS.get(name, name) for name in others} <= set(declared)


def test_the_version_is_the_same_everywhere() -> None:
    version = resnext_det.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
