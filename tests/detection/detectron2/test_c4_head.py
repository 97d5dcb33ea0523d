"""In a program of detectron2 alone, its own C4 head never stands in for that of our network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import get_cfg  # noqa: E402
from detectron2.layers import ShapeSpec  # noqa: E402
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model  # noqa: E402
from detectron2.modeling.backbone import build_backbone  # noqa: E402
from detectron2.modeling.roi_heads import Res5ROIHeads  # noqa: E402

from resnext_det.config import load_config  # noqa: E402
from resnext_det.detection.detectron2 import engine  # noqa: E402
from resnext_det.detection.detectron2.backbone import ResNeXtRes5ROIHeads  # noqa: E402
from resnext_det.detection.portable.build import build_detector  # noqa: E402
from tests.detection.helpers import override  # noqa: E402
from tests.test_configs import CONFIGS  # noqa: E402

C4 = [
    *override("MODEL", DEVICE="meta"),
    *override("MODEL.BACKBONE", NAME="build_resnext_backbone"),
    *override("MODEL.RESNETS", STEM_OUT_CHANNELS=8, RES2_OUT_CHANNELS=16, WIDTH_PER_GROUP=4),
]


def make_config(*changes: Any) -> Any:
    cfg = get_cfg()
    cfg.merge_from_list([*C4, *changes])
    return cfg


REFUSED: dict[str, tuple[list[Any], str]] = {
    "26 layers": (
        override("MODEL.RESNETS", DEPTH=26),
        r"NAME = 'Res5ROIHeads' builds a res5 of 3 blocks for every MODEL.RESNETS.DEPTH, and that "
        r"of DEPTH = 26 has 2; write ResNeXtRes5ROIHeads",
    ),
    "a norm that is ours": (
        override("MODEL.RESNETS", NORM="FrozenStatisticsBN"),
        r"NAME = 'Res5ROIHeads' cannot build MODEL.RESNETS.NORM = 'FrozenStatisticsBN'; write ResN",
    ),
    "a head derived from detectron2's": (
        [*override("MODEL.RESNETS", DEPTH=26), "MODEL.ROI_HEADS.NAME", "DerivedFromTheirs"],
        r"NAME = 'DerivedFromTheirs' builds .* has 2; derive it from ResNeXtRes5ROIHeads",
    ),
}


class DerivedFromTheirs(Res5ROIHeads):
    """Stand for a user's head."""


class DerivedFromOurs(ResNeXtRes5ROIHeads):
    """Stand for a user's head."""


@pytest.fixture(autouse=True)
def users_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(ROI_HEADS_REGISTRY._obj_map)
    monkeypatch.setattr(ROI_HEADS_REGISTRY, "_obj_map", known)
    for head in (DerivedFromTheirs, DerivedFromOurs):
        ROI_HEADS_REGISTRY.register(head)


@pytest.mark.parametrize("case", REFUSED)
def test_a_head_that_would_build_another_res5_is_refused(case: str) -> None:
    changes, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        build_model(make_config(*changes))
    for name in ("ResNeXtRes5ROIHeads", "DerivedFromOurs"):
        model = build_model(make_config(*changes, "MODEL.ROI_HEADS.NAME", name))
        assert len(model.roi_heads.res5) == (2 if "DEPTH" in str(changes) else 3)


@pytest.mark.parametrize("depth", [50, 101, 152, 200])
def test_detectron2s_own_is_taken_where_it_is_the_same(depth: int) -> None:
    built = [
        build_model(make_config("MODEL.RESNETS.DEPTH", depth, "MODEL.ROI_HEADS.NAME", name))
        for name in ("Res5ROIHeads", "ResNeXtRes5ROIHeads")
    ]
    ours, theirs = ({k: v.shape for k, v in each.state_dict().items()} for each in built)
    assert list(ours.items()) == list(theirs.items())


def test_who_has_no_such_head_may_leave_its_name() -> None:
    """detectron2's default is Res5ROIHeads also where there are no such heads."""
    depth = override("MODEL.RESNETS", DEPTH=26)
    for name in ("ProposalNetwork", "RetinaNet", "of another project"):
        cfg = make_config(*depth, "MODEL.META_ARCHITECTURE", name)
        assert len(build_backbone(cfg, ShapeSpec(channels=3)).res4) == 2
    stages = ["res2", "res3", "res4", "res5"]
    pyramid = [
        *override("MODEL.BACKBONE", NAME="build_resnext_fpn_backbone"),
        *override("MODEL.RESNETS", OUT_FEATURES=stages),
        *override("MODEL.FPN", IN_FEATURES=stages),
    ]
    assert build_backbone(make_config(*depth, *pyramid), ShapeSpec(channels=3)).bottom_up.res5


@pytest.mark.parametrize(
    "file",
    ["quickstart/faster_rcnn_X26_8x4d_C4_shapes.yaml", "modern/faster_rcnn_X50_32x4d_C4_1x.yaml"],
)
def test_one_file_is_one_network_in_each_program(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """detectron2's own tools, our engine over it, and ours without it; a user's old file too."""
    monkeypatch.setattr(engine.distributed, "resolve_device", torch.device)
    path = CONFIGS / file
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        models = [build_model(cfg), build_detector(load_config(path))]
        for name in ("Res5ROIHeads", "ResNeXtRes5ROIHeads"):
            given = ["MODEL.ROI_HEADS.NAME", name, "MODEL.DEVICE", "cpu"]
            models += [build_detector(load_config(path, given))]
            changed = engine.load_config(path, given).clone()
            changed.defrost()
            changed.MODEL.DEVICE = "meta"
            models += [engine.build_detector(changed)]
    first, *others = ({k: v.shape for k, v in each.state_dict().items()} for each in models)
    for other in others:
        assert list(other.items()) == list(first.items())
