"""Rename the weights of other libraries to ours, which are detectron2's."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from resnext_det.architecture import Architecture
from resnext_det.files import list_first
from resnext_det.weights.name_tables import RETINANET_BODY, TORCHVISION_RETINANET
from resnext_det.weights.other_networks import find_cause, find_cause_of_names
from resnext_det.weights.prefixes import (
    Network,
    drop_copies,
    find_networks,
    list_copies,
    select_networks,
    strip_wrappers,
)
from resnext_det.weights.rounding import choose_type, compute_exactly
from resnext_det.weights.structure import find_architecture

# Constants that detectors of detectron2 up to 0.3 saved; ours come from the configuration.
_CONSTANTS = re.compile(
    r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\..*"
)
_PATH = re.compile(r"(.*\bres\d\.\d+)\.paths\.(\d+)\.(conv[123]\..+)")
_BIAS = re.compile(r"((?:stem|res\d\.\d+)\.(?:conv\d|shortcut))\.bias")
_LINEAR = ("linear.weight", "linear.bias")
_EPS = 1e-5
_MOST_NAMED = 6


class NativeWeights(NamedTuple):
    """Weights under our names.

    Attributes:
        format: ``detector`` (a whole detector in our names), or the ``format`` of a ``NameTable``.
        state: the weights; a detector's under its own names.
        left_out: names in the file that are no part of a backbone or classifier.
        prefix: what stood before the backbone's or detector's names, without names of wrappers
            such as ``module.``.
        passed_over: the prefixes of copies of the network that a training keeps.
        library: whose names a detector had, where they were not detectron2's.
    """

    format: str
    state: dict[str, Tensor]
    left_out: tuple[str, ...] = ()
    prefix: str = ""
    passed_over: tuple[str, ...] = ()
    library: str = ""


def convert_to_native(state: Mapping[str, Tensor], prefix: str | None = None) -> NativeWeights:
    """Rename weights to ours. The network is found by its structure, under any prefix.

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
    names = dict(zip(strip_wrappers(list(state)), state))
    state = join_paths({name: state[theirs] for name, theirs in names.items()})
    networks = find_networks(state)
    network = _choose_network(state, networks, prefix)
    passed_over = list_copies(networks) if prefix is None else ()
    if network.detector is not None:
        found = _take_detector(state, names, network.detector)
        return found._replace(passed_over=passed_over)
    retinanet = _take_retinanet(state, names, network)
    if retinanet is not None:
        return retinanet._replace(passed_over=passed_over)
    native, left_out, strange = _rename(network, state)
    if strange:
        raise ValueError(
            f"{strange[0]!a:.80} is no name of {network.table.format}'s ResNeXt: "
            f"{find_cause(native, strange)}"
        )
    for name, tensor in native.items():
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked"):
            raise ValueError(
                f"{name} is of {tensor.dtype}, where weights are floating-point numbers; give those"
            )
    if network.table.format == "caffe2":
        _add_statistics(native, state, network)
    _fold_biases(native)
    folded = next((name for name in native if _BIAS.fullmatch(name)), None)
    if folded and f"{folded.removesuffix('bias')}norm.weight" not in native:
        raise ValueError(
            f"{folded} stands in place of a norm: the norms are folded into the convolutions "
            "(fused, as for inference); give the weights from before that"
        )
    left_out = [names.get(name, name) for name in left_out]
    return NativeWeights(network.table.format, native, tuple(left_out), network.prefix, passed_over)


def _choose_network(
    state: Mapping[str, Tensor], networks: Sequence[Network], prefix: str | None
) -> Network:
    """Find the one network that is meant.

    Raises:
        ValueError: there is none, or there are several.
    """
    if not networks:
        raise ValueError(find_cause_of_names(state))
    named = drop_copies(networks) if prefix is None else select_networks(networks, prefix)
    if not named:
        raise ValueError(
            f"there is no network under the prefix {prefix!a:.80}; there are "
            f"{_describe_networks(state, networks)}"
        )
    # A detector may have two backbones, and a network may have its layers in nn.Sequential too.
    in_one = named[0].detector is not None and len({each.detector for each in named}) == 1
    if len(named) == 1 or in_one or _are_one(state, named):
        return named[0]
    usable = [
        each for each in named[:_MOST_NAMED] if not isinstance(_find(each, state), ValueError)
    ]
    if not usable and len(named) <= _MOST_NAMED:
        cause = _find(named[0], state)
        raise ValueError(
            f"there are several networks among the weights: {_describe_networks(state, named)}, "
            f"and none is usable. The first: {cause}"
        )
    chosen = shlex.quote((usable or named)[0].prefix[:80])
    raise ValueError(
        f"there are several networks among the weights: {_describe_networks(state, named)}; choose "
        f"one: --prefix {chosen}, or read_weights(path, prefix=...)"
    )


def _describe_networks(state: Mapping[str, Tensor], networks: Sequence[Network]) -> str:
    """Name networks, with the architecture of each."""
    described = []
    for network in networks[:_MOST_NAMED]:
        found = _find(network, state)
        what = "no ResNeXt" if isinstance(found, ValueError) else str(found)
        prefix = network.prefix if network.detector is None else network.detector
        kind = what if network.detector is None else f"a detector of {what}"
        described.append(f"{prefix!a:.80} ({kind})")
    return list_first(described, _MOST_NAMED, of=len(networks))


def _find(network: Network, state: Mapping[str, Tensor]) -> Architecture | ValueError:
    """Find the architecture of a network in a file, or why it is of none that is supported."""
    native, _, strange = _rename(network, state)
    try:
        if strange:
            raise ValueError(find_cause(native, strange))
        return find_architecture(native)
    except ValueError as error:
        return error


def _are_one(state: Mapping[str, Tensor], networks: Sequence[Network]) -> bool:
    """Tell whether others are the first network's layers in nn.Sequential, under more names."""
    if len(networks) > _MOST_NAMED or not all(each.places for each in networks[1:]):
        return False
    first, *others = (_rename(each, state)[0] for each in networks)
    names = [name for name in first if name not in _LINEAR]
    return all(
        name in other and _is_same(first[name], other[name]) for other in others for name in names
    )


def _is_same(one: Tensor, other: Tensor) -> bool:
    return (
        one.shape == other.shape
        and one.dtype == other.dtype
        and not one.is_meta
        and torch.equal(one, other)
    )


def _rename(
    network: Network, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Rename a network's weights.

    Returns:
        The weights under our names; the names of what is no part of the network; and the names of
        what stands inside of it and is strange to a ResNeXt, without the prefix.

    Raises:
        ValueError: two weights have one name.
    """
    native: dict[str, Tensor] = {}
    left_out: list[str] = []
    strange: list[str] = []
    heads: dict[str, list[str]] = defaultdict(list)
    for name, tensor in state.items():
        ours = network.rename(name)
        if ours in _LINEAR:
            heads[ours].append(name)
        elif ours is None or ours.startswith("linear."):
            if not network.has_inside(name):
                left_out.append(name)
            elif network.table.format == "detectron2":
                native[name.removeprefix(network.prefix)] = tensor
            else:
                strange.append(name.removeprefix(network.prefix))
        elif ours in native:
            raise ValueError(
                f"two of the weights are {ours} under our names, the second is {name!a:.80}; "
                "remove one from the file"
            )
        else:
            native[ours] = tensor
    stem = native.get("stem.conv1.weight")
    if stem is not None and stem.shape[2:] == (3, 3):  # where these are more of it, and no heads
        more = tuple(f"{network.prefix}{part}." for part in ("conv2", "bn2", "conv3", "bn3"))
        strange += [n.removeprefix(network.prefix) for n in left_out if n.startswith(more)]
    # One linear layer is the classifier; of several none is known to be it.
    weights = heads["linear.weight"]
    if len(weights) == 1 and state[weights[0]].dim() == 2 and len(heads["linear.bias"]) <= 1:
        native |= {ours: state[name] for ours, found in heads.items() for name in found}
    else:
        left_out += [name for found in heads.values() for name in found]
    return native, left_out, strange


def _take_detector(
    state: Mapping[str, Tensor], names: Mapping[str, str], prefix: str
) -> NativeWeights:
    """Take a detector of detectron2, under its own names."""
    kept: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, tensor in state.items():
        bare = name.removeprefix(prefix)
        if not name.startswith(prefix):
            left_out.append(names.get(name, name))
        elif not _CONSTANTS.fullmatch(bare):
            kept[bare] = tensor
    return NativeWeights("detector", kept, tuple(left_out), prefix)


def _take_retinanet(
    state: Mapping[str, Tensor], names: Mapping[str, str], network: Network
) -> NativeWeights | None:
    """Take torchvision's RetinaNet around a network; None where another detector is, or none.

    Of others, such as FCOS and heads with norms, some weights have no place here.
    """
    prefix = network.prefix.removesuffix(RETINANET_BODY)
    if prefix == network.prefix or f"{prefix}head.regression_head.bbox_reg.weight" not in state:
        return None
    kept: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, tensor in state.items():
        if not name.startswith(prefix):
            left_out.append(names.get(name, name))
            continue
        ours = TORCHVISION_RETINANET.rename(name.removeprefix(prefix))
        if ours is None or ours in kept:
            return None
        kept[ours] = tensor
    library = TORCHVISION_RETINANET.format
    return NativeWeights("detector", kept, tuple(left_out), prefix, library=library)


def _add_statistics(
    native: dict[str, Tensor], state: Mapping[str, Tensor], network: Network
) -> None:
    """Give Caffe2's batch norms of scale and bias alone the mean 0 and the variance 1 - eps, which
    change nothing. (Under detectron2's variance of 1, scales are smaller by a factor of 1 - 5e-6.)
    """
    for name in state:
        ours = network.rename(name) if re.search("_bn_(?:s|gamma)$", name) else None
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
