"""Compute the last convolutions of a pyramid, and the proposal head, faster than a runtime does.

Half of the multiplications of an FPN detector's dense part are in 3x3 convolutions of 256 channels,
and a third of a C4 detector's in one of 1024. Runtimes compute them at the processor's peak; fewer
multiplications are what is left. So a backend computes the backbone up to the merged maps, and what
follows is the same for every backend.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from resnext_det.runtimes.folded import fold_norms
from resnext_det.runtimes.parts import DenseNetwork, Part, list_outputs
from resnext_det.runtimes.winograd import Channels, WinogradConv2d, is_pointwise, suits_winograd

_OUTPUT = "fpn_output"  # with the number of its level, in both engines
_PREDICTORS = ("objectness_logits", "anchor_deltas")  # of the head of proposals, in both engines


class MergedMaps(nn.Module):
    """Compute a backbone's first ``count`` maps, a pyramid's without its last convolutions.

    They are (N, H, W, C).
    """

    def __init__(self, backbone: nn.Module, count: int) -> None:
        super().__init__()
        self.backbone, self.count = backbone, count

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = list(self.backbone(images).values())[: self.count]
        return tuple(x.permute(0, 2, 3, 1) for x in maps)


class PyramidTail(nn.Module):
    """Compute the outputs of a ``DenseNetwork`` from what ``MergedMaps`` gives.

    Args:
        outputs: the pyramid's last convolutions, finest first; identities without a pyramid.
        names: of all maps; those without a convolution are the one before, subsampled by 2.
        head: of the proposals, if there is one, and the names of its maps.
    """

    def __init__(
        self,
        outputs: Sequence[nn.Module],
        names: Sequence[str],
        head: nn.Module | None,
        of: Sequence[str],
    ) -> None:
        super().__init__()
        self.outputs, self.head = nn.ModuleList(outputs), head
        self.names, self.of = tuple(names), tuple(of)

    def forward(self, merged: Sequence[Tensor]) -> tuple[Tensor, ...]:
        found = [output(x.permute(0, 3, 1, 2)) for output, x in zip(self.outputs, merged)]
        while len(found) < len(self.names):
            found.append(F.max_pool2d(found[-1], kernel_size=1, stride=2))
        maps = dict(zip(self.names, found))
        if self.head is None:
            return list_outputs(maps, ())
        return list_outputs(maps, self.head([maps[name] for name in self.of]))


def split_pyramid(part: Part) -> tuple[Part, PyramidTail] | None:
    """Split the dense part of a detector into a part for a backend and what follows it.

    What follows are the last convolutions of a pyramid, and the head of the proposals; without a
    pyramid, the head alone.

    Returns:
        None where no convolution would be faster by Winograd's algorithm: on a GPU, with few
        channels, with norms, with other maps than an FPN's and no head.
    """
    network = part.network
    if not isinstance(network, DenseNetwork) or part.example.device.type != "cpu":
        return None
    levels = _find_levels(network)
    if not levels and (
        network.head is None or not any(map(suits_winograd, network.head.modules()))
    ):
        return None
    folded = cast(DenseNetwork, fold_norms(network))
    backbone, head = folded.backbone, folded.head
    outputs: list[nn.Module] = [nn.Identity() for _ in network.every if not levels]
    for name in levels:
        outputs.append(WinogradConv2d(cast(nn.Conv2d, backbone.get_submodule(name))))
        backbone.add_module(name, nn.Identity())
    if levels and not _subsamples(network):  # p6 and p7 of RetinaNet, which come from res5
        outputs += [nn.Identity() for _ in network.every[len(levels) :]]
    if levels and hasattr(backbone, "output_convs"):  # detectron2's list of them
        backbone.output_convs = [nn.Identity() for _ in levels]  # type: ignore[assignment]
    if head is not None:
        _exchange_convolutions(head)
    front = replace(part, network=MergedMaps(backbone, len(outputs)).eval())
    return front, PyramidTail(outputs, network.every, head, folded.names).eval()


def _find_levels(network: DenseNetwork) -> list[str]:
    """Find the names of a pyramid's last convolutions, finest first.

    Returns:
        none where one does not suit, or there are maps that are no level of these.
    """
    children = dict(network.backbone.named_children())
    levels = sorted(int(name[len(_OUTPUT) :]) for name in children if _is_output(name))
    own, more = [f"p{level}" for level in levels], network.every[len(levels) :]
    top = children.get("top_block")
    apart = getattr(top, "in_feature", "").startswith("res")
    if list(network.every[: len(own)]) != own or (more and not apart and not _subsamples(network)):
        return []
    names = [f"{_OUTPUT}{level}" for level in levels]
    return names if all(suits_winograd(children[name]) for name in names) else []


def _subsamples(network: DenseNetwork) -> bool:
    """Tell whether the maps above a pyramid's are the one before, subsampled by 2."""
    top = dict(network.backbone.named_children()).get("top_block")
    return top is None or type(top).__name__ == "LastLevelMaxPool"


def _is_output(name: str) -> bool:
    return re.fullmatch(rf"{_OUTPUT}\d+", name) is not None


def _exchange_convolutions(head: nn.Module) -> None:
    """Exchange, in place, the convolutions of a head of proposals that are faster as products."""
    layers: dict[str, Any] = dict(head.named_children())
    predictors = {name: layers[name] for name in _PREDICTORS if name in layers}
    if suits_winograd(layers.get("conv")) and all(map(is_pointwise, predictors.values())):
        head.add_module("conv", WinogradConv2d(layers["conv"], list(predictors.values())))
        start = 0
        for name, one in predictors.items():
            head.add_module(name, Channels(start, start + one.out_channels))
            start += one.out_channels
        return
    for name, layer in layers.items():
        if suits_winograd(layer):
            head.add_module(name, WinogradConv2d(layer))
        else:
            _exchange_convolutions(layer)
