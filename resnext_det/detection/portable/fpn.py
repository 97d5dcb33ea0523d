"""The feature pyramid network (FPN, section 3), with detectron2's names and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from resnext_det.layers import ConvNorm
from resnext_det.resnext import ResNeXt


class LastLevelP6P7(nn.Module):
    """Compute p6 and p7 by 3x3 convolutions of stride 2, p7 of the rectified p6 (RetinaNet).

    Args:
        in_channels: of the map that p6 is computed from.
        out_channels: of p6 and p7.
        in_feature: the name of that map: ``res5``, the last stage, or ``p5``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, in_feature: str = "res5") -> None:
        super().__init__()
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, kernel_size=3, stride=2, padding=1)
        for convolution in (self.p6, self.p7):
            _initialize(convolution)

    def forward(self, coarsest: Tensor) -> list[Tensor]:
        """Map (N, in_channels, H, W) to p6, of half its height and width, and p7, of a quarter."""
        p6 = self.p6(coarsest)
        return [p6, self.p7(F.relu(p6))]


class FPN(nn.Module):
    """Merge the stages of a backbone, coarse to fine, into maps of one width.

    p_i = conv3x3(l_i), l_i = conv1x1(res_i) + upsampled l_(i+1).

    Args:
        bottom_up: the backbone; gives every map in ``in_features``.
        in_features: neighboring stages, finest first, such as ("res2", "res3", "res4", "res5").
        out_channels: of every level.
        norm: of every convolution; "" means none, and a bias.
        fuse_type: ``sum`` of the lateral and the upsampled map, or their ``avg``.
        top_block: computes p6 and p7; without it there is p6 alone, which is p5 subsampled by 2.
    """

    def __init__(
        self,
        bottom_up: ResNeXt,
        *,
        in_features: Sequence[str],
        out_channels: int = 256,
        norm: str = "",
        fuse_type: str = "sum",
        top_block: LastLevelP6P7 | None = None,
    ) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        self.fuse_type = fuse_type
        self.levels = [int(math.log2(bottom_up.out_strides[name])) for name in in_features]
        for name, level in zip(in_features, self.levels):
            lateral = ConvNorm(bottom_up.out_channels[name], out_channels, kernel_size=1, norm=norm)
            output = ConvNorm(out_channels, out_channels, kernel_size=3, padding=1, norm=norm)
            for convolution in (lateral, output):
                _initialize(convolution)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.top_block = top_block
        self.bottom_up = bottom_up
        last = self.levels[-1]
        above = (last + 1,) if top_block is None else (last + 1, last + 2)
        self.out_strides = {f"p{level}": 2**level for level in (*self.levels, *above)}
        self.out_channels = dict.fromkeys(self.out_strides, out_channels)
        self.size_divisibility = 2**last

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (N, C, H, W) to {"p2": (N, out_channels, H / 4, W / 4), ...}, finest first.

        H and W have to be multiples of ``size_divisibility``.
        """
        stages = self.bottom_up(images)
        pyramid: dict[str, Tensor] = {}
        merged: Tensor | None = None
        for name, level in reversed(list(zip(self.in_features, self.levels))):
            lateral = self.get_submodule(f"fpn_lateral{level}")(stages[name])
            if merged is None:
                merged = lateral
            else:
                merged = lateral + F.interpolate(merged, scale_factor=2.0, mode="nearest")
                if self.fuse_type == "avg":
                    merged = merged / 2
            pyramid[f"p{level}"] = self.get_submodule(f"fpn_output{level}")(merged)
        pyramid = dict(reversed(pyramid.items()))
        last = self.levels[-1]
        if self.top_block is None:
            pyramid[f"p{last + 1}"] = F.max_pool2d(pyramid[f"p{last}"], kernel_size=1, stride=2)
            return pyramid
        above = self.top_block({**stages, **pyramid}[self.top_block.in_feature])
        pyramid |= {f"p{last + number}": level for number, level in enumerate(above, start=1)}
        return pyramid


def _initialize(convolution: nn.Conv2d) -> None:
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
