"""Diagnose files of weights: what each is, what it lacks for detection, which configuration fits.

``text.py`` writes the diagnoses for people.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resnext_det.files import list_first
from resnext_det.weights.containers import find_damage
from resnext_det.weights.conversion import (
    RUN_CONFIG,
    add_preprocessing_beside,
    assume_preprocessing,
    select_backbone,
)
from resnext_det.weights.doctor.description import KEYS, describe
from resnext_det.weights.doctor.detector_kinds import find_detector_kind
from resnext_det.weights.doctor.shipped_configs import choose_config
from resnext_det.weights.file import WeightFile, read_weights
from resnext_det.weights.health import check_numbers
from resnext_det.weights.preprocessing import are_close
from resnext_det.weights.published.timm_config import CONFIG

SUFFIXES = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".pyth", ".safetensors", ".t7", ".tar")
"""Of the files that are taken from a folder."""

_IMAGENET = 1000  # classes
_TRAIN_DATA = ("--train-data", "annotations.json", "photos/")
_TEST_DATA = ("--test-data", "annotations.json", "photos/")

# Warnings: what is so in a few words, for the table, and behind a colon what follows from it.
_ENDS_AT_RES4 = "no res5: enough for an RPN alone, and a detector is refused without it"
_SAY_IT = (
    "preprocessing not known: under another one accuracy is lost without an error, so ask whoever "
    "trained the weights, and add --preprocessing, a publisher's name or numbers such as "
    "RGB:123.675,116.28,103.53:58.395,57.12,57.375"
)
_NO_CONFIG = (
    "configuration not known: nothing is compared but names and shapes, so give the one that the "
    "detector was trained under as --config-file"
)
_OTHER_KIND = (
    "no shipped configuration is of its kind: its backbone can start another detector, and the "
    "whole needs its own, as --config-file"
)
_FOLDED = (
    "folded batch norms: they are scale and bias alone, and must stay frozen (MODEL.RESNETS.NORM "
    "FrozenBN)"
)
_NO_STATISTICS = "norms without statistics: group norms, or batch norms that lost theirs"


def list_files(sources: Iterable[str]) -> list[str]:
    """List what to diagnose: of a folder its files of weights, everything else as it is given.

    A folder laid out as the hub's (config.json beside the weights) is one file.
    """
    found: list[str] = []
    for source in sources:
        folder = Path(source).expanduser()
        inside: list[str] = []
        if _is_plain_folder(source):
            with contextlib.suppress(OSError):
                inside = sorted(
                    name
                    for name in os.listdir(folder)
                    if name.endswith(SUFFIXES) and os.path.isfile(folder / name)
                )
        found += [str(Path(source) / name) for name in inside] or [source]
    return found


def _is_plain_folder(source: str) -> bool:
    folder = Path(source).expanduser()
    return os.path.isdir(folder) and not os.path.isfile(folder / CONFIG)


def diagnose(
    source: str, *, prefix: str | None = None, preprocessing: str | None = None
) -> dict[str, Any]:
    """Diagnose a file of weights, without an error for what is wrong with it.

    Args:
        source: a path, or a name of the catalog or of the hub.
        prefix: see ``read_weights``.
        preprocessing: see ``assume_preprocessing``.

    Returns:
        Plain data: the keys of ``describe``, all None where the file is not read, and ``file``: the
        source as it was given; ``usable``: a network is recognized, and its numbers compute
        something; ``error``: why the file is not read, or None; ``lacks``: what detection needs and
        the file has not, in words such as "res5" and "preprocessing"; ``faults``: why it is not
        usable, in sentences; ``warnings``: what to look at, each a few words and, behind a colon,
        what follows from it; ``config_file``: that fits with the fewest changes, None for a
        detector that holds its own; ``overrides``: what is to change in it, by key; ``commands``:
        lines for a shell by what they do: "convert", "train", "evaluate", "predict", "classify".
    """
    found: dict[str, Any] = {"file": source, "usable": False, "error": None}
    found |= {"lacks": [], "faults": [], "warnings": []}
    found |= {"config_file": None, "overrides": {}, "commands": {}, **dict.fromkeys(KEYS)}
    try:
        if _is_plain_folder(source):
            raise ValueError(
                f"{source} is a folder without files of weights ({', '.join(SUFFIXES)}); name one"
            )
        file = add_preprocessing_beside(read_weights(source, mapped=True, prefix=prefix))
        file = assume_preprocessing(file, preprocessing)
        found |= describe(file)
        damage = find_damage(file.path)
    except (ValueError, OSError) as error:
        told = str(error).removeprefix(f"weights {source}: ")
        return found | {"error": told, "faults": [told]}
    health = check_numbers(file.state)
    missing = _find_missing(file) if found["architecture"] else []
    found["faults"] = [*([damage] if damage else []), *missing, *health.faults]
    if not found["architecture"]:
        found["faults"].insert(0, found["not_recognized"])
    found["lacks"] = _find_lacks(found, file)
    found["warnings"] = [*_warn(found), *health.warnings]
    if found["faults"]:
        return found
    found["usable"] = True
    if file.detector is None:
        _fit(found, file)
    found["commands"] = _write_commands(found, prefix, preprocessing)
    return found


def _find_missing(file: WeightFile) -> list[str]:
    """Find what makes a recognized network less than a detector's whole backbone."""
    if file.architecture is not None and not file.architecture.shortcuts:
        return ["the network has no shortcuts, and no detector takes such"]
    backbone = select_backbone(file)
    norms = [
        f"{name.removesuffix('weight')}norm."
        for name in backbone
        if re.fullmatch(r".*(conv[123]|shortcut)\.weight", name)
    ]
    with_statistics = any(name.endswith("running_var") for name in backbone)
    for ending, what in (("weight", "norms"), ("running_var", "statistics of norms")):
        missing = [f"{norm}{ending}" for norm in norms if f"{norm}{ending}" not in backbone]
        if missing and (ending == "weight" or with_statistics):
            return [f"{len(missing)} of {len(norms)} {what} are missing ({list_first(missing, 2)})"]
    return []


def _find_lacks(found: Mapping[str, Any], file: WeightFile) -> list[str]:
    if not found["architecture"]:
        return ["network"]
    return [
        word
        for word, lacks in (
            ("res5", not any(re.match(r"(.*\.)?res5\.", name) for name in file.state)),
            ("preprocessing", found["preprocessing"] is None),
            (
                "configuration",
                found["kind"] == "detector" and file.detector is None and not _find_config(file),
            ),
        )
        if lacks
    ]


def _warn(found: Mapping[str, Any]) -> list[str]:
    if not found["architecture"]:
        return []
    return [
        text
        for text, applies in (
            (_ENDS_AT_RES4, "res5" in found["lacks"]),
            (_SAY_IT, "preprocessing" in found["lacks"]),
            (_NO_CONFIG, "configuration" in found["lacks"]),
            (_FOLDED, found["batch_norm"] == "folded"),
            (_NO_STATISTICS, found["batch_norm"] == "none"),
        )
        if applies
    ]


def _find_config(file: WeightFile) -> str | None:
    """Find the configuration that a run has left beside its weights."""
    beside = Path(file.path).with_name(RUN_CONFIG)
    return str(beside) if beside.is_file() else None


def _fit(found: dict[str, Any], file: WeightFile) -> None:
    """Add the configuration that fits, and what is to change in it."""
    if found["kind"] == "detector" and (beside := _find_config(file)):
        found["config_file"] = beside
        return
    kind, classes = "RPN" if "res5" in found["lacks"] else "FPN", None
    if found["kind"] == "detector":
        of_detector = find_detector_kind(file.state)
        if of_detector is None:
            found["warnings"].append(_OTHER_KIND)
        else:
            kind, classes = of_detector, found["classes"]
    found["config_file"], found["overrides"] = choose_config(file, kind=kind, classes=classes)


def _write_commands(
    found: Mapping[str, Any], prefix: str | None, preprocessing: str | None
) -> dict[str, str]:
    """Write lines for a shell that convert, train, evaluate and predict with a file."""
    file, said = found["file"], ["--preprocessing", preprocessing] if preprocessing else []
    whole = found["kind"] == "detector" and _OTHER_KIND not in found["warnings"]
    taken_out = ["--backbone-only"] if found["kind"] == "detector" and not whole else []
    taken_out += ["--prefix", prefix] if prefix is not None else []  # which convert alone knows
    commands = {}
    if taken_out:
        commands["convert"] = ["convert", file, "backbone.safetensors", *taken_out, *said]
        file, said = "backbone.safetensors", []  # which says its preprocessing
    config = ["--config-file", found["config_file"]] if found["config_file"] else []
    pairs = [str(word) for pair in found["overrides"].items() for word in pair]
    pairs += ["MODEL.DEVICE", "auto"] if config else []  # the configurations say cuda
    weights = ["--weights", file, *said]
    if whole:
        given = [*config, *weights]
        commands["train"] = ["train", *given, *_TRAIN_DATA, "OUTPUT_DIR", "output/more", *pairs]
        commands["evaluate"] = ["train", "--eval-only", *given, *_TEST_DATA, *pairs]
        commands["predict"] = ["predict", *given, "photos/", *pairs]
    else:
        # The paper's two steps have a schedule of their own.
        data = [] if "res5" in found["lacks"] else ["--schedule", "auto"]
        data += [*_TRAIN_DATA, "OUTPUT_DIR", "output/new"]
        commands["train"] = ["train", *config, *weights, *data, *pairs]
        trained = ["--weights", "output/new/model_final.pth"]
        commands["evaluate"] = ["train", "--eval-only", *trained, *_TEST_DATA]
    if found["kind"] == "classifier" and "res5" not in found["lacks"]:
        pictures = "imagenet/val" if found["classes"] == _IMAGENET else "pictures/val"
        commands["classify"] = ["evaluate-classifier", file, pictures, *said]
    return {what: shlex.join(["resnext-det", *words]) for what, words in commands.items()}


def compare(diagnoses: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """Compare the preprocessings that usable files of one network need.

    Returns:
        For every network of which there are several files: the files by their preprocessing, which
        is told in words. Numbers that differ by rounding alone are one.
    """
    groups: dict[str, list[tuple[Any, list[str]]]] = {}
    for found in diagnoses:
        if not found["usable"]:
            continue
        kinds = groups.setdefault(found["architecture"], [])
        needed = found["preprocessing"]
        files = next((files for other, files in kinds if _are_one(needed, other)), None)
        if files is None:
            kinds.append((needed, files := []))
        files.append(found["file"])
    return {
        network: {_describe_images(needed): files for needed, files in kinds}
        for network, kinds in groups.items()
        if sum(len(files) for _, files in kinds) > 1 and any(needed for needed, _ in kinds)
    }


def _describe_images(preprocessing: Mapping[str, Any] | None) -> str:
    """Describe a preprocessing in a few words."""
    if preprocessing is None:
        return "not known"
    mean, std = (
        " ".join(f"{number:.4g}" for number in preprocessing[key]) for key in ("mean", "std")
    )
    stride = ", stride in the 1x1" if preprocessing["stride_in_1x1"] else ""
    return f"{preprocessing['channel_order']}, mean {mean}, std {std}{stride}"


def _are_one(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Tell whether two preprocessings are one, but for rounding."""
    if one is None or other is None:
        return one is other
    same = all(one[key] == other[key] for key in ("channel_order", "stride_in_1x1"))
    return same and all(are_close(one[key], other[key]) for key in ("mean", "std"))
