"""Compute the last convolutions of a pyramid, and the proposal head, faster than a runtime does.

Half of the multiplications of an FPN detector's dense part are in 3x3 convolutions of 256 channels,
on which runtimes are at the processor's peak; fewer multiplications are what is left. So a backend
computes the backbone up to the merged maps, and what follows is the same for every backend.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from resnext_det.runtimes.folded import fold_norms
from resnext_det.runtimes.parts import DenseNetwork, Part, list_outputs
from resnext_det.runtimes.winograd import PointwiseConv2d, WinogradConv2d, suits_winograd

_OUTPUT = "fpn_output"  # with the number of its level, in both engines


class MergedMaps(nn.Module):
    """Compute a pyramid's maps before its last convolutions, as (N, H, W, C)."""

    def __init__(self, backbone: nn.Module, count: int) -> None:
        super().__init__()
        self.backbone, self.count = backbone, count

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = list(self.backbone(images).values())[: self.count]
        return tuple(x.permute(0, 2, 3, 1) for x in maps)


class PyramidTail(nn.Module):
    """Compute the outputs of a ``DenseNetwork`` from what ``MergedMaps`` gives.

    Args:
        outputs: the pyramid's last convolutions, finest first.
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

    Returns:
        None where there is no pyramid, or its convolutions would not be faster by Winograd's
        algorithm: on a GPU, with few channels, with norms, with other maps than an FPN's.
    """
    network = part.network
    if not isinstance(network, DenseNetwork) or part.example.device.type != "cpu":
        return None
    children = dict(network.backbone.named_children())
    levels = sorted(int(name[len(_OUTPUT) :]) for name in children if _is_output(name))
    names = network.every
    own = [f"p{level}" for level in levels]
    more = names[len(own) :]
    top = children.get("top_block")
    subsamples = top is None or type(top).__name__ == "LastLevelMaxPool"
    if not own or list(names[: len(own)]) != own or (more and not subsamples):
        return None
    folded = cast(DenseNetwork, fold_norms(network))
    backbone, outputs = folded.backbone, []
    for level in levels:
        layer = backbone.get_submodule(f"{_OUTPUT}{level}")
        if not suits_winograd(layer):
            return None
        outputs.append(WinogradConv2d(cast(nn.Conv2d, layer)))
        backbone.add_module(f"{_OUTPUT}{level}", nn.Identity())
    if hasattr(backbone, "output_convs"):  # detectron2's list of them
        backbone.output_convs = [nn.Identity() for _ in levels]  # type: ignore[assignment]
    head = folded.head
    if head is not None:
        _exchange_convolutions(head)
    front = replace(part, network=MergedMaps(backbone, len(levels)).eval())
    return front, PyramidTail(outputs, names, head, folded.names).eval()


def _is_output(name: str) -> bool:
    return re.fullmatch(rf"{_OUTPUT}\d+", name) is not None


def _exchange_convolutions(network: nn.Module) -> None:
    """Exchange, in place, the convolutions that are faster as matrix products."""
    for name, layer in network.named_children():
        if suits_winograd(layer):
            network.add_module(name, WinogradConv2d(cast(nn.Conv2d, layer)))
        elif type(layer) is nn.Conv2d and layer.kernel_size == layer.stride == (1, 1):
            network.add_module(name, PointwiseConv2d(layer))
        else:
            _exchange_convolutions(layer)
