"""A configuration held against the preprocessing that weights were trained with."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fvcore.common.config import CfgNode

from resnext_det.weights.file import WeightFile, read_weights
from resnext_det.weights.preprocessing import KNOWN, Preprocessing, batch_norm_of

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

logger = logging.getLogger(__name__)

_TOLERANCE = 5e-3
_FROZEN_NORMS = ("FrozenBN", "FrozenStatisticsBN")
_BATCH_NORMS = (*_FROZEN_NORMS, "BN", "SyncBN")


def differences(preprocessing: Preprocessing, cfg: CfgNode) -> list[tuple[str, Any, Any]]:
    """Where a configuration is not what weights need: (key, its value, the value that is needed).

    Compared are INPUT.FORMAT, MODEL.PIXEL_MEAN, MODEL.PIXEL_STD, MODEL.RESNETS.STRIDE_IN_1X1 and MODEL.RESNETS.NORM. Numbers agree
    within 0.5 %: the published ones are rounded in several ways. Images of one channel ("L") have no channel order, and their mean and
    std are not compared.
    """
    resnets = cfg.MODEL.RESNETS
    found: list[tuple[str, Any, Any]] = []
    if cfg.INPUT.FORMAT in ("RGB", "BGR"):
        if preprocessing.channel_order != cfg.INPUT.FORMAT:
            found.append(("INPUT.FORMAT", cfg.INPUT.FORMAT, preprocessing.channel_order))
        for key, want in (("PIXEL_MEAN", preprocessing.mean), ("PIXEL_STD", preprocessing.std)):
            if not _agree(cfg.MODEL[key], want):
                found.append((f"MODEL.{key}", list(cfg.MODEL[key]), list(want)))
    if preprocessing.stride_in_1x1 != resnets.STRIDE_IN_1X1:
        found.append(
            ("MODEL.RESNETS.STRIDE_IN_1X1", resnets.STRIDE_IN_1X1, preprocessing.stride_in_1x1)
        )
    fitting = _FROZEN_NORMS if preprocessing.batch_norm == "folded" else _BATCH_NORMS
    if preprocessing.batch_norm != "none" and resnets.NORM not in fitting:
        found.append(("MODEL.RESNETS.NORM", resnets.NORM, "FrozenBN"))
    return found


def _agree(have: Sequence[float], want: Sequence[float]) -> bool:
    return len(have) == len(want) and all(
        math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=1e-9) for a, b in zip(have, want)
    )


def fitted(cfg: CfgNode, preprocessing: Preprocessing) -> list[str]:
    """The KEY VALUE overrides that make a configuration what weights need; empty where it is."""
    return [str(word) for key, _, want in differences(preprocessing, cfg) for word in (key, want)]


def check_preprocessing(cfg: CfgNode, file: WeightFile) -> None:
    """Refuse weights under another preprocessing than theirs.

    Where the file does not say which is theirs, and no known source has such weights, a warning says what is not known (of a whole
    detector, for which its configuration speaks, only the log).

    Raises:
        ValueError: with the lines to write into the configuration.
    """
    if file.preprocessing is None:
        values = f"INPUT.FORMAT {cfg.INPUT.FORMAT}, PIXEL_MEAN {cfg.MODEL.PIXEL_MEAN}, PIXEL_STD {cfg.MODEL.PIXEL_STD}"
        logger.log(
            logging.INFO if file.format == "detector" else logging.WARNING,
            "%s does not say which preprocessing its weights were trained with, so nobody checks that it is the configuration's: %s, "
            "STRIDE_IN_1X1 %s. Under another one they lose accuracy, and nothing says so.",
            *(file.path, values, cfg.MODEL.RESNETS.STRIDE_IN_1X1),
        )
        return
    found = differences(file.preprocessing, cfg)
    if not found:
        return
    contradictions = "; ".join(f"{key} is {have}" for key, have, _ in found)
    raise ValueError(
        f"MODEL.WEIGHTS = {file.path} needs another configuration ({contradictions}). Write\n"
        f"{_yaml({key: want for key, _, want in found})}\nor add --fit-config, which does{_other_way(file.preprocessing, found)}"
    )


def needed_by_weights(cfg: CfgNode) -> list[str]:
    """The overrides without which ``check_preprocessing`` would refuse ``MODEL.WEIGHTS``: what ``--fit-config`` adds.

    Raises:
        ValueError, FileNotFoundError: see ``read_weights``; the file does not say what it needs.
    """
    preprocessing = read_weights(cfg.MODEL.WEIGHTS, mapped=True).preprocessing
    if preprocessing is None:
        raise ValueError(
            f"MODEL.WEIGHTS = {cfg.MODEL.WEIGHTS} does not say which preprocessing it needs, so nothing can be fitted to it; leave "
            "--fit-config out, and write INPUT.FORMAT, MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and MODEL.RESNETS.STRIDE_IN_1X1 yourself"
        )
    return fitted(cfg, preprocessing)


def stated(file: WeightFile, name: str) -> WeightFile:
    """The weights under a preprocessing that the user names, where they do not say theirs, or say it by their source's names alone.

    Args:
        name: a key of ``KNOWN``.

    Raises:
        ValueError: the file itself says that it needs another one.
    """
    said = replace(KNOWN[name], batch_norm=batch_norm_of(file.state))
    if file.preprocessing in (None, said):
        return replace(file, preprocessing=said)
    text = f"{file.path} needs {file.preprocessing.as_dict()}" if file.preprocessing else ""
    if file.format in ("native", "detector"):
        raise ValueError(
            f"{text}, as it says itself, and --preprocessing {name} contradicts that; leave it out"
        )
    logger.warning("%s, by the names in it; it is taken as --preprocessing %s says.", text, name)
    return replace(file, preprocessing=said)


def _other_way(preprocessing: Preprocessing, found: list[tuple[str, Any, Any]]) -> str:
    have = {key.rpartition(".")[2]: value for key, value, _ in found}
    swapped = "FORMAT" in have
    mean = have.get("PIXEL_MEAN", list(preprocessing.mean))
    same_mean = _agree(mean[::-1] if swapped else mean, preprocessing.mean)
    if set(have) <= {"FORMAT", "PIXEL_MEAN", "PIXEL_STD"} and same_mean:
        return ". (tools/convert_weights.py --channel-order and --pixel-std can make the weights fit the configuration instead.)"
    return "."


def _yaml(values: Mapping[str, Any]) -> str:
    """Dotted keys with their values, as nested lines."""
    lines: list[str] = []
    for key, value in values.items():
        *nodes, leaf = key.split(".")
        for depth, node in enumerate(nodes):
            line = f"{'  ' * depth}{node}:"
            if line not in lines:
                lines.append(line)
        lines.append(f"{'  ' * len(nodes)}{leaf}: {value}")
    return "\n".join(lines)
