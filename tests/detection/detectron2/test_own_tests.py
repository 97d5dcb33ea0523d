"""detectron2's own tests pass with our builders in place of its own wherever they pass with those.

They are those that lie beside its source where it is installed from a checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = [pytest.mark.detectron2, pytest.mark.slow]
detectron2 = pytest.importorskip("detectron2", reason="detectron2 is not installed")

CHECKOUT = Path(detectron2.__file__).parents[1]
HERE = Path(__file__).parent
# Those that use a backbone; of DEPTH 18, which is not ours, there is one.
FILES = (
    "tests/modeling",
    "tests/test_export_torchscript.py",
    "tests/test_model_analysis.py",
    "tests/config/test_yacs_config.py",
    "tests/test_engine.py",
)
OF_BASIC_BLOCKS = {"tests.test_export_torchscript.TestTorchscriptUtils.test_dump_IR_tracing"}


def run_tests(file: str, folder: Path, *, replace: bool) -> dict[str, str]:
    """Run tests of detectron2; return {name: "passed", or what stopped it}."""
    report = folder / f"{replace}.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "our_builders"]
        + ["-W", "ignore", f"--junitxml={report}", file],
        cwd=CHECKOUT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parents[2]))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "REPLACE_BUILDERS": str(int(replace)),
        },
        capture_output=True,
        check=False,
    )
    return {
        f"{case.get('classname')}.{case.get('name')}": next(
            (found.get("message", "") for found in case if found.tag in ("failure", "error")),
            "skipped" if case.find("skipped") is not None else "passed",
        )
        for case in ElementTree.parse(report).iter("testcase")
    }


@pytest.mark.parametrize("file", FILES)
def test_they_pass_with_our_builders(file: str, tmp_path: Path) -> None:
    if not (CHECKOUT / file).exists():
        pytest.skip(f"{CHECKOUT} has no {file}")
    expected = run_tests(file, tmp_path, replace=False)
    found = run_tests(file, tmp_path, replace=True)
    passed = {name for name, outcome in expected.items() if outcome == "passed"}
    assert len(passed) > 0 and found.keys() == expected.keys()
    failed = {name: found[name] for name in passed - OF_BASIC_BLOCKS if found[name] != "passed"}
    assert failed == {}
