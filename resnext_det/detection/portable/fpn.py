"""The feature pyramid network (FPN, section 3), with detectron2's names and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from resnext_det.layers import ConvNorm
from resnext_det.resnext import ResNeXt


class FPN(nn.Module):
    """Merge the stages of a backbone, coarse to fine, into maps of one width.

    p_i = conv3x3(l_i), l_i = conv1x1(res_i) + upsampled l_(i+1); p6 is p5 subsampled by 2.

    Args:
        bottom_up: the backbone; gives every map in ``in_features``.
        in_features: neighboring stages, finest first, such as ("res2", "res3", "res4", "res5").
        out_channels: of every level.
        norm: of every convolution; "" means none, and a bias.
        fuse_type: ``sum`` of the lateral and the upsampled map, or their ``avg``.
    """

    def __init__(
        self,
        bottom_up: ResNeXt,
        *,
        in_features: Sequence[str],
        out_channels: int = 256,
        norm: str = "",
        fuse_type: str = "sum",
    ) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        self.fuse_type = fuse_type
        self.levels = [int(math.log2(bottom_up.out_strides[name])) for name in in_features]
        for name, level in zip(in_features, self.levels):
            lateral = ConvNorm(bottom_up.out_channels[name], out_channels, kernel_size=1, norm=norm)
            output = ConvNorm(out_channels, out_channels, kernel_size=3, padding=1, norm=norm)
            for convolution in (lateral, output):
                nn.init.kaiming_uniform_(convolution.weight, a=1)
                if convolution.bias is not None:
                    nn.init.zeros_(convolution.bias)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.bottom_up = bottom_up
        self.out_strides = {f"p{level}": 2**level for level in (*self.levels, self.levels[-1] + 1)}
        self.out_channels = dict.fromkeys(self.out_strides, out_channels)
        self.size_divisibility = 2 ** self.levels[-1]

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
        pyramid[f"p{last + 1}"] = F.max_pool2d(pyramid[f"p{last}"], kernel_size=1, stride=2)
        return pyramid
