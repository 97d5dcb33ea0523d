"""Describe a file of weights: as plain data, and as the lines of a configuration that fits it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from resnext_det.architecture import Architecture
from resnext_det.config.backbone import write_architecture
from resnext_det.files import list_first
from resnext_det.weights.conversion import read_config_images, select_backbone
from resnext_det.weights.doctor.detector_kinds import count_classes
from resnext_det.weights.file import WeightFile
from resnext_det.weights.preprocessing import find_batch_norm
from resnext_det.weights.publishers import FROM_FILE, FROM_WEIGHTS
from resnext_det.weights.structure import find_architecture, find_deformable_settings

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_SIZE = 224
_MOST_NAMED = 20


KEYS = (
    *("path", "bytes", "format", "kind", "dtype", "architecture", "not_recognized", "parameters"),
    *("backbone_parameters", "classes", "deformable", "multiply_adds", "batch_norm"),
    *("preprocessing", "metadata", "origins", "usual", "left_out", "class_names", "versions"),
    *("metrics", "configuration", "prefix", "left_out_names", "passed_over"),
)
"""The keys of a description."""


def describe(file: WeightFile) -> dict[str, Any]:
    """Describe a file as plain data, with None for what is not known.

    Keys: ``path``, ``bytes``, ``format``; ``kind``: "detector", "classifier" or "backbone";
    ``dtype``: of its numbers, of several the most frequent first ("float16, float32");
    ``architecture`` (its name) and ``not_recognized`` (why there is none); ``parameters`` (trained
    values in the file, without batch norms' statistics), ``backbone_parameters`` of them;
    ``classes`` of a classifier or detector; ``multiply_adds`` of the network on an image of 224x224
    (a detector's backbone's; with the stride in the 3x3 convolutions, whatever the file's, and
    without the offsets of deformable ones); ``deformable``: the keys of MODEL.RESNETS that tell the
    deformable stages, with their values, empty where there are none; ``batch_norm``: see
    ``Preprocessing``; ``preprocessing``: of a detector of gray images with one mean and std;
    ``metadata``; ``origins``: where each fact of ``preprocessing`` and ``metadata`` is from;
    ``usual``: the facts that are only usual for such files, and not known of this one;
    ``left_out``: how many names in the file are of heads and other networks, and the first 20 of
    them, ``left_out_names``; ``prefix``, ``passed_over``: see ``WeightFile``; ``class_names`` of
    the outputs; ``versions`` of the libraries that trained a detector, and its ``metrics`` by test
    set;
    ``configuration``: the values of one that fits, a trained detector's own where the file holds
    it; empty where no network is recognized.
    """
    architecture: Architecture | None = None
    reason: str | None = None
    backbone: Mapping[str, Tensor] = {}
    try:
        backbone = select_backbone(file)
        architecture = find_architecture(file.state)
    except ValueError as error:
        reason = str(error)
    bias = file.state.get("linear.bias")
    classes = None if bias is None else len(bias)
    path, detector = Path(file.path), file.detector
    preprocessing, origins = _describe_preprocessing(file)
    return {
        "path": file.path,
        "bytes": path.stat().st_size if path.is_file() else None,
        "format": file.format,
        "kind": file.kind,
        "dtype": _find_dtypes(file.state),
        "architecture": architecture and str(architecture),
        "not_recognized": reason,
        "parameters": _count_parameters(file.state),
        "backbone_parameters": _count_parameters(backbone),
        "classes": count_classes(file) if file.kind == "detector" else classes,
        "deformable": find_deformable_settings(file.state),
        "multiply_adds": architecture and architecture.multiply_adds(_SIZE, _SIZE, classes),
        "batch_norm": find_batch_norm(file.state),
        "preprocessing": preprocessing,
        "metadata": dict(file.metadata),
        "origins": origins,
        "usual": [fact for fact in origins if file.is_usual(fact)],
        "left_out": len(file.left_out),
        "left_out_names": [ascii(name)[1:-1][:80] for name in file.left_out[:_MOST_NAMED]],
        "passed_over": list(file.passed_over[:_MOST_NAMED]),
        "prefix": ascii(file.prefix)[1:-1][:80],
        "class_names": list(file.class_names or ()),
        "versions": dict(detector.versions) if detector else {},
        "metrics": {name: dict(found) for name, found in detector.metrics.items()}
        if detector
        else {},
        "configuration": _make_configuration(file, architecture) if architecture else {},
    }


def format_description(description: Mapping[str, Any]) -> str:
    """Write a description as YAML: comments, and the lines to put into a configuration."""
    size, classes = description["bytes"], description["classes"]
    lines = [f"{description['path']}: {description['format']}"]
    lines[0] += f", {size / 1e6:.1f} MB" if size else ""
    if description["architecture"]:
        lines.append(
            f"architecture: {description['architecture']}, "
            f"{description['multiply_adds'] / 1e9:.2f} G multiply-adds at {_SIZE}x{_SIZE}"
        )
    else:
        lines.append(f"architecture: not recognized, {description['not_recognized']}")
    of_backbone = f", {description['backbone_parameters']:,} of them the backbone's"
    lines.append(
        f"parameters: {description['parameters']:,}"
        + (of_backbone if description["architecture"] else "")
        + (f"; {classes} classes" if classes else "")
    )
    if description["deformable"]:
        told = description["deformable"].items()
        lines.append(
            f"deformable convolutions: {', '.join(f'{key} {value}' for key, value in told)}; "
            "their offsets are not among the multiply-adds"
        )
    if description["left_out"]:
        lines.append(f"no part of a ResNeXt: {describe_left_out(description)}")
    if description["passed_over"]:
        lines.append(f"other networks, passed over: {', '.join(description['passed_over'])}")
    if description["prefix"]:
        lines.append(f"prefix of its names: {description['prefix']}")
    metadata = {"license": "not known", **description["metadata"]}
    usual = {*description["usual"]} - {"license"}  # whose text says as much
    lines += [
        f"{name}: {text}{' (usual for such files, not known)' * (name in usual)}"
        for name, text in metadata.items()
    ]
    if description["class_names"]:
        lines.append(f"class names: {', '.join(description['class_names'])}")
    if description["versions"]:
        versions = description["versions"].items()
        lines.append(
            f"trained with: {', '.join(f'{name} {version}' for name, version in versions)}"
        )
    elif description["format"] == "detector":
        lines.append("configuration and classes of the detector: the file does not tell")
    for name, numbers in description["metrics"].items():
        lines.append(f"measured on {name}: {describe_metrics(numbers)}")
    preprocessing = description["preprocessing"]
    if preprocessing is None:
        lines.append("preprocessing: not known; ask whoever trained it")
    elif len(preprocessing["mean"]) == 1:
        lines.append(
            f"preprocessing: gray images, mean {preprocessing['mean'][0]:g}, std "
            f"{preprocessing['std'][0]:g}"
        )
    lines += _tell_origins(description)
    if description["batch_norm"] == "folded":
        lines.append("batch norm: folded into scale and bias, for FrozenBN alone")
    if preprocessing and preprocessing["stride_in_1x1"]:
        lines.append("stride in the 1x1 convolutions: somewhat fewer multiply-adds than these")
    text = "".join(f"# {_make_printable(line)}\n" for line in lines)
    if description["configuration"]:
        text += yaml.safe_dump(
            description["configuration"], sort_keys=False, default_flow_style=None
        )
    return text


def _tell_origins(description: Mapping[str, Any]) -> list[str]:
    """Say where the facts of the preprocessing are from, in a line for each origin."""
    facts: dict[str, list[str]] = {}
    for fact in description["preprocessing"] or ():
        if fact in description["origins"]:
            facts.setdefault(description["origins"][fact], []).append(fact)
    return [
        f"{', '.join(names)}: {origin}, not known of this one"
        if names[0] in description["usual"]
        else f"{', '.join(names)}: from {origin}"
        for origin, names in facts.items()
    ]


def describe_metrics(numbers: Mapping[str, float]) -> str:
    """Write a test's numbers, without those of single categories."""
    return ", ".join(f"{key} {value:.1f}" for key, value in numbers.items() if "-" not in key)


def describe_left_out(description: Mapping[str, Any]) -> str:
    """Write how many names were left out, and the first of them."""
    count, names = description["left_out"], description["left_out_names"]
    return f"{count} names ({list_first(names, 4, of=count)})"


def _make_printable(text: str) -> str:
    """Put a text of the file into one line, without what would command a terminal."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _find_dtypes(state: Mapping[str, Tensor]) -> str:
    """Name the types of the numbers, the most frequent first; counters do not count."""
    counts: Counter[str] = Counter()
    for tensor in state.values():
        if tensor.is_floating_point() or tensor.ndim:
            counts[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return ", ".join(name for name, _ in counts.most_common())


def _describe_preprocessing(file: WeightFile) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Describe the preprocessing, and where each fact is from; also of gray images.

    A ``Preprocessing`` has three channels. A detector of images of one channel has its mean and std
    in its configuration.
    """
    origins = {"batch_norm": FROM_WEIGHTS, **file.origins}
    if file.preprocessing is not None:
        return file.preprocessing.as_dict(), origins
    found = file.detector and read_config_images(file.detector.config, file.state)
    if not found:
        return None, origins
    return found, {**origins, **dict.fromkeys(found, FROM_FILE), "batch_norm": FROM_WEIGHTS}


def _count_parameters(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for name, tensor in state.items() if not name.endswith(_STATISTICS))


def _make_configuration(file: WeightFile, architecture: Architecture) -> dict[str, Any]:
    """Collect detectron2's keys that the weights decide, with their values."""
    if file.detector is not None:
        return dict(file.detector.config)
    preprocessing = file.preprocessing
    resnets = find_deformable_settings(file.state) | write_architecture(architecture)
    if preprocessing is None:
        return {"MODEL": {"RESNETS": resnets}}
    resnets["STRIDE_IN_1X1"] = preprocessing.stride_in_1x1
    if preprocessing.batch_norm == "folded":
        resnets["NORM"] = "FrozenBN"
    mean, std = list(preprocessing.mean), list(preprocessing.std)
    return {
        "INPUT": {"FORMAT": preprocessing.channel_order},
        "MODEL": {"PIXEL_MEAN": mean, "PIXEL_STD": std, "RESNETS": resnets},
    }
