"""Deformable convolutions (arXiv 1703.06211, 1811.11168), over torchvision's operator.

It takes torchvision, so a network imports it where it has such convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from resnext_det.architecture import Deformable
from resnext_det.layers import ConvNorm

_POINTS = 9  # of a 3x3 kernel


class DeformableConvNorm(ConvNorm):
    """Convolve 3x3 at points that move with the image, normalize and activate.

    Keys, norm and numbers are those of ``ConvNorm``, which it equals where all offsets are 0 and
    nothing is modulated. It is computed in float32 or float64, also under autocast.

    Args:
        deformable: whether the points are weighted, and how many groups of channels have their own.
        in_channels, out_channels, options: ``ConvNorm``'s.
    """

    def __init__(
        self, deformable: Deformable, in_channels: int, out_channels: int, **options: object
    ) -> None:
        super().__init__(in_channels, out_channels, 3, **options)  # type: ignore[arg-type]
        self.offset_channels = 2 * _POINTS * deformable.groups

    def forward(self, x: Tensor, sampling: Tensor) -> Tensor:  # type: ignore[override]
        """Convolve ``x`` of shape (N, in_channels, H, W).

        Args:
            sampling: (N, channels, H/stride, W/stride), as ``make_sampling`` gives it: for each
                group and point y and x in pixels, then, if modulated, each point's weight before
                the sigmoid.
        """
        weight, bias = self.weight, self.bias
        if self.has_frozen_norm:
            weight, bias = self._fold_norm()
        # The operator knows no bfloat16 on a CPU, and casts to float32 by itself on a GPU.
        dtype = torch.promote_types(x.dtype, torch.float32)
        sampling = sampling.to(dtype)
        offset, mask = sampling[:, : self.offset_channels], sampling[:, self.offset_channels :]
        out = deform_conv2d(
            x.to(dtype),
            offset,
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            mask=mask.sigmoid() if mask.shape[1] > 0 else None,
        ).to(x.dtype)
        if not x.is_contiguous():
            out = out.contiguous(memory_format=torch.channels_last)
        if self.norm is not None and not self.has_frozen_norm:
            out = self.norm(out)
        return out if self.activation is None else self.activation(out)


def make_sampling(
    deformable: Deformable, channels: int, *, stride: int, dilation: int
) -> nn.Conv2d:
    """Make the 3x3 convolution that says where a ``DeformableConvNorm`` of ``channels`` samples.

    Its weight and bias are 0, so at first no point moves (and each weighs a half, if modulated).
    """
    out_channels = (3 if deformable.modulated else 2) * _POINTS * deformable.groups
    convolution = nn.Conv2d(channels, out_channels, 3, stride, dilation, dilation)
    # Drawn first and then 0, as in detectron2: the random numbers of all other layers are then its.
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution
