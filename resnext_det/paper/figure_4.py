"""Figure 4 of the paper: a block of two layers, to which more paths bring nothing new."""

from __future__ import annotations

import copy
from collections import OrderedDict
from functools import reduce
from typing import cast

import torch
from tabulate import tabulate
from torch import Tensor, nn

from resnext_det.forms import join_convolutions
from resnext_det.layers import ConvNorm, make_norm
from resnext_det.resnext import initialize


class TwoLayerBlock(nn.Module):
    """Compute relu(x + norm(sum of path(x))), each path two 3x3 convolutions (figure 4, left).

    A norm and a ReLU follow the first convolution of a path. Only paths of three layers or more
    become a convolution in groups: this block equals ``merge()``, one dense and wider path.

    Args:
        channels: of input and output.
        cardinality: number of paths.
        width: channels between the two convolutions of a path.
        norm: a name that ``make_norm`` knows.

    Raises:
        ValueError: the norm is unknown or does not fit the channels.
    """

    def __init__(self, channels: int, *, cardinality: int, width: int, norm: str = "BN") -> None:
        super().__init__()
        self.channels, self.cardinality, self.width = channels, cardinality, width
        self.paths = nn.ModuleList()
        for _ in range(cardinality):
            conv1 = ConvNorm(
                channels, width, 3, padding=1, bias=False, norm=norm, activation=torch.relu_
            )
            conv2 = ConvNorm(width, channels, 3, padding=1, bias=False)
            initialize(conv1)
            initialize(conv2)
            self.paths.append(nn.Sequential(OrderedDict(conv1=conv1, conv2=conv2)))
        self.norm = make_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        out = reduce(torch.add, (path(x) for path in self.paths))  # (N, channels, H, W)
        return torch.relu_(x + (out if self.norm is None else self.norm(out)))

    def merge(self) -> TwoLayerBlock:
        """Build the equal block of one wide path (figure 4, right), with copies of the numbers."""
        with torch.device("meta"):  # the sizes alone: the layers are replaced
            merged = TwoLayerBlock(
                self.channels, cardinality=1, width=self.cardinality * self.width, norm=""
            )
        paths = [[cast(ConvNorm, layer) for layer in cast(nn.Sequential, p)] for p in self.paths]
        conv1, conv2 = (join_convolutions([path[dim] for path in paths], dim=dim) for dim in (0, 1))
        conv1.activation = torch.relu_
        merged.paths[0] = nn.Sequential(OrderedDict(conv1=conv1, conv2=conv2))
        merged.norm = copy.deepcopy(self.norm)
        merged.training = self.training
        return merged


def format_figure_4() -> str:
    """Format both blocks of figure 4: the layers of a path, the number of paths, the parameters."""
    block = TwoLayerBlock(64, cardinality=32, width=4)
    columns = [_describe(block), _describe(block.merge())]
    rows = zip(("a path", "paths", "# params."), *columns)
    table = tabulate(
        rows, ["", "in paths", "merged, equal"], tablefmt="grid", disable_numparse=True
    )
    return f"{table}\nNo convolution is in groups: with two layers, cardinality is width."


def _describe(block: TwoLayerBlock) -> list[str]:
    layers = [cast(ConvNorm, layer) for layer in cast(nn.Sequential, block.paths[0])]
    parameters = sum(parameter.numel() for parameter in block.parameters())
    lines = (f"{layer.in_channels}, 3x3, {layer.out_channels}" for layer in layers)
    return ["\n".join(lines), str(block.cardinality), f"{parameters:,}"]
