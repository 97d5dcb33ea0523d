"""The mask head of Mask R-CNN (arXiv 1703.06870): its layers, its loss, the masks of regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnext_det.instances import Instances
from resnext_det.layers import ConvNorm


class MaskHead(nn.Sequential):
    """Map features of regions (P, C, H, W) to mask logits (P, K, 2H, 2W).

    It is detectron2's MaskRCNNConvUpsampleHead, with its names: the 3x3 convolutions ``mask_fcn1``
    ..., ``deconv``, which doubles the sides, each with ReLU, and ``predictor``.

    Args:
        in_channels: C.
        conv_dim: channels of the layers before the last.
        num_conv: how many 3x3 convolutions; none in detectron2's C4 detectors.
        num_classes: K; 1 for one mask a region, whatever its class.
        norm: of the 3x3 convolutions, a name in ``resnext_det.layers.NORMS``.
    """

    def __init__(
        self, *, in_channels: int, conv_dim: int, num_conv: int, num_classes: int, norm: str = ""
    ) -> None:
        super().__init__()
        channels = in_channels
        for index in range(1, num_conv + 1):
            convolution = ConvNorm(
                channels, conv_dim, kernel_size=3, padding=1, norm=norm, activation=nn.ReLU()
            )
            self.add_module(f"mask_fcn{index}", convolution)
            channels = conv_dim
        self.add_module("deconv", nn.ConvTranspose2d(channels, conv_dim, kernel_size=2, stride=2))
        self.add_module("deconv_relu", nn.ReLU())
        predictor = ConvNorm(conv_dim, num_classes, kernel_size=1)
        self.add_module("predictor", predictor)
        # After all are made, as in detectron2, so that one seed gives the same weights there.
        for layer in self:
            if layer is not predictor and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.normal_(predictor.weight, std=0.001)
        nn.init.zeros_(predictor.bias)  # type: ignore[arg-type]


def compute_mask_loss(logits: Tensor, classes: Tensor, truth: Tensor) -> Tensor:
    """Compute the mean over all pixels of the binary cross-entropy.

    Args:
        logits: (P, K, S, S) or, of any class, (P, 1, S, S).
        classes: (P,); the logits of the other classes have no loss.
        truth: bool (P, S, S), see ``cut_masks``.

    Returns:
        0 where there is no region; it is in the graph of ``logits`` all the same.
    """
    if not len(classes):
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(_choose(logits, classes), truth.to(torch.float32))


def compute_mask_probabilities(logits: Tensor, classes: Tensor) -> Tensor:
    """Compute the probability of each pixel of the masks of ``classes`` (P,): (P, 1, S, S)."""
    return _choose(logits, classes)[:, None].sigmoid()


def _choose(logits: Tensor, classes: Tensor) -> Tensor:
    """Choose the logits of a class (P, S, S) for each region."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[torch.arange(logits.shape[0], device=logits.device), classes]


@torch.no_grad()
def cut_masks(targets: Sequence[Instances], regions: Tensor, matches: Tensor, side: int) -> Tensor:
    """Cut the masks of objects to regions, and scale them to ``side`` x ``side`` pixels.

    Args:
        targets: per image ``gt_masks``, where it has objects.
        regions: (P, 5): the index of the image, in ascending order, and the box in pixels.
        matches: (P,): which object of its image.

    Returns:
        bool (P, side, side).
    """
    cut = [regions.new_zeros(0, side, side, dtype=torch.bool)]
    for index, target in enumerate(targets):
        inside = (regions[:, 0] == index).nonzero().flatten()
        if len(inside):
            masks = target.gt_masks[matches[inside]]
            cut.append(masks.crop_and_resize(regions[inside, 1:], side).to(regions.device))
    return torch.cat(cut)
