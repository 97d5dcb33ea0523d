"""detectron2's own YAML files run on the portable engine, or are refused, as the docs say."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.config import load_config
from resnext_det.detection.portable.build import build_detector
from resnext_det.weights.published.model_zoo import find_catalog_name, is_in_zoo

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2 import model_zoo  # noqa: E402
from detectron2.config import get_cfg as get_detectron2_cfg  # noqa: E402
from detectron2.modeling import META_ARCH_REGISTRY  # noqa: E402

ZOO = Path(model_zoo.__file__).parent / "configs"
FILES = sorted(str(file.relative_to(ZOO)) for file in ZOO.rglob("*.yaml"))
FILES = [file for file in FILES if "/" in file]  # the others are bases
PAGE = Path(__file__).parents[3] / "docs" / "detectron2.md"
ROW = re.compile(r"^\| (`[^|]*`) \| ([^|]*) \|$", re.MULTILINE)
QUICK = (
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
)
CASES = [file if file in QUICK else pytest.param(file, marks=pytest.mark.slow) for file in FILES]


def find_outcome(file: str) -> str:
    """Find what the table of the docs says of a file: its first row that fits."""
    section = (
        PAGE.read_text(encoding="utf-8").partition("## Its model zoo")[2].partition("\n## ")[0]
    )
    for patterns, outcome in ROW.findall(section):
        if any(fnmatch(file, f"{pattern}.yaml") for pattern in re.findall("`([^`]+)`", patterns)):
            return outcome
    raise AssertionError(f"{file} is in no row of the table")


def build(file: str) -> dict[str, Any]:
    """Build the portable detector of a file: names of parameters, with shape and freezing."""
    cfg = load_config(ZOO / file, ["MODEL.DEVICE", "cpu"])
    with torch.device("meta"):
        model = build_detector(cfg)
    return {name: (value.shape, value.requires_grad) for name, value in model.named_parameters()}


@pytest.mark.parametrize("file", CASES)
def test_it_runs_or_is_refused_as_the_docs_say(file: str) -> None:
    outcome = find_outcome(file)
    if not outcome.startswith("runs"):
        (key, *_) = re.findall("`([^`]+)`", outcome)
        with pytest.raises(ValueError, match=re.escape(f"{key} = ")):
            build(file)
        return
    theirs = get_detectron2_cfg()
    theirs.merge_from_file(str(ZOO / file))
    theirs.MODEL.DEVICE = "cpu"
    with torch.device("meta"):
        model = META_ARCH_REGISTRY.get(theirs.MODEL.META_ARCHITECTURE)(theirs)
    expected = {name: (each.shape, each.requires_grad) for name, each in model.named_parameters()}
    found = build(file)
    assert list(found) == list(expected)
    assert found == expected


@pytest.mark.parametrize("file", CASES)
def test_its_weights_are_known(file: str) -> None:
    cfg = get_detectron2_cfg()
    cfg.merge_from_file(str(ZOO / file))
    names = [cfg.MODEL.WEIGHTS, *cfg.DATASETS.PROPOSAL_FILES_TRAIN]
    without = {"", "catalog://ImageNetPretrained/FAIR/R-50-GN"}
    without |= {"catalog://ImageNetPretrained/FAIR/R-101-GN"}
    for name in set(names) - without:
        assert find_catalog_name(name) or is_in_zoo(name)
        assert ("ImageNetPretrained" in name) == (find_catalog_name(name) is not None)


def test_every_published_detector_has_a_name() -> None:
    for file in model_zoo.model_zoo._ModelZooUrls.CONFIG_PATH_TO_URL_SUFFIX:
        assert is_in_zoo(model_zoo.get_checkpoint_url(f"{file}.yaml"))
