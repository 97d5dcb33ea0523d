"""How an image is shown to a classifier in testing: one crop, ten crops, or whole and at several scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resnext_det.classification.scoring import crop_scores, dense_scores
from resnext_det.data.images.cropping import CenterCrop, DenseScales, TenCrop
from resnext_det.data.images.loaders import Views
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.weights import KNOWN, WeightFile

PROTOCOLS = ("center", "ten-crop", "dense")

BATCH_SIZES = {"center": 64, "ten-crop": 16, "dense": 2}
"""Images at once that are usual: a batch is then some 100 MB or less, of ImageNet's photographs."""

DENSE_SCALES = (224, 256, 384, 480, 640)
"""Shorter sides of multi-scale testing (ResNet, section 3.4)."""


@dataclass(frozen=True)
class Protocol:
    """Images to views, and views to scores.

    Attributes:
        name: such as "crop 224".
        resize: the shorter side before cropping; None where it is in the name.
        interpolation: of resizing.
        views: from an image to what the network sees of it.
        score: (network, the views of N images, device) -> scores (N, K).
    """

    name: str
    resize: int | None
    interpolation: str
    views: Views
    score: Callable[[ResNeXtClassifier, Any, torch.device], Tensor]


def protocol_of(
    file: WeightFile,
    kind: str = "center",
    *,
    size: int | None = None,
    resize: int | None = None,
    scales: Sequence[int] | None = None,
    interpolation: str | None = None,
) -> Protocol:
    """The protocol that suits weights; what is not given is as they were trained, or the usual.

    Args:
        kind: one of ``PROTOCOLS``.
        size: of the crop, in pixels.
        resize: the shorter side before cropping.
        scales: shorter sides of dense testing.
        interpolation: "torch7_bicubic", "bicubic" or "bilinear".

    Raises:
        ValueError: the weights do not say which preprocessing they need; there is no such kind; a setting has no effect in it; sizes
            are below 1 or do not go together.
    """
    _check(kind, size=size, resize=resize, scales=scales)
    if file.preprocessing is None:
        raise ValueError(
            f"{file.path} does not say which preprocessing its weights need; name it with --preprocessing: {', '.join(KNOWN)}"
        )
    trained = file.metadata
    small = file.architecture is not None and file.architecture.for_small_images
    usual = "torch7_bicubic" if file.format == "native" else "bilinear"
    interpolation = interpolation or trained.get("interpolation") or usual
    common: dict[str, Any] = {
        "mean": file.preprocessing.mean,
        "std": file.preprocessing.std,
        "channel_order": file.preprocessing.channel_order,
        "interpolation": interpolation,
    }
    if kind == "dense":
        return dense(DenseScales(tuple(scales or DENSE_SCALES), **common), window=8 if small else 7)
    size_in_training = int(trained.get("size_test", 32 if small else 224))
    size = size or size_in_training
    if resize is None:
        known = trained.get("resize_test", 256 if size == 224 else size)
        resize = int(known) if size == size_in_training else size
    if kind == "ten-crop":
        return ten_crop(TenCrop(size, resize, **common))
    rounding = "up" if interpolation == "torch7_bicubic" else "half_even"
    return center(CenterCrop(size, resize, rounding=rounding, **common))


def _check(kind: str, **pixels: int | Sequence[int] | None) -> None:
    """Refuse what would not be honoured."""
    if kind not in PROTOCOLS:
        raise ValueError(f"protocol {kind!r} is not known; choose one of {', '.join(PROTOCOLS)}")
    unused = ("size", "resize") if kind == "dense" else ("scales",)
    for name, value in pixels.items():
        if value is None:
            continue
        if name in unused:
            others = "center or ten-crop" if kind == "dense" else "dense"
            raise ValueError(
                f"{name} = {value} has no effect in the protocol {kind!r}; leave it out, or choose {others}"
            )
        if min([value] if isinstance(value, int) else value, default=0) < 1:
            raise ValueError(f"{name} = {value}: write pixels, 1 or more")


def center(crop: CenterCrop) -> Protocol:
    """The crop in the centre."""
    return Protocol(f"crop {crop.size}", crop.resize, crop.interpolation, crop, _score_crops)


def ten_crop(crops: TenCrop) -> Protocol:
    """Four corners, the centre, and their mirror images; scores are averaged before the softmax (fb.resnet.torch)."""
    return Protocol(
        f"ten-crop {crops.size}", crops.resize, crops.interpolation, crops, _score_crops
    )


def dense(scales: DenseScales, *, window: int = 7) -> Protocol:
    """The whole image at several scales, the network applied everywhere; see ``dense_scores``."""

    def score(
        network: ResNeXtClassifier, images: Sequence[Sequence[Tensor]], device: torch.device
    ) -> Tensor:
        scores = (
            dense_scores(network, (views.to(device) for views in image), window=window)
            for image in images
        )
        return torch.cat(list(scores))

    sizes = ", ".join(map(str, scales.scales))
    return Protocol(f"dense {sizes}", None, scales.interpolation, scales, score)


def _score_crops(network: ResNeXtClassifier, crops: Tensor, device: torch.device) -> Tensor:
    return crop_scores(network, crops.to(device, non_blocking=True))
