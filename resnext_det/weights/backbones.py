"""A detector's backbone, or a classifier's, as weights to start another detector from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from resnext_det.weights.file import WeightFile
from resnext_det.weights.preprocessing import Preprocessing, batch_norm_of
from resnext_det.weights.recognition import backbone_of_detector, recognise

CONFIG_FILE = "config.yaml"
"""What both engines write beside a run's checkpoints."""

_NATIVE = "native"


def backbone_of(file: WeightFile) -> WeightFile:
    """The backbone of a detector or classifier alone, with its preprocessing, named as ImageNet weights are.

    A detector's preprocessing is the file's own, or else that of the config.yaml of the run, beside the file.

    Raises:
        ValueError: there is no ResNeXt in the file, or the config.yaml beside it is damaged.
    """
    if file.format == "detector":
        state = backbone_of_detector(file.state)
    else:
        state = {
            name: tensor for name, tensor in file.state.items() if not name.startswith("linear.")
        }
    file = with_preprocessing_beside(file)
    return replace(file, format=_NATIVE, state=state, architecture=recognise(state), left_out=())


def with_preprocessing_beside(file: WeightFile) -> WeightFile:
    """A detector's file with the preprocessing of the config.yaml beside it, where its own is not known."""
    if file.format != "detector" or file.preprocessing is not None:
        return file
    config = Path(file.path).with_name(CONFIG_FILE)
    if not config.is_file():
        return file
    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{config} is damaged, so the preprocessing of {file.path} is not known; correct it, or move it away"
        ) from error
    return replace(file, preprocessing=_preprocessing(values, file.state))


def _preprocessing(values: Any, state: Mapping[str, Tensor]) -> Preprocessing | None:
    """What a complete configuration says; None where it leaves something to its defaults, which may be any version's."""
    try:
        model = values["MODEL"]
        return Preprocessing.from_dict(
            {
                "channel_order": values["INPUT"]["FORMAT"],
                "mean": list(model["PIXEL_MEAN"]),
                "std": list(model["PIXEL_STD"]),
                "stride_in_1x1": model["RESNETS"]["STRIDE_IN_1X1"],
                "batch_norm": batch_norm_of(state),
            }
        )
    except (KeyError, TypeError, ValueError):
        return None
