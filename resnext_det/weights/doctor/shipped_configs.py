"""Choose the shipped configuration that fits weights with the fewest changes."""

from __future__ import annotations

from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from resnext_det.config.detection import get_own
from resnext_det.config.loading import load_config
from resnext_det.config.parts import find_class_node
from resnext_det.files import shipped_folder
from resnext_det.weights.file import WeightFile
from resnext_det.weights.preprocessing import find_differences
from resnext_det.weights.requirements import find_network_differences

# The configurations that detectors of a kind may take.
_CANDIDATES = {
    "FPN": ("modern/faster_*_FPN_1x.yaml",),
    "C4": ("modern/faster_*_C4_1x.yaml",),
    "DC5": ("modern/faster_*_DC5_1x.yaml",),
    "FPN, masks": ("modern/mask_*_FPN_1x.yaml",),
    "C4, masks": ("modern/mask_*_C4_1x.yaml",),
    "DC5, masks": ("modern/mask_*_DC5_1x.yaml",),
    "FPN, cascade": ("modern/cascade_rcnn_*_FPN_1x.yaml",),
    "FPN, cascade, masks": ("modern/cascade_mask_*_FPN_1x.yaml",),
    "RetinaNet": ("modern/retinanet_*_FPN_1x.yaml",),
    "RetinaNet, p6 from p5": ("mlperf/*.yaml",),
    "RPN": ("two_step/rpn_*.yaml",),  # all that a backbone without res5 can do
}
# For generated pictures, so only where the network is just the one of these.
_ONLY_AS_IT_IS = ("quickstart/faster_rcnn_*_FPN_*.yaml",)


class Fit(NamedTuple):
    """Hold a shipped configuration, and what is to change in it.

    Attributes:
        config_file: relative to configs/, as ``--config-file`` takes it.
        overrides: the values that are to change, by key.
    """

    config_file: str
    overrides: dict[str, Any]


def choose_config(file: WeightFile, *, kind: str = "FPN", classes: int | None = None) -> Fit:
    """Choose the shipped configuration of a detector that fits weights with the fewest changes.

    Of several with as few it is the one of the nearest depth.

    Args:
        file: of a network that is recognized. Where its preprocessing is not known, nothing is
            changed for it.
        kind: of the detector: "FPN", "C4", "DC5", with masks "FPN, masks" ..., "FPN, cascade",
            "FPN, cascade, masks", "RetinaNet", "RetinaNet, p6 from p5" of torchvision and MLPerf,
            or "RPN" for one of proposals alone.
        classes: of a trained detector.
    """
    assert file.architecture is not None
    fits = []
    for path, cfg in _read_candidates(kind):
        found = find_network_differences(cfg, file)
        found += find_differences(file.preprocessing, cfg) if file.preprocessing else []
        overrides = {key: value for key, _, value in found}
        part = find_class_node(cfg)
        if classes not in (None, cfg.MODEL[part].NUM_CLASSES) and kind != "RPN":
            overrides[f"MODEL.{part}.NUM_CLASSES"] = classes
            if get_own(cfg, "INPUT.STRETCH"):  # MLPerf's images; torchvision keeps their ratio
                overrides["INPUT.STRETCH"] = ()
        if overrides and path.startswith("quickstart"):
            continue
        distance = abs(cfg.MODEL.RESNETS.DEPTH - file.architecture.depth)
        fits.append((len(overrides), distance, Fit(path, overrides)))
    return min(fits, key=itemgetter(0, 1))[2]


@cache
def _read_candidates(kind: str) -> tuple[tuple[str, CfgNode], ...]:
    folder = shipped_folder("configs")
    patterns = (*_CANDIDATES[kind], *(_ONLY_AS_IT_IS if kind == "FPN" else ()))
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    return tuple((file.relative_to(folder).as_posix(), load_config(file)) for file in files)
