"""What a file of weights is, as plain data and as the lines of a configuration that fits it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from resnext_det.architecture import Architecture
from resnext_det.config.backbone import write_architecture
from resnext_det.weights.file import WeightFile
from resnext_det.weights.preprocessing import Preprocessing
from resnext_det.weights.recognition import backbone_of_detector, recognised

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_SIZE = 224


def describe(file: WeightFile) -> dict[str, Any]:
    """What a file is: plain data, with None for what is not known.

    Keys: ``path``, ``bytes``, ``format``; ``architecture`` (its name) and ``not_recognised`` (why there is none); ``parameters``
    (trained values in the file, without batch norms' statistics), ``backbone_parameters`` of them; ``classes`` of a classifier;
    ``multiply_adds`` of the network on an image of 224x224 (a detector's backbone's; the stride in the 3x3 convolutions, whatever
    the file's); ``preprocessing``; ``metadata``; ``left_out``: how many names in the file are of another network's heads;
    ``configuration``: the values of a configuration that fits.
    """
    architecture, reason = _architecture(file.state)
    bias = file.state.get("linear.bias")
    classes = None if bias is None else len(bias)
    path = Path(file.path)
    return {
        "path": file.path,
        "bytes": path.stat().st_size if path.is_file() else None,
        "format": file.format,
        "architecture": architecture and str(architecture),
        "not_recognised": reason,
        "parameters": _parameters(file.state),
        "backbone_parameters": _parameters(_backbone(file)),
        "classes": classes,
        "multiply_adds": architecture and architecture.multiply_adds(_SIZE, _SIZE, classes),
        "preprocessing": file.preprocessing and file.preprocessing.as_dict(),
        "metadata": dict(file.metadata),
        "left_out": len(file.left_out),
        "configuration": _configuration(architecture, file.preprocessing),
    }


def description_text(description: Mapping[str, Any]) -> str:
    """A description as YAML: what is known in comments, and the lines to put into a configuration."""
    size = description["bytes"]
    lines = [
        f"{description['path']}: {description['format']}"
        + (f", {size / 1e6:.1f} MB" if size else "")
    ]
    if description["architecture"]:
        lines.append(
            f"architecture: {description['architecture']}, {description['multiply_adds'] / 1e9:.2f} G multiply-adds at {_SIZE}x{_SIZE}"
        )
    else:
        lines.append(f"architecture: not recognised, {description['not_recognised']}")
    classes, parameters = description["classes"], description["parameters"]
    lines.append(
        f"parameters: {parameters:,}, {description['backbone_parameters']:,} of them the backbone's"
        + (f"; {classes} classes" if classes else "")
    )
    if description["left_out"]:
        lines.append(f"no part of a ResNeXt: {description['left_out']} names")
    metadata = {"licence": "not known", **description["metadata"]}
    lines += [f"{name}: {text}" for name, text in metadata.items()]
    preprocessing = description["preprocessing"]
    if preprocessing is None:
        lines.append("preprocessing: not known; ask whoever trained it")
    elif preprocessing["batch_norm"] == "folded":
        lines.append("batch norm: folded into scale and bias, for FrozenBN alone")
    if preprocessing and preprocessing["stride_in_1x1"]:
        lines.append("stride in the 1x1 convolutions: somewhat fewer multiply-adds than these")
    comments = "".join(f"# {_printable(line)}\n" for line in lines)
    values = description["configuration"]
    return comments + (
        yaml.safe_dump(values, sort_keys=False, default_flow_style=None) if values else ""
    )


def _printable(text: str) -> str:
    """In one line, and without what would command a terminal: texts come from the file."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _architecture(state: Mapping[str, Tensor]) -> tuple[Architecture | None, str | None]:
    try:
        return recognised(state), None
    except ValueError as error:
        return None, str(error)


def _backbone(file: WeightFile) -> Mapping[str, Tensor]:
    if file.format == "detector":
        try:
            return backbone_of_detector(file.state)
        except ValueError:
            return {}
    return {name: tensor for name, tensor in file.state.items() if not name.startswith("linear.")}


def _parameters(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for name, tensor in state.items() if not name.endswith(_STATISTICS))


def _configuration(
    architecture: Architecture | None, preprocessing: Preprocessing | None
) -> dict[str, Any]:
    """The keys of detectron2 that the weights decide, with their values."""
    resnets: dict[str, Any] = {}
    if architecture:
        resnets |= write_architecture(architecture)
    if preprocessing is None:
        return {"MODEL": {"RESNETS": resnets}} if resnets else {}
    resnets["STRIDE_IN_1X1"] = preprocessing.stride_in_1x1
    if preprocessing.batch_norm == "folded":
        resnets["NORM"] = "FrozenBN"
    return {
        "INPUT": {"FORMAT": preprocessing.channel_order},
        "MODEL": {
            "PIXEL_MEAN": list(preprocessing.mean),
            "PIXEL_STD": list(preprocessing.std),
            "RESNETS": resnets,
        },
    }
