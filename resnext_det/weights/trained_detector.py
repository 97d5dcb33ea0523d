"""Describe a trained detector in its own file, so that the file alone is the detector."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torchvision
import yaml
from fvcore.common.config import CfgNode

from resnext_det.config.detection import OWN_KEYS
from resnext_det.config.rules import collect_values, get_value
from resnext_det.config.switches import compile_unused
from resnext_det.config.values import unify_names

KEY = "detector"
"""The name in a file under which a ``TrainedDetector`` stands, as plain data."""

# Settings of a detector that do not change its numbers: those of the training, and those that its
# weights decide and that loading checks by their names and shapes.
_OF_TRAINING = re.compile(
    r"MODEL\.(WEIGHTS|DEVICE|LOAD_PROPOSALS|BACKBONE\.FREEZE_AT)"
    r"|.*(_TRAIN|\.NORM|LOSS\w*|\.IOU_THRESHOLDS|\.IOU_LABELS|\.IOUS|\.BATCH_SIZE_PER_IMAGE"
    r"|\.POSITIVE_FRACTION|\.SMOOTH_L1_BETA|\.PROPOSAL_APPEND_GT|\.TRAIN_ON_PRED_BOXES"
    r"|\.BOUNDARY_THRESH|\.PRIOR_PROB|\.MIN_KEYPOINTS_PER_IMAGE)(\..*)?"
)
_DEEPEST = 8  # of a configuration's nodes and lists
_OF_IMAGES = ("INPUT.FORMAT", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "INPUT.STRETCH")
_OF_TESTS = ("TEST.DETECTIONS_PER_IMAGE", "TEST.AUG.", "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST")
# Settings of testing alone, which a training that goes on from a detector's weights may choose.
_FREE_IN_TRAINING = re.compile(
    r"(INPUT\.M..|MODEL\..*TOPK|MODEL\..*(SCORE|NMS)_THRESH)\w*_TEST|MODEL\.RPN\.NMS_THRESH"
    r"|MODEL\.(ROI_HEADS|RETINANET|FCOS)\.NUM_CLASSES|MODEL\.PROPOSAL_GENERATOR\..*"
    r"|INPUT\.STRETCH|TEST\..*|DATASETS\..*|MODEL\.(MASK|KEYPOINT)_ON"
    r"|MODEL\.ROI_(MASK|KEYPOINT)_HEAD\..*"
)


@dataclass(frozen=True)
class TrainedDetector:
    """Hold what is known of a trained detector besides its weights.

    Attributes:
        config: the whole configuration of its training but ``OUTPUT_DIR``, as nested plain data.
        class_names: of its outputs, in their order; empty where there are none or they are not
            known.
        versions: of the libraries that trained it, by name.
        metrics: what these weights had, by name of the test set: {"cells_val": {"AP": 42.1, ...}}.
    """

    config: Mapping[str, Any] = field(repr=False)
    class_names: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as a file holds it; ``from_dict`` reads it."""
        return {**asdict(self), "class_names": list(self.class_names)}

    @classmethod
    def from_dict(cls, values: Any) -> TrainedDetector:
        """Read what ``as_dict`` gave.

        Raises:
            ValueError: an entry is missing or of another type.
        """
        for name, is_right in _CHECKS.items():
            if not isinstance(values, Mapping) or not is_right(values.get(name)):
                raise ValueError(
                    f"what it says of its detector ({KEY!r}) is damaged, at {name!r}; copy or "
                    "download the file again"
                )
        names = tuple(values["class_names"])
        return cls(values["config"], names, values["versions"], values["metrics"])


def _is_mapping_to(kind: type | tuple[type, ...], value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(each, kind) for name, each in value.items()
    )


def _is_configuration(value: Any, depth: int = 0) -> bool:
    """Tell whether this is a configuration's plain data, as far as its form tells."""
    if isinstance(value, dict):
        return depth < _DEEPEST and all(
            isinstance(name, str) and _is_configuration(each, depth + 1)
            for name, each in value.items()
        )
    if isinstance(value, list | tuple):
        return depth < _DEEPEST and all(_is_configuration(each, depth + 1) for each in value)
    return value is None or isinstance(value, str | int | float)


# What each entry of the plain data has to be.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "config": lambda value: (
        _is_configuration(value)
        and isinstance(value, dict)
        and all(isinstance(value.get(node), dict) for node in ("MODEL", "INPUT"))
    ),
    "class_names": lambda value: (
        isinstance(value, list) and all(isinstance(name, str) for name in value)
    ),
    "versions": lambda value: _is_mapping_to(str, value),
    "metrics": lambda value: (
        _is_mapping_to(dict, value)
        and all(_is_mapping_to((int, float), each) for each in value.values())
    ),
}


def describe_training(
    cfg: CfgNode, class_names: Sequence[str], metrics: Mapping[str, Mapping[str, float]]
) -> TrainedDetector:
    """Describe the detector that a training makes."""
    modules = {
        "resnext_det": sys.modules["resnext_det"],
        "torch": torch,
        "torchvision": torchvision,
    }
    versions = {name: str(module.__version__) for name, module in modules.items()}
    config = yaml.safe_load(cfg.dump())
    del config["OUTPUT_DIR"]  # the file is the same wherever it was made
    return TrainedDetector(config, tuple(class_names), versions, metrics)


def find_setting_differences(
    detector: TrainedDetector, cfg: CfgNode, *, training: bool = False
) -> list[tuple[str, Any, Any]]:
    """Find where a configuration would change the numbers of a trained detector.

    Args:
        training: the weights are trained on, so the settings of tests and the classes are free.

    Returns:
        (key, its value, the detector's value) for every difference. Keys that one of the two lacks
        are passed over (those of ``OWN_KEYS`` have their defaults), and those of parts that the
        configuration does not use.
    """
    found, values = [], {**OWN_KEYS, **collect_values(cfg)}
    unused = compile_unused(values)
    for key, ours in values.items():
        free = training and _FREE_IN_TRAINING.fullmatch(key)
        if free or unused.fullmatch(key) or not _decides_numbers(key):
            continue
        try:
            theirs = get_value(detector.config, key)
        except (KeyError, TypeError):
            if key not in OWN_KEYS:
                continue
            theirs = OWN_KEYS[key]
        if _make_plain(ours) != _make_plain(theirs):
            found.append((key, ours, theirs))
    return found


def _decides_numbers(key: str) -> bool:
    chosen = key.startswith("MODEL.") and not _OF_TRAINING.fullmatch(key)
    return chosen or key in _OF_IMAGES or key.startswith(_OF_TESTS)


def _make_plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_make_plain(each) for each in value]
    return unify_names(value)
