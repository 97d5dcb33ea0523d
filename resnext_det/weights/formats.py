"""Rename the weights of other libraries to ours, which are detectron2's: tables, a row a layer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from resnext_det.files import list_first
from resnext_det.weights.rounding import choose_type, compute_exactly

Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NameTable:
    """The names of one library.

    Attributes:
        format: the library.
        rows: a pattern of its names -> ours. ``{stage}`` counts from ``first_stage`` where ours
            begins at res2, ``{block}`` from ``first_block`` where ours begins at 0.
        stem: its name of the first convolution's weight, by which the library is recognized.
        backbone: a pattern of names that are a backbone's, and so must be understood; others are
            parts of something larger.
    """

    format: str
    rows: Rows
    stem: str
    first_stage: int
    first_block: int = 0
    backbone: str = ".*"

    def rename(self, name: str) -> str | None:
        """Return our name; None for a name that is in no row."""
        for theirs, ours in self.rows:
            found = _compile_row(theirs).fullmatch(name)
            if found:
                parts = found.groupdict()
                stage = int(parts.get("stage") or 0) - self.first_stage + 2
                block = int(parts.get("block") or 0) - self.first_block
                return ours.format(stage=stage, block=block, tensor=parts.get("tensor"))
        return None


@cache
def _compile_row(row: str) -> re.Pattern[str]:
    text = re.escape(row)
    for part, pattern in (("stage", r"\d"), ("block", r"\d{1,3}"), ("tensor", r"\w+")):
        text = text.replace(rf"\{{{part}\}}", f"(?P<{part}>{pattern})")
    return re.compile(text, re.ASCII)


_BLOCK_LAYERS = ("conv1", "conv2", "conv3", "shortcut")
_LAYERS = ("stem.conv1", *(f"res{{stage}}.{{block}}.{layer}" for layer in _BLOCK_LAYERS))


def _make_rows(layers: Iterable[tuple[str, str]], heads: Iterable[str]) -> Rows:
    """Make a library's rows of its (convolution, norm) in the order of ``_LAYERS``, and heads."""
    rows = [(f"{head}.{{tensor}}", "linear.{tensor}") for head in heads]
    for (convolution, norm), ours in zip(layers, _LAYERS):
        rows.append((f"{convolution}.{{tensor}}", f"{ours}.{{tensor}}"))
        rows.append((f"{norm}.{{tensor}}", f"{ours}.norm.{{tensor}}"))
    return tuple(rows)


_CAFFE2_NORMS = {
    "weight": ("bn_s", "bn_gamma", "gn_s"),
    "bias": ("bn_b", "bn_beta", "gn_b"),
    "running_mean": ("bn_rm", "bn_running_mean"),
    "running_var": ("bn_riv", "bn_running_var"),
}


def _make_caffe2_rows() -> Iterator[tuple[str, str]]:
    branches = [f"res{{stage}}_{{block}}_branch{branch}" for branch in ("2a", "2b", "2c", "1")]
    layers = list(zip(("conv1", *branches), _LAYERS))
    for theirs, ours in [*layers, ("pred", "linear"), ("fc1000", "linear")]:
        yield f"{theirs}_w", f"{ours}.weight"
        yield f"{theirs}_b", f"{ours}.bias"
    for theirs, ours in layers:
        norm = "res_conv1" if theirs == "conv1" else theirs
        for tensor, suffixes in _CAFFE2_NORMS.items():
            for suffix in suffixes:
                yield f"{norm}_{suffix}", f"{ours}.norm.{tensor}"


_TORCHVISION_LAYERS = (
    ("conv1", "bn1"),
    ("layer{stage}.{block}.conv1", "layer{stage}.{block}.bn1"),
    ("layer{stage}.{block}.conv2", "layer{stage}.{block}.bn2"),
    ("layer{stage}.{block}.conv3", "layer{stage}.{block}.bn3"),
    ("layer{stage}.{block}.downsample.0", "layer{stage}.{block}.downsample.1"),
)
_PYCLS_LAYERS = (
    ("stem.conv", "stem.bn"),
    ("s{stage}.b{block}.f.a", "s{stage}.b{block}.f.a_bn"),
    ("s{stage}.b{block}.f.b", "s{stage}.b{block}.f.b_bn"),
    ("s{stage}.b{block}.f.c", "s{stage}.b{block}.f.c_bn"),
    ("s{stage}.b{block}.proj", "s{stage}.b{block}.bn"),
)
_OUR_LAYERS = tuple((layer, f"{layer}.norm") for layer in _LAYERS)

TORCHVISION = NameTable(
    "torchvision",
    _make_rows(_TORCHVISION_LAYERS, ("fc", "head.fc", "last_linear")),
    "conv1.weight",
    first_stage=1,
)
_TABLES = (
    # detectron2's convert-torchvision-to-d2.py writes the classifier as stem.fc.
    NameTable("detectron2", _make_rows(_OUR_LAYERS, ("linear", "stem.fc")), "stem.conv1.weight", 2),
    TORCHVISION,
    NameTable(
        "pycls",
        _make_rows(_PYCLS_LAYERS, ("head.fc",)),
        "stem.conv.weight",
        first_stage=1,
        first_block=1,
    ),
    NameTable(
        "caffe2",
        tuple(_make_caffe2_rows()),
        "conv1_w",
        first_stage=2,
        backbone=r"(?!.*_momentum)(?:conv1|res_conv1|res\d_\d+_branch).*",
    ),
)

# What stands before every name of a network that was saved as a part of something, and before
# those of its backbone.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "network.", "net.")
_MOST_WRAPPERS = 4
_PARTS = re.compile(
    r"(?:(?:module|model|network|net|backbone|bottom_up|body|trunk|encoder|encoder_q|base_encoder"
    r"|resnet|resnext)\.){0,6}"
)
# What averaging copies of weights count beside them.
_COUNTERS = ("n_averaged", "steps")
# Constants that detectors of detectron2 up to 0.3 saved; ours come from the configuration.
_CONSTANTS = re.compile(
    r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\..*"
)
# What a detector of detectron2 has, RetinaNet included, and no backbone alone.
_OF_DETECTOR = ("roi_heads.", "proposal_generator.", "backbone.fpn_")
_DEEP_STEM = re.compile(r"(?:.*\.)?(?:conv1|stem)\.0\.(?:0\.)?weight")
_PATH = re.compile(r"(.*\bres\d\.\d+)\.paths\.(\d+)\.(conv[123]\..+)")
_BIAS = re.compile(r"((?:stem|res\d\.\d+)\.(?:conv\d|shortcut))\.bias")
_EPS = 1e-5


class NativeWeights(NamedTuple):
    """Weights under our names.

    Attributes:
        format: ``detector`` (a whole detector in our names), or the ``format`` of a ``NameTable``.
        state: the weights; a detector's under its own names.
        left_out: names in the file that are no part of a backbone or classifier.
        prefix: what stood before the backbone's names.
    """

    format: str
    state: dict[str, Tensor]
    left_out: tuple[str, ...] = ()
    prefix: str = ""


def convert_to_native(state: Mapping[str, Tensor], prefix: str | None = None) -> NativeWeights:
    """Rename weights to ours, and recognize the library by the names alone.

    A convolution's bias, which none of ours has, goes into the norm behind it, and Caffe2's folded
    batch norms get the mean 0 and the variance 1 - 1e-5: both compute what the file's network
    computes.

    Args:
        state: weights by the file's names.
        prefix: of the network to take, where there are several; None: there is one.

    Raises:
        ValueError: the names are of no known format or of several networks, or one of them is
            strange to its format.
    """
    if prefix is not None:
        state = _select(state, prefix)
    state, left_out = _unwrap(state)
    if any(name.startswith(_OF_DETECTOR) for name in state) and any(
        name.endswith("stem.conv1.weight") for name in state
    ):
        kept = {name: tensor for name, tensor in state.items() if not _CONSTANTS.fullmatch(name)}
        return NativeWeights("detector", kept)
    table, found = _find_table(state)
    native: dict[str, Tensor] = {}
    for name, tensor in state.items():
        ours = _rename(table, found, name)
        if ours is None:
            left_out.append(name)
            continue
        if ours in native:
            raise ValueError(
                f"two of the weights are {ours} under our names, the second is {name!a:.80}; "
                "remove one from the file"
            )
        if not tensor.is_floating_point() and not ours.endswith("num_batches_tracked"):
            raise ValueError(
                f"{ours} is of {tensor.dtype}, where weights are floating-point numbers; give those"
            )
        native[ours] = tensor
    if table.format == "caffe2":
        _add_statistics(native, state, table)
    _fold_biases(native)
    return NativeWeights(table.format, native, tuple(left_out), found)


def _select(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the weights under a prefix, without it."""
    selected = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    if not selected:
        raise ValueError(
            f"none of the weights is under the prefix {prefix!a:.80}; leave it out, and the error "
            "names those that are there"
        )
    return selected


def _unwrap(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Remove the names of wrappers that stand before every name; also list the counters beside."""
    left_out = [name for name in _COUNTERS if name in state]
    bare = {name: tensor for name, tensor in state.items() if name not in left_out}
    for _ in range(_MOST_WRAPPERS):
        for prefix in _WRAPPERS:
            if all(name.startswith(prefix) for name in bare):
                bare = {name.removeprefix(prefix): tensor for name, tensor in bare.items()}
                break
    return bare, left_out


def _find_table(state: Mapping[str, Tensor]) -> tuple[NameTable, str]:
    found = [
        (table, name.removesuffix(table.stem))
        for name in state
        for table in _TABLES
        if name.endswith(table.stem) and _PARTS.fullmatch(name.removesuffix(table.stem))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        prefixes = " and ".join(repr(prefix) for _, prefix in found[:4])
        raise ValueError(
            f"there are several networks among the weights, under {prefixes}; save the one that "
            "you mean, alone"
        )
    names = list_first((f"{name!a:.80}"[1:-1] for name in state), 4)
    if any(map(_DEEP_STEM.fullmatch, state)):
        raise ValueError(
            f"weights named {names} have a stem of several convolutions (ResNet-C, -D and their "
            "like), where a ResNeXt has one of 7x7; give a plain ResNeXt's or ResNet's"
        )
    raise ValueError(
        f"weights named {names} are of no known format; give a ResNet or ResNeXt of torchvision, "
        "timm, mmpretrain, mmdetection, detectron2, Detectron, pycls or the paper, or a checkpoint "
        "of this project"
    )


def _rename(table: NameTable, prefix: str, name: str) -> str | None:
    """Return our name; None for what is no part of the network."""
    if not name.startswith(prefix):
        # As mmpretrain's "head.fc.weight" beside "backbone.conv1.weight".
        head = table.rename(name)
        return head if head is not None and head.startswith("linear.") else None
    bare = name.removeprefix(prefix)
    ours = table.rename(bare)
    if ours is not None or not re.fullmatch(table.backbone, bare):
        return ours
    if table.format == "detectron2":  # loading tells whether the model has a place for it
        return bare
    remedy = "remove it from the file, or rename it"
    if re.match(r"conv\d|bn\d|layer\d|stem|s\d", bare):
        remedy = (
            "the network is another one, or has parts that a ResNeXt has not; give the weights of "
            "a plain ResNeXt or ResNet"
        )
    raise ValueError(f"{bare!a:.80} is no name of {table.format}'s ResNeXt; {remedy}")


def _add_statistics(
    native: dict[str, Tensor], state: Mapping[str, Tensor], table: NameTable
) -> None:
    """Give Caffe2's batch norms of scale and bias alone the mean 0 and the variance 1 - eps, which
    change nothing. (Under detectron2's variance of 1, scales are smaller by a factor of 1 - 5e-6.)
    """
    for name in state:
        ours = table.rename(name) if re.search("_bn_(?:s|gamma)$", name) else None
        norm = ours and ours.removesuffix("weight")
        if norm and not {f"{norm}running_mean", f"{norm}running_var"} & native.keys():
            scale = native[f"{norm}weight"]
            dtype = choose_type(scale)  # 1 - eps is 1 in 16 bits
            native[f"{norm}running_mean"] = torch.zeros(scale.shape, dtype=dtype)
            native[f"{norm}running_var"] = torch.full(scale.shape, 1 - _EPS, dtype=dtype)


def _fold_biases(native: dict[str, Tensor]) -> None:
    """Move every convolution's bias into the norm behind it."""
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
                f"{name} is {tuple(added.shape)}, and the norm behind it {tuple(mean.shape)}; the "
                "file is damaged"
            )
        if mean.any():
            native[f"{norm}running_mean"] = compute_exactly(torch.sub, mean, added)
        elif added.any():
            native[f"{norm}bias"] = compute_exactly(_add_bias, bias, added, weight, variance)


def _add_bias(bias: Tensor, added: Tensor, weight: Tensor, variance: Tensor) -> Tensor:
    return bias + added * weight * (variance + _EPS).rsqrt()


def join_paths(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the paths of every block in form A or B, see ``forms.convert``; form C stays as it is.

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
    # Form A has its last norm after the sum of the paths: "res2.0.norm.weight".
    norms = {f"{block}.norm" for block, part in paths if part == "conv3.weight"}
    return {
        name.replace(".norm.", ".conv3.norm.") if name.rpartition(".")[0] in norms else name: tensor
        for name, tensor in joined.items()
    }


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
