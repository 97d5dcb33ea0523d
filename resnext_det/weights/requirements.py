"""Hold a configuration to what weights need: their preprocessing, and a detector's settings."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.weights.file import WeightFile, read_weights
from resnext_det.weights.preprocessing import Preprocessing, are_close, find_differences
from resnext_det.weights.trained_detector import find_setting_differences

logger = logging.getLogger(__name__)

# What a detector's file says of its preprocessing and of its configuration alike.
_PREPROCESSING = (
    *("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"),
    *("MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.RESNETS.NORM"),
)


def check_configuration(
    cfg: CfgNode, file: WeightFile, *, overridden: Collection[str] = (), training: bool = False
) -> None:
    """Refuse a configuration under which weights would compute other numbers than they should.

    Every file is held to its preprocessing, and the file of a detector that knows its configuration
    to all that decides its numbers: anchors, sizes, thresholds, classes. Where nothing tells which
    preprocessing weights need, a warning says what is not known (of a whole detector, for which its
    configuration speaks, only the log).

    Args:
        overridden: keys that the user gave by hand. Where they contradict a detector's file they
            hold, with a warning.
        training: the weights are trained on, so the settings of tests and the classes are free.

    Raises:
        ValueError: with the lines to write into the configuration.
    """
    needed, detector = file.preprocessing, file.detector
    if needed is None and detector is None:
        logger.log(
            logging.INFO if file.format == "detector" else logging.WARNING,
            "%s does not say which preprocessing its weights were trained with, so nobody checks "
            "that it is the configuration's: INPUT.FORMAT %s, PIXEL_MEAN %s, PIXEL_STD %s, "
            "STRIDE_IN_1X1 %s. Under another one they lose accuracy, and nothing says so.",
            *(file.path, cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
            cfg.MODEL.RESNETS.STRIDE_IN_1X1,
        )
        return
    found = _find_needed(cfg, file, training=training)
    if detector is not None:
        for key, have, theirs in [entry for entry in found if entry[0] in overridden]:
            logger.warning(
                "%s was trained with %s %s; the override says %s, which holds, and changes the "
                "detector's numbers.",
                *(file.path, key, theirs, have),
            )
        found = [entry for entry in found if entry[0] not in overridden]
    if found:
        contradictions = "; ".join(f"{key} is {have}" for key, have, _ in found)
        remedy = " Or give no configuration: the file has its detector's own."
        if detector is None:
            assert needed is not None
            remedy = _suggest_conversion(needed, found)
        raise ValueError(
            f"MODEL.WEIGHTS = {file.path} needs another configuration ({contradictions}). Write\n"
            f"{_format_yaml({key: theirs for key, _, theirs in sorted(found, key=itemgetter(0))})}"
            f"\nor add --fit-config, which does.{remedy}"
        )


def _suggest_conversion(preprocessing: Preprocessing, found: list[tuple[str, Any, Any]]) -> str:
    have = {key.rpartition(".")[2]: value for key, value, _ in found}
    mean = have.get("PIXEL_MEAN", preprocessing.mean)
    mean = mean[::-1] if "FORMAT" in have else mean
    if {"STRIDE_IN_1X1", "NORM"} & have.keys() or not are_close(mean, preprocessing.mean):
        return ""
    return (
        " (resnext-det convert --channel-order and --pixel-std can make the weights fit the "
        "configuration instead.)"
    )


def _format_yaml(values: Mapping[str, Any]) -> str:
    """Write dotted keys with their values as nested lines."""
    lines: list[str] = []
    for key, value in values.items():
        *nodes, leaf = key.split(".")
        headings = [f"{'  ' * depth}{node}:" for depth, node in enumerate(nodes)]
        lines += [line for line in headings if line not in lines]
        lines.append(f"{'  ' * len(nodes)}{leaf}: {repr(value) if value == '' else value}")
    return "\n".join(lines)


def read_needed_overrides(
    cfg: CfgNode,
    source: str | Path,
    *,
    overridden: Collection[str] = (),
    training: bool = False,
) -> list[str]:
    """Read a file of weights and list the overrides that it needs, for ``--fit-config``.

    A file that knows the configuration of its detector needs all that decides its numbers; for a
    training, which goes on from its weights, the settings of tests and the classes are free.

    Args:
        source: a path, or a name of the catalog.
        overridden: keys that the user gave by hand, which hold against a detector's file.

    Raises:
        ValueError, FileNotFoundError: see ``read_weights``; the file does not say what it needs.
    """
    file = read_weights(source, mapped=True)
    if file.preprocessing is None and file.detector is None:
        raise ValueError(
            f"MODEL.WEIGHTS = {source} does not say which preprocessing it needs, so nothing can "
            "be fitted to it; leave --fit-config out, and write INPUT.FORMAT, MODEL.PIXEL_MEAN, "
            "MODEL.PIXEL_STD and MODEL.RESNETS.STRIDE_IN_1X1 yourself"
        )
    found = _find_needed(cfg, file, training=training)
    by_hand = overridden if file.detector is not None else ()
    return [str(word) for key, _, theirs in found if key not in by_hand for word in (key, theirs)]


def _find_needed(cfg: CfgNode, file: WeightFile, *, training: bool) -> list[tuple[str, Any, Any]]:
    """Find (key, its value, the value that is needed) where a configuration does not fit a file."""
    needed, detector = file.preprocessing, file.detector
    found = [] if needed is None else find_differences(needed, cfg)
    if detector is not None:
        settings = find_setting_differences(detector, cfg, training=training)
        found += [entry for entry in settings if needed is None or entry[0] not in _PREPROCESSING]
    return found
