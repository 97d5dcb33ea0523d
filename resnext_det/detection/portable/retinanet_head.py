"""The head of RetinaNet: two towers of convolutions that serve every level of a pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resnext_det.layers import SynchronizedBatchNorm2d, make_norm


class LevelNorms(nn.ModuleList):
    """Normalize every level of a pyramid by statistics of its own, as CycleBatchNormList.

    Weight and bias are those of all levels. Each call is the next level's, the first again after
    the last, so a forward pass has to call it once for every level.

    Args:
        kind: ``nn.BatchNorm2d`` or a class derived from it.
        channels: of the maps.
        levels: how many there are.
    """

    def __init__(self, kind: type[nn.BatchNorm2d], channels: int, levels: int) -> None:
        super().__init__(kind(channels, affine=False) for _ in range(levels))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self._level = 0

    def forward(self, x: Tensor) -> Tensor:
        normalized = self[self._level](x)
        self._level = (self._level + 1) % len(self)
        return normalized * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)


class RetinaNetHead(nn.Module):
    """Predict K class logits and 4 deltas for every anchor, by two towers of 3x3 convolutions.

    The towers serve every level of the pyramid, and share nothing with each other.

    Args:
        in_channels: of the maps, and of the towers.
        num_convs: of each tower, with ReLU, before the convolution that predicts.
        anchors_per_cell: A.
        num_classes: K.
        prior_prob: the score that every class begins with at every anchor.
        norm: of the towers: "" for none, "GN", or "BN" and "SyncBN", with statistics of each level.
        levels: how many maps there are.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_convs: int,
        anchors_per_cell: int,
        num_classes: int,
        prior_prob: float = 0.01,
        norm: str = "",
        levels: int = 5,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.cls_subnet, self.bbox_subnet = nn.Sequential(), nn.Sequential()
        for _ in range(num_convs):
            for tower in (self.cls_subnet, self.bbox_subnet):
                tower.append(_make_convolution(in_channels, in_channels))
                if norm:
                    tower.append(_make_tower_norm(norm, in_channels, levels))
                tower.append(nn.ReLU())
        self.cls_score = _make_convolution(in_channels, anchors_per_cell * num_classes)
        self.bbox_pred = _make_convolution(in_channels, anchors_per_cell * 4)
        # After all are made, as in detectron2, so that one seed gives the same weights there.
        for part in (self.cls_subnet, self.bbox_subnet, self.cls_score, self.bbox_pred):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    assert layer.bias is not None
                    nn.init.normal_(layer.weight, std=0.01)
                    nn.init.zeros_(layer.bias)
        assert self.cls_score.bias is not None
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Map features (N, C, H, W) to logits (N, A * K, H, W) and deltas (N, A * 4, H, W)."""
        logits, deltas = [], []
        for features in maps:
            logits.append(self.cls_score(self.cls_subnet(features)))
            deltas.append(self.bbox_pred(self.bbox_subnet(features)))
        return logits, deltas


def _make_convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


def _make_tower_norm(norm: str, channels: int, levels: int) -> nn.Module:
    kinds: dict[str, type[Any]] = {"BN": nn.BatchNorm2d, "SyncBN": SynchronizedBatchNorm2d}
    if norm in kinds:
        return LevelNorms(kinds[norm], channels, levels)
    made = make_norm(norm, channels)
    assert made is not None
    return made
