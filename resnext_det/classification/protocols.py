"""How an image is shown to a classifier in testing: one crop, ten crops, or whole and at several scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resnext_det.data.images.cropping import CenterCrop, DenseScales, TenCrop
from resnext_det.data.images.loaders import Views
from resnext_det.evaluation.scoring import crop_scores, dense_scores
from resnext_det.resnext import ResNeXtClassifier

DENSE_SCALES = (224, 256, 384, 480, 640)
"""Shorter sides of multi-scale testing (ResNet, section 3.4)."""


@dataclass(frozen=True)
class Protocol:
    """Images to views, and views to scores.

    Attributes:
        name: such as "crop 224".
        views: from an image to what the network sees of it.
        score: (network, the views of N images, device) -> scores (N, K).
    """

    name: str
    views: Views
    score: Callable[[ResNeXtClassifier, Any, torch.device], Tensor]


def center(crop: CenterCrop) -> Protocol:
    """The crop in the centre."""
    return Protocol(f"crop {crop.size}", crop, _score_crops)


def ten_crop(crops: TenCrop) -> Protocol:
    """Four corners, the centre, and their mirror images; scores are averaged before the softmax (fb.resnet.torch)."""
    return Protocol(f"ten-crop {crops.size}", crops, _score_crops)


def dense(scales: DenseScales, *, window: int = 7) -> Protocol:
    """The whole image at several scales, the network applied everywhere; see ``dense_scores``."""

    def score(network: ResNeXtClassifier, images: Sequence[Sequence[Tensor]], device: torch.device) -> Tensor:
        scores = (
            dense_scores(network, (views.to(device) for views in image), window=window) for image in images
        )
        return torch.cat(list(scores))

    sizes = ", ".join(map(str, scales.scales))
    return Protocol(f"dense {sizes}", scales, score)


def _score_crops(network: ResNeXtClassifier, crops: Tensor, device: torch.device) -> Tensor:
    return crop_scores(network, crops.to(device, non_blocking=True))
