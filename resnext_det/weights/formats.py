"""Weights of other libraries under detectron2's names, which are ours."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from resnext_det.weights.name_tables import TABLES, NameTable

_PATH = re.compile(r"(.*\bres\d\.\d+)\.paths\.(\d+)\.(conv[123]\..+)")


def in_form_c(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the paths of every block joined, see ``forms.convert``; those of a network in form C as they are.

    Raises:
        ValueError: a path is missing, or the paths of a block are not alike.
    """
    paths: dict[tuple[str, str], dict[int, Tensor]] = defaultdict(dict)
    joined: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found = _PATH.fullmatch(name)
        if found is None:
            joined[name] = tensor
        else:
            paths[found[1], found[3]][int(found[2])] = tensor
    for (block, part), tensors in paths.items():
        joined[f"{block}.{part}"] = _join(f"{block}.paths", part, tensors)
    of_form_a = {f"{block}.norm." for block, part in paths if part == "conv3.weight"}
    return {
        name.replace(".norm.", ".conv3.norm.") if _prefix(name) in of_form_a else name: tensor
        for name, tensor in joined.items()
    }


def _prefix(name: str) -> str:
    """ "res2.0.norm." of "res2.0.norm.weight": the norm after the sum of form A's paths."""
    return name.removesuffix(name.rpartition(".")[2])


def _join(name: str, part: str, tensors: Mapping[int, Tensor]) -> Tensor:
    try:
        ordered = [tensors[index] for index in range(len(tensors))]
        if ordered[0].dim() == 0:  # a counter of batches
            return ordered[0]
        return torch.cat(ordered, dim=1 if part == "conv3.weight" else 0)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"the weights {name} (forms A and B) are incomplete or of different shapes: {error}"
        ) from error


# What may stand before every name of a network that was saved as a part of something, and before those of its backbone.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "network.", "net.")
_MOST_WRAPPERS = 4
_PARTS = re.compile(
    r"(?:(?:module|model|network|net|backbone|bottom_up|body|trunk|encoder|encoder_q|base_encoder|resnet|resnext)\.){0,6}"
)
# What averaging copies of weights count beside them.
_COUNTERS = ("n_averaged", "steps")
# Constants that detectors of detectron2 up to 0.3 saved; ours come from the configuration.
_CONSTANTS = re.compile(
    r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\..*"
)
# What a detector of detectron2 has, RetinaNet included, and no backbone alone.
_OF_DETECTOR = ("roi_heads.", "proposal_generator.", "backbone.fpn_")
_BIAS = re.compile(r"((?:stem|res\d\.\d+)\.(?:conv\d|shortcut))\.bias")
_EPS = 1e-5


class NativeWeights(NamedTuple):
    """Weights under our names.

    Attributes:
        format: ``detector`` (a whole detector in our names), or the ``format`` of a ``NameTable``.
        state: the weights; a detector's under its own names, others without what stands before them.
        left_out: names in the file that are no part of a backbone or classifier, such as detection heads.
        prefix: what stood before the backbone's names.
    """

    format: str
    state: dict[str, Tensor]
    left_out: tuple[str, ...] = ()
    prefix: str = ""


def to_native(state: Mapping[str, Tensor]) -> NativeWeights:
    """The weights under our names, and whose they are, told by the names alone.

    A convolution's bias, which none of ours has, goes into the norm behind it, and Caffe2's folded batch norms get the mean 0 and the
    variance 1 - 1e-5: both compute what the file's network computes.

    Raises:
        ValueError: the names are of no known format, of several networks, or one of them is strange to its format.
    """
    state, left_out = _unwrapped(state)
    if any(name.startswith(_OF_DETECTOR) for name in state) and any(
        name.endswith("stem.conv1.weight") for name in state
    ):
        kept = {name: tensor for name, tensor in state.items() if not _CONSTANTS.fullmatch(name)}
        return NativeWeights("detector", kept)
    table, prefix = _recognised(state)
    native: dict[str, Tensor] = {}
    for name, tensor in state.items():
        ours = _native_name(table, prefix, name)
        if ours is None:
            left_out.append(name)
        elif ours in native:
            raise ValueError(
                f"two of the weights are {ours} under our names, the second is {name!a:.80}; remove one from the file"
            )
        else:
            native[ours] = tensor
    for name, tensor in native.items():
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked"):
            raise ValueError(
                f"{name} is of {tensor.dtype}, where weights are floating-point numbers; give those"
            )
    if table.format == "caffe2":
        _add_statistics(native, state, table)
    _fold_biases(native)
    return NativeWeights(table.format, native, tuple(left_out), prefix)


def _unwrapped(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    left_out = [name for name in _COUNTERS if name in state]
    bare = {name: tensor for name, tensor in state.items() if name not in left_out}
    for _ in range(_MOST_WRAPPERS):
        prefix = next(
            (p for p in _WRAPPERS if bare and all(name.startswith(p) for name in bare)), None
        )
        if prefix is None:
            break
        bare = {name.removeprefix(prefix): tensor for name, tensor in bare.items()}
    return bare, left_out


def _recognised(state: Mapping[str, Tensor]) -> tuple[NameTable, str]:
    found = [
        (table, name.removesuffix(table.stem))
        for name in state
        for table in TABLES
        if name.endswith(table.stem) and _PARTS.fullmatch(name.removesuffix(table.stem))
    ]
    if len(found) == 1:
        return found[0]
    some = ", ".join(f"{name!a:.80}"[1:-1] for name in list(state)[:4])
    if found:
        prefixes = " and ".join(repr(prefix) for _, prefix in found[:4])
        raise ValueError(
            f"there are several networks among the weights, under {prefixes}; save the one that you mean, alone"
        )
    if any(re.search(r"(?:^|\.)(?:conv1|stem)\.0\.(?:0\.)?weight$", name) for name in state):
        raise ValueError(
            f"weights named {some} ... have a stem of several convolutions (ResNet-C, -D and their like), where a ResNeXt has one of 7x7; "
            "give a plain ResNeXt's or ResNet's"
        )
    raise ValueError(
        f"weights named {some} ... are of no known format; give a ResNet or ResNeXt of torchvision, timm, mmpretrain, mmdetection, "
        "detectron2, Detectron, pycls or the paper, or a checkpoint of this project"
    )


def _native_name(table: NameTable, prefix: str, name: str) -> str | None:
    """Our name; None for what is no part of the network."""
    if name.startswith(prefix):
        bare = name.removeprefix(prefix)
        ours = table.renamed(bare)
        if ours is not None or not re.fullmatch(table.backbone, bare):
            return ours
        if table.format == "detectron2":  # loading tells whether the model has a place for it
            return bare
        remedy = "the network is another one, or has parts that a ResNeXt has not; give the weights of a plain ResNeXt or ResNet"
        if not re.match(r"conv\d|bn\d|layer\d|stem|s\d", bare):
            remedy = "remove it from the file, or rename it"
        raise ValueError(f"{bare!a:.80} is no name of {table.format}'s ResNeXt; {remedy}")
    head = table.renamed(name)  # as mmpretrain's "head.fc.weight" beside "backbone.conv1.weight"
    return head if head is not None and head.startswith("linear.") else None


def _add_statistics(
    native: dict[str, Tensor], state: Mapping[str, Tensor], table: NameTable
) -> None:
    """Mean 0 and variance 1 - eps for Caffe2's batch norms of scale and bias alone, which they leave as they are.

    detectron2 takes the variance 1, so that its scales are smaller by a factor of 1 - 5e-6.
    """
    for name in state:
        ours = table.renamed(name) if re.search("_bn_(?:s|gamma)$", name) else None
        norm = ours and ours.removesuffix("weight")
        if norm and not {f"{norm}running_mean", f"{norm}running_var"} & native.keys():
            scale = native[f"{norm}weight"]
            native[f"{norm}running_mean"] = torch.zeros(scale.shape)
            native[f"{norm}running_var"] = torch.full(scale.shape, 1 - _EPS)


def _fold_biases(native: dict[str, Tensor]) -> None:
    for name in [name for name in native if _BIAS.fullmatch(name)]:
        norm = f"{name.removesuffix('bias')}norm."
        weight, bias, mean, variance = (
            native.get(f"{norm}{key}") for key in ("weight", "bias", "running_mean", "running_var")
        )
        if weight is None or bias is None or mean is None or variance is None:
            continue
        added = native.pop(name)
        if not added.shape == weight.shape == bias.shape == mean.shape == variance.shape:
            raise ValueError(
                f"{name} is {tuple(added.shape)}, and the norm behind it {tuple(mean.shape)}; the file is damaged"
            )
        if mean.any():
            native[f"{norm}running_mean"] = mean - added
        elif added.any():
            native[f"{norm}bias"] = bias + added * weight * (variance + _EPS).rsqrt()
