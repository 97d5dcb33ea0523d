"""Our weights as torchvision's ResNet has them: its names, its preprocessing, its counters; or why it has no such network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from resnext_det.architecture import Architecture
from resnext_det.weights.name_tables import TABLES, NameTable
from resnext_det.weights.preprocessing import KNOWN, Preprocessing, converted
from resnext_det.weights.recognition import recognised

logger = logging.getLogger(__name__)

_STEM_CHANNELS, _RES2_CHANNELS, _INPUT_CHANNELS = 64, 256, 3
_NORM = ("weight", "bias", "running_mean", "running_var")


def _inverted(table: NameTable) -> NameTable:
    """From our names to a library's; of several that are one of ours, the first."""
    rows = tuple((ours, theirs) for theirs, ours in table.rows)
    return replace(
        table, rows=rows, first_stage=4 - table.first_stage, first_block=-table.first_block
    )


_TORCHVISION = _inverted(next(table for table in TABLES if table.format == "torchvision"))


def torchvision_state(
    state: Mapping[str, Tensor], preprocessing: Preprocessing | None
) -> dict[str, Tensor]:
    """Weights under our names as a state that torchvision's ``ResNet`` of the same blocks loads strictly.

    Such a file says nothing about its preprocessing, and every reader takes it for torchvision's, so the weights are made for that:
    conv1's channels put into RGB, another pixel std folded into conv1. The batch norms' counters, where absent, are 0. Without a
    classifier it fits a ResNet whose ``fc`` is ``nn.Identity()``.

    A frozen batch norm is torchvision's batch norm in evaluation, exactly. Folded ones, which have no statistics, are written with
    the mean 0 and variance 1 that they have here: right in evaluation, and not to be trained, of which a warning tells.

    Raises:
        ValueError: torchvision has no such network, or the weights cannot be made for its preprocessing.
    """
    if any(name.startswith(("roi_heads.", "proposal_generator.", "backbone.")) for name in state):
        raise ValueError(
            "these weights are a detector's, which torchvision builds in another way; take its backbone out (backbone_of_detector, "
            "or --backbone-only of tools/convert_weights.py)"
        )
    _check_network(recognised(state), state)
    state = _made_for_torchvision(state, preprocessing)
    renamed = {}
    for name, tensor in state.items():
        renamed[_renamed(name)] = tensor
        if name.endswith(".norm.running_var"):
            counter = name.replace("running_var", "num_batches_tracked")
            renamed[_renamed(counter)] = state.get(counter, torch.zeros((), dtype=torch.int64))
    return renamed


def _check_network(architecture: Architecture, state: Mapping[str, Tensor]) -> None:
    if "res5.0.conv1.weight" not in state:
        raise ValueError(
            f"these weights end before res5, and torchvision's {architecture} does not; give those of a whole network"
        )
    channels = (
        architecture.stem_channels,
        architecture.res2_channels,
        state["stem.conv1.weight"].shape[1],
    )
    if channels != (_STEM_CHANNELS, _RES2_CHANNELS, _INPUT_CHANNELS):
        raise ValueError(
            f"these weights' stem, res2 and images have {channels[0]}, {channels[1]} and {channels[2]} channels, and torchvision's ResNet "
            f"always {_STEM_CHANNELS}, {_RES2_CHANNELS} and {_INPUT_CHANNELS}; write another format"
        )
    for convolution in [name.removesuffix(".weight") for name in state if state[name].ndim == 4]:
        lacking = [key for key in _NORM if f"{convolution}.norm.{key}" not in state]
        if lacking:
            raise ValueError(
                f"{convolution}.norm has no {lacking[0]}, so it is no batch norm, and torchvision's ResNet has batch norms; write "
                "another format"
            )


def _made_for_torchvision(
    state: Mapping[str, Tensor], preprocessing: Preprocessing | None
) -> dict[str, Tensor]:
    if preprocessing is None:
        raise ValueError(
            "the preprocessing of these weights is not known, and torchvision's format implies one; say it (preprocessing=, or "
            "--preprocessing of tools/convert_weights.py)"
        )
    if preprocessing.stride_in_1x1:
        raise ValueError(
            "these weights have their stride in the 1x1 convolutions (STRIDE_IN_1X1 True), and torchvision's ResNet has it in the 3x3: "
            "the shapes would fit and the features be wrong; write another format"
        )
    if preprocessing.batch_norm == "folded":
        logger.warning(
            "the batch norms of these weights are folded into scale and bias; in torchvision's network they are right in evaluation "
            "(eval()) alone: do not train them, and read the file as one of FrozenBN"
        )
    target = replace(KNOWN["torchvision"], batch_norm=preprocessing.batch_norm)
    return converted(state, preprocessing, target)


def _renamed(name: str) -> str:
    renamed = _TORCHVISION.renamed(name)
    if renamed is None:
        raise ValueError(
            f"torchvision's ResNet has nothing for {name!a:.80}; remove it, or write another format"
        )
    return renamed
