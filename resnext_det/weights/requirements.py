"""Hold a configuration to what weights need: their preprocessing, and a detector's settings."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.config.backbone import write_architecture
from resnext_det.config.detection import get_cfg
from resnext_det.config.rules import get_value
from resnext_det.weights.conversion import assume_preprocessing
from resnext_det.weights.file import WeightFile, read_weights
from resnext_det.weights.preprocessing import (
    ANY_BATCH_NORM,
    Preprocessing,
    are_close,
    find_batch_norm,
    find_differences,
    format_preprocessing,
    have_scale_of_one,
    list_fields,
)
from resnext_det.weights.published.timm_config import CONFIG
from resnext_det.weights.structure import find_deformable_settings
from resnext_det.weights.trained_detector import find_setting_differences

logger = logging.getLogger(__name__)

_NORM_WEIGHT = re.compile(r"(?:.*\.)?(?:stem|res[2-5])\..*\.norm\.weight").fullmatch
_NORM = "MODEL.RESNETS.NORM"
# Keys that are stated together, each with its field of ``Preprocessing``.
_STATEMENTS = (
    {"INPUT.FORMAT": "channel_order", "MODEL.PIXEL_MEAN": "mean", "MODEL.PIXEL_STD": "std"},
    {"MODEL.RESNETS.STRIDE_IN_1X1": "stride_in_1x1"},
)
# What a detector's file says of its preprocessing and of its configuration alike.
_PREPROCESSING = (*_STATEMENTS[0], *_STATEMENTS[1], _NORM)

_Difference = tuple[str, Any, Any]  # a key, its value, and the value that is needed


def check_configuration(
    cfg: CfgNode,
    file: WeightFile,
    *,
    overridden: Collection[str] = (),
    training: bool = False,
    defaults: CfgNode | None = None,
) -> None:
    """Refuse a configuration under which weights would compute other numbers than they should.

    Every file is held to its preprocessing, and the file of a detector that knows its configuration
    to all that decides its numbers: anchors, sizes, thresholds, classes. What is only usual for the
    file (``WeightFile.is_usual``) gives way, with a warning, where the configuration states another
    value, which is not its own default or was given by hand. Where nothing tells which
    preprocessing weights need, a warning says what is not known (of a whole detector, for which its
    configuration speaks, only the log).

    Args:
        overridden: keys that the user gave by hand. Where they contradict a detector's file they
            hold, with a warning.
        training: the weights are trained on, so the settings of tests and the classes are free.
        defaults: of the configuration's keys; None: a detector's.

    Raises:
        ValueError: with the lines to write into the configuration.
    """
    needed, detector = file.preprocessing, file.detector
    if needed is None and detector is None:
        logger.log(
            logging.INFO if file.format == "detector" else logging.WARNING,
            "%s does not say which preprocessing its weights were trained with, so nobody checks "
            "that it is the configuration's: INPUT.FORMAT %s, PIXEL_MEAN %s, PIXEL_STD %s, "
            "STRIDE_IN_1X1 %s. Under another one they lose accuracy, and nothing says so; "
            "--preprocessing says which it is.",
            *(file.path, cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
            cfg.MODEL.RESNETS.STRIDE_IN_1X1,
        )
        return
    defaults = defaults or get_cfg()
    found = _find_needed(cfg, file, training=training, defaults=defaults)
    if detector is not None:
        for key, have, theirs in [entry for entry in found if entry[0] in overridden]:
            logger.warning(
                "%s was trained with %s %s; the override says %s, which holds, and changes the "
                "detector's numbers.",
                *(file.path, key, theirs, have),
            )
        found = [entry for entry in found if entry[0] not in overridden]
    stated = _find_stated(cfg, file, found, overridden, defaults)
    found = [entry for entry in found if entry not in stated]
    if training and detector is None:
        found = _drop_near_means(found, file)
    if found:
        contradictions = "; ".join(f"{key} is {have}" for key, have, _ in found)
        remedy = " Or give no configuration: the file has its detector's own."
        if detector is None:
            assert needed is not None
            remedy = _suggest_conversion(needed, found) + _suggest_statement(cfg, file, found)
        raise ValueError(
            f"MODEL.WEIGHTS = {file.path} needs another configuration ({contradictions}). Write\n"
            f"{_format_yaml({key: theirs for key, _, theirs in sorted(found, key=itemgetter(0))})}"
            f"\nor add --fit-config, which does.{remedy}"
        )
    _tell_usual(cfg, file, stated)


def _drop_near_means(found: list[_Difference], file: WeightFile) -> list[_Difference]:
    """Drop the difference of a mean that is less than one level (of 255) from the weights' own.

    detectron2 itself trains Detectron's backbones under a mean that differs by so much.
    """
    kept = []
    for key, have, theirs in found:
        same = key == "MODEL.PIXEL_MEAN" and len(have) == len(theirs)
        if same and all(abs(one - other) < 1 for one, other in zip(have, theirs)):
            told = "%s was trained with %s %s; %s holds, which is less than a level from it."
            logger.info(told, file.path, key, theirs, have)
        else:
            kept.append((key, have, theirs))
    return kept


def _find_stated(
    cfg: CfgNode,
    file: WeightFile,
    found: list[_Difference],
    overridden: Collection[str],
    defaults: CfgNode,
) -> list[_Difference]:
    """Find the differences in which a configuration overrules what is only usual for a file.

    Channel order, mean and std are stated together, and the stride alone: by a value that is not
    the default, or that was given by hand. Nobody states what was left at the defaults, and what
    can only be a mistake is no statement.
    """
    stated: list[_Difference] = []
    for fields in _STATEMENTS:
        if "MODEL.PIXEL_MEAN" in fields and _find_mistake(cfg, file):
            continue
        entries = [entry for entry in found if entry[0] in fields]
        usual = all(file.is_usual(fields[key]) for key, *_ in entries)
        if usual and any(
            key in overridden or have != get_value(defaults, key) for key, have, _ in entries
        ):
            stated += entries
    return stated


def _find_mistake(cfg: CfgNode, file: WeightFile) -> str:
    """Find a common mistake in what a configuration says of images.

    Returns:
        A sentence that tells it; "" where there is none.
    """
    needed, mean = file.preprocessing, cfg.MODEL.PIXEL_MEAN
    if have_scale_of_one(mean, cfg.MODEL.PIXEL_STD):
        return "Mean and std of the configuration are on the scale 0-1, and pixels here 0-255."
    if needed is None or cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        return ""
    same = needed.channel_order == cfg.INPUT.FORMAT
    mixed = needed.mean[::-1] if same else needed.mean
    if are_close(mean, mixed) and not are_close(mixed, mixed[::-1]):
        return f"The configuration's mean is not in the order {cfg.INPUT.FORMAT}."
    return ""


def _tell_usual(cfg: CfgNode, file: WeightFile, stated: list[_Difference]) -> None:
    """Tell where a configuration holds against what is usual, or agrees with no more than that."""
    usual = [name for name in list_fields() if file.is_usual(name)]
    fields = {key: name for group in _STATEMENTS for key, name in group.items()}
    if stated:
        logger.warning(
            "%s is taken as the configuration says (%s); %s would be %s, and the file itself does "
            "not tell. If the configuration is right, say so: --preprocessing %s, or the same in "
            "resnext-det convert, which writes it into a file.",
            file.path,
            ", ".join(f"{key} {have}" for key, have, _ in stated),
            file.origins[fields[stated[0][0]]],
            ", ".join(f"{key} {theirs}" for key, _, theirs in stated),
            _state_preprocessing(cfg, file),
        )
    elif usual and cfg.INPUT.FORMAT in ("RGB", "BGR"):
        logger.info(
            "%s does not tell its %s; what the configuration says is %s, and not known to be this "
            "file's.",
            *(file.path, ", ".join(usual), file.origins[usual[0]]),
        )


def _state_preprocessing(cfg: CfgNode, file: WeightFile) -> str:
    """Write the preprocessing of a configuration as ``--preprocessing`` takes it."""
    known = file.preprocessing
    assert known is not None
    stated = replace(known, stride_in_1x1=cfg.MODEL.RESNETS.STRIDE_IN_1X1)
    if cfg.INPUT.FORMAT in ("RGB", "BGR"):  # gray images have one number, and no order
        mean, std = ([*map(float, cfg.MODEL[key])] for key in ("PIXEL_MEAN", "PIXEL_STD"))
        images = {"channel_order": cfg.INPUT.FORMAT, "mean": mean, "std": std}
        stated = Preprocessing.from_dict({**stated.as_dict(), **images})
    other = ":stride_in_3x3" if known.stride_in_1x1 and not stated.stride_in_1x1 else ""
    return f"{format_preprocessing(stated)}{other}"


def _suggest_statement(cfg: CfgNode, file: WeightFile, found: list[_Difference]) -> str:
    usual = [
        fields[key]
        for fields in _STATEMENTS
        for key, *_ in found
        if key in fields and (file.is_usual(fields[key]) or file.origins.get(fields[key]) == CONFIG)
    ]
    if not usual:
        return ""
    origins = [file.origins[name] for name in usual]
    origin = f"from the {CONFIG} beside it" if CONFIG in origins else origins[0]
    told = _find_mistake(cfg, file)
    if not have_scale_of_one(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD):
        statement = _state_preprocessing(cfg, file)
        told = (
            f"That is {origin}, and the file itself does not tell: if it was "
            f"trained as the configuration says, add --preprocessing {statement}. {told}"
        )
    return f" {told.rstrip()}"


def _suggest_conversion(preprocessing: Preprocessing, found: list[_Difference]) -> str:
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
    preprocessing: str | None = None,
    defaults: CfgNode | None = None,
) -> list[str]:
    """Read a file of weights and list the overrides that it needs, for ``--fit-config``.

    These are its network (depth, cardinality, widths, deformable stages, kind of norm) and its
    preprocessing; what is only usual for it where the configuration states nothing else. A file
    that knows the configuration of its detector needs all that decides its numbers; for a training,
    which goes on from its weights, the settings of tests and the classes are free.

    Args:
        source: a path, or a name of the catalog.
        overridden: keys that the user gave by hand, which hold against a detector's file; against
            facts of others they are an error.
        preprocessing: what the user states of the file, see ``parse_preprocessing``.
        defaults: see ``check_configuration``.

    Raises:
        ValueError, FileNotFoundError: see ``read_weights``; the file does not say what it needs.
    """
    file = read_weights(source, mapped=True)
    file.refuse_unusable()
    file = assume_preprocessing(file, preprocessing)
    if file.preprocessing is None and file.detector is None:
        raise ValueError(
            f"MODEL.WEIGHTS = {source} does not say which preprocessing it needs, so nothing can "
            "be fitted to it; say it with --preprocessing, or leave --fit-config out, and write "
            "INPUT.FORMAT, MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and MODEL.RESNETS.STRIDE_IN_1X1 "
            "yourself"
        )
    defaults = defaults or get_cfg()
    found = _find_needed(cfg, file, training=training, defaults=defaults)
    if file.detector is not None:
        found = [entry for entry in found if entry[0] not in overridden]
    else:
        stated = _find_stated(cfg, file, found, overridden, defaults)
        found = [entry for entry in found if entry not in stated]
        found += find_network_differences(cfg, file)
        _refuse_overridden(file, [entry for entry in found if entry[0] in overridden])
    return [str(word) for key, _, theirs in found for word in (key, theirs)]


def _refuse_overridden(file: WeightFile, found: list[_Difference]) -> None:
    """Refuse what the user gave by hand and ``--fit-config`` would replace."""
    if found:
        given = "; ".join(f"{key} {have}" for key, have, _ in found)
        needed = "; ".join(f"{key} {theirs}" for key, _, theirs in found)
        raise ValueError(
            f"{given} is given by hand, and MODEL.WEIGHTS = {file.path} needs {needed}; leave that "
            "out, and --fit-config sets it, or leave --fit-config out"
        )


def find_network_differences(cfg: CfgNode, file: WeightFile) -> list[_Difference]:
    """Find where a configuration describes another network than that of a file.

    Of norms only those without statistics are looked at; ``find_differences`` has the others.

    Returns:
        (key of MODEL.RESNETS, its value, the value that is needed) for every difference.
    """
    needed: dict[str, Any] = find_deformable_settings(file.state)
    if file.architecture is not None:
        needed |= write_architecture(file.architecture)
        needed["SHORTCUTS"] = file.architecture.shortcuts
    group_norms = find_batch_norm(file.state) == "none" and any(map(_NORM_WEIGHT, file.state))
    if group_norms and cfg.MODEL.RESNETS.NORM in ANY_BATCH_NORM:
        needed["NORM"] = "GN"
    have = cfg.MODEL.RESNETS
    return [
        (f"MODEL.RESNETS.{key}", have[key], value)
        for key, value in needed.items()
        if key in have and have[key] != value
    ]


def _find_needed(
    cfg: CfgNode, file: WeightFile, *, training: bool, defaults: CfgNode
) -> list[_Difference]:
    """Find where a configuration does not fit the preprocessing of a file, or its detector."""
    needed, detector = file.preprocessing, file.detector
    found = [] if needed is None else find_differences(needed, cfg)
    if needed is not None and needed.batch_norm == "statistics":
        # A classifier trains its norms, and has no frozen ones.
        norm = defaults.MODEL.RESNETS.NORM
        found = [(key, have, norm if key == _NORM else theirs) for key, have, theirs in found]
    if detector is not None:
        settings = find_setting_differences(detector, cfg, training=training)
        found += [entry for entry in settings if needed is None or entry[0] not in _PREPROCESSING]
    return found
