"""``import resnext_det`` gives detectron2 its builders, and changes nothing else of the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

ROOT = Path(__file__).parents[3]
OURS = {
    "BACKBONE": [
        "build_resnext_backbone",
        "build_resnext_fpn_backbone",
        "build_retinanet_resnext_fpn_backbone",
        "build_retinanet_resnext_fpn_p5_backbone",
    ],
    "ROI_HEADS": [
        *("ResNeXtCascadeROIHeads", "ResNeXtRes5ROIHeads"),
        *("ResNeXtSharedRes5ROIHeads", "ResNeXtStandardROIHeads"),
    ],
    "RPN_HEAD": ["ResNeXtSparseRPNHead"],
    "paths": ["hf-hub:", "resnext://"],
}
"""What the plugin brings: its names in detectron2's registries, and paths for MODEL.WEIGHTS."""

# What a host may rely on, as text: registries and catalogs by name, and the rest of the process.
TAKE = """
import json, logging, os, random, signal, sys, threading, warnings

def take():
    import cv2, numpy, PIL.Image, torch
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.utils.file_io import PathManager
    from fvcore.common.registry import Registry

    loggers = [("", logging.root), *sorted(logging.root.manager.loggerDict.items())]
    rest = [
        [(name, log.handlers, log.level, log.propagate, log.disabled, log.filters)
         for name, log in loggers
         if isinstance(log, logging.Logger) and not name.startswith("resnext_det")],
        [warnings.filters, sys.path, [type(finder).__name__ for finder in sys.meta_path]],
        [sorted(os.environ.items()), sys.excepthook, threading.excepthook, sys.stdout.errors],
        [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        [torch.get_rng_state().tolist(), numpy.random.get_state(), random.getstate()],
        [torch.get_num_threads(), torch.get_num_interop_threads(), cv2.getNumThreads()],
        [torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_float32_matmul_precision()],
        [torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()],
        [numpy.get_printoptions(), numpy.geterr(), PIL.Image.MAX_IMAGE_PIXELS],
    ]
    modules = [module for name, module in sys.modules.items() if "detectron2" in name]
    values = [value for module in modules for value in vars(module).values()]
    return {
        **{v._name: sorted(v._obj_map) for v in values if isinstance(v, Registry)},
        "paths": sorted(PathManager._path_handlers),
        "datasets": sorted(DatasetCatalog),
        "metadata": [str(sorted(MetadataCatalog[name].as_dict())) for name in MetadataCatalog],
        "rest": [str(each) for each in rest],
    }

def import_detectron2():
    import cv2, numpy, PIL.Image, torch
    import detectron2.engine, detectron2.evaluation, detectron2.modeling
    for seed in (torch.manual_seed, numpy.random.seed, random.seed):
        seed(0)
"""
AFTER = """
import_detectron2()
before = take()
import resnext_det
print(json.dumps([before, take()]))
"""
# With a hook that looks at every module, as those of type checkers do; it has to see this one too.
BEFORE = """
import importlib.util
import resnext_det

class Hook:
    def find_spec(self, name, path=None, target=None):
        seen.append(name)

seen, hook = [], Hook()
sys.meta_path.insert(0, hook)
spec = importlib.util.find_spec("detectron2.modeling")
assert spec.loader.get_filename("detectron2.modeling") == spec.origin
assert "detectron2.modeling" not in sys.modules
import_detectron2()
assert seen.count("detectron2.modeling") == 4  # both times by Python, and by our finder
assert type(sys.modules["detectron2.modeling"].__spec__.loader) is type(json.__loader__)
sys.meta_path.remove(hook)
print(json.dumps([take()]))
"""


def run_python(code: str, folder: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, str(ROOT)]))},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_import_brings_the_builders_and_changes_nothing_else(tmp_path: Path) -> None:
    """Whichever is imported first, as detectron2 alone leaves the process but for our names."""
    snapshots: list[dict[str, Any]] = []
    for order in (AFTER, BEFORE):
        done = run_python(TAKE + order, tmp_path)
        assert done.returncode == 0, done.stderr
        snapshots += json.loads(done.stdout)
    alone, *both = snapshots
    assert "coco_2017_val" in alone["datasets"] and "build_resnet_backbone" in alone["BACKBONE"]
    for found in both:
        assert found.keys() == alone.keys()
        for what, names in found.items():
            new = [name for name in names if name not in alone[what]]
            assert (what, new) == (what, OURS.get(what, []))
            assert (what, len(names)) == (what, len(alone[what]) + len(new))


def test_a_reload_before_detectron2_is_imported(tmp_path: Path) -> None:
    """As notebooks do; two finders would ask each other for the module without end."""
    code = """
import importlib, importlib.util, sys
import resnext_det
importlib.reload(resnext_det.detection.detectron2)
importlib.reload(resnext_det)
for name in [name for name in sys.modules if name.startswith("resnext_det")]:
    del sys.modules[name]
import resnext_det
assert importlib.util.find_spec("detectron2.modeling") is not None
"""
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_broken_detectron2_tells_its_own_error(tmp_path: Path) -> None:
    """The package and the portable engine work; who imports detectron2 sees why that fails."""
    broken = tmp_path / "detectron2"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('_C.so: undefined symbol: _ZN3c10')")
    code = """
import resnext_det
resnext_det.build_detector
try:
    import detectron2.modeling
except ImportError as error:
    print(type(error).__name__, error)
resnext_det.Job("x.yaml", engine="auto").configuration()
"""
    done = run_python(code, tmp_path, str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == "ImportError _C.so: undefined symbol: _ZN3c10\n"
    assert "engine 'detectron2' cannot be used here (_C.so: undefined symbol" in done.stderr
    assert "write --engine portable" in done.stderr
