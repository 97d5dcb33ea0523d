"""The configurations of detectron2's projects build on our backbone, or are refused in a sentence.

They are those that lie beside its source where it is installed from a checkout.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.detectron2, pytest.mark.slow]
detectron2 = pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import get_cfg  # noqa: E402
from detectron2.modeling.backbone import build_backbone  # noqa: E402

from resnext_det.detection.detectron2.backbone import ResNeXtBackbone  # noqa: E402
from tests.detection.detectron2.test_zoo import OWN_NAMES, describe  # noqa: E402

PROJECTS = Path(detectron2.__file__).parents[1] / "projects"
# The folder of each, its package, and what adds its keys.
ADDED = {
    "PointRend": ("point_rend", "add_pointrend_config"),
    "DeepLab": ("deeplab", "add_deeplab_config"),
}
REFUSED = "MODEL.RESNETS.RES5_MULTI_GRID = .1, 2, 4. would be ignored"


def find_configs(project: str) -> list[Path]:
    return sorted((PROJECTS / project / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("project", ADDED)
def test_it_builds_or_is_refused(project: str) -> None:
    files = find_configs(project)
    if not files:
        pytest.skip(f"{PROJECTS} has no configurations of {project}")
    for file in files:
        theirs, ours = load(file, project), load(file, project)
        name = theirs.MODEL.BACKBONE.NAME
        ours.MODEL.BACKBONE.NAME = OWN_NAMES.get(name, "build_resnext_backbone")
        with torch.device("meta"):
            if project == "DeepLab":
                with pytest.raises(ValueError, match=REFUSED):
                    build_backbone(ours)
                continue
            found, expected = build_backbone(ours), build_backbone(theirs)
        assert isinstance(getattr(found, "bottom_up", found), ResNeXtBackbone)
        assert describe(found) == describe(expected), file


def load(file: Path, project: str) -> Any:
    package, name = ADDED[project]
    add: Callable[[Any], None] = getattr(
        importlib.import_module(f"detectron2.projects.{package}"), name
    )
    cfg = get_cfg()
    add(cfg)
    cfg.merge_from_file(str(file))
    return cfg
