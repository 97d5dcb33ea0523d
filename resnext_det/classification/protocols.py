"""Test protocols: what a classifier sees of an image, and how its outputs become one score a class.

Scores are numbers whose softmax is the prediction: logits, or logs of averaged probabilities.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnext_det.data.images.cropping import CenterCrop, DenseScales, TenCrop
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.weights import Preprocessing, WeightFile
from resnext_det.weights.preprocessing import format_preprocessing, list_statements

logger = logging.getLogger(__name__)

PROTOCOLS = ("center", "ten-crop", "dense")

BATCH_SIZES = {"center": 64, "ten-crop": 16, "dense": 2}
"""Usual images at once: a batch of ImageNet's photographs is then some 100 MB or less."""

DENSE_SCALES = (224, 256, 384, 480, 640)
"""Shorter sides of multi-scale testing (ResNet, section 3.4)."""


@torch.no_grad()
def score_crops(network: nn.Module, crops: Tensor) -> Tensor:
    """Average the logits over the crops of each image, as fb.resnet.torch does (train.lua).

    All N * n crops go through the network at once.

    Args:
        network: in evaluation mode.
        crops: (N, n, 3, H, W), preprocessed; n is 1 for the central crop, 10 for ten-crop testing.

    Returns:
        (N, K), in float32 or float64.

    Raises:
        ValueError: the network is in training mode.
    """
    _check_mode(network)
    logits = _make_precise(network(crops.flatten(0, 1)))  # (N * n, K)
    return logits.unflatten(0, crops.shape[:2]).mean(dim=1)


@torch.no_grad()
def compute_dense_logits(network: ResNeXtClassifier, images: Tensor, *, window: int = 7) -> Tensor:
    """Apply the classifier at every place of the last map, and average over the places.

    At a place, ``window`` x ``window`` positions of the map are averaged, and the linear layer
    follows, which is then a 1x1 convolution (VGG, section 3.2; ResNet, section 3.4). An image of
    the training size has one place, and the result is the classifier's own, to the last bit.

    Args:
        network: in evaluation mode.
        images: (V, 3, h, w), preprocessed, of any size.
        window: size of the last map in training: 7 for images of 224 pixels, 8 for CIFAR's. Where
            a map is smaller, it is the map's size.

    Returns:
        (V, K), in float32 or float64.

    Raises:
        ValueError: the network is in training mode.
    """
    _check_mode(network)
    maps = network.forward_features(images)  # (V, C, h/32, w/32)
    size = min(window, maps.shape[2]), min(window, maps.shape[3])
    if size != maps.shape[2:]:  # else there is one place, which the pool below averages
        maps = F.avg_pool2d(maps, size, stride=1)  # (V, C, h/32 - 6, w/32 - 6)
    # The mean over the places comes before the linear layer, with which it commutes: no map of K
    # channels has to be held.
    return _make_precise(network.linear(F.adaptive_avg_pool2d(maps, 1).flatten(1)))


@torch.no_grad()
def score_densely(
    network: ResNeXtClassifier, scales: Iterable[Tensor], *, window: int = 7
) -> Tensor:
    """Score one image at several scales (section 5.1 of the paper; ResNet, section 3.4).

    Args:
        network: in evaluation mode.
        scales: for every scale the views of the image, its mirror image among them: (V, 3, h, w),
            preprocessed. A generator is asked for the next scale when the last one is done.
        window: see ``compute_dense_logits``.

    Returns:
        (1, K): the log of the mean over the views, then over the scales, of the softmax of
        ``compute_dense_logits``.

    Raises:
        ValueError: the network is in training mode.
    """
    logits = (compute_dense_logits(network, views, window=window) for views in scales)
    return _log_mean_softmax(torch.stack([_log_mean_softmax(each) for each in logits]))[None]


def _log_mean_softmax(logits: Tensor) -> Tensor:
    """Compute the log of the mean softmax over the first dimension, without underflow."""
    return torch.log_softmax(logits, dim=-1).logsumexp(0) - math.log(len(logits))


def _make_precise(scores: Tensor) -> Tensor:
    """Convert what a network in half precision gives to float32, in which it is averaged."""
    return scores if scores.dtype == torch.float64 else scores.float()


def _check_mode(network: nn.Module) -> None:
    if network.training:
        raise ValueError(
            "the network is in training mode, where the scores of an image depend on the others of "
            "its batch; call network.eval()"
        )


@dataclass(frozen=True)
class EvaluationProtocol:
    """Show images to a classifier in testing, and score them.

    Attributes:
        views: makes the crops of an image, or the whole image at several scales.
        window: for whole images, see ``compute_dense_logits``.
        usual: of "preprocessing", "resize" and "interpolation" what is only usual for files such as
            that of the weights, and not known of it.
    """

    views: CenterCrop | TenCrop | DenseScales
    window: int = 7
    usual: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as "crop 224", "ten-crop 224", "dense 224, 256"."""
        if isinstance(self.views, DenseScales):
            return f"dense {', '.join(map(str, self.views.scales))}"
        return f"{'ten-crop' if isinstance(self.views, TenCrop) else 'crop'} {self.views.size}"

    @property
    def resize(self) -> int | None:
        """The shorter side before cropping; None for whole images, where it is in the name."""
        return None if isinstance(self.views, DenseScales) else self.views.resize

    @property
    def interpolation(self) -> str:
        """The interpolation of the resizing."""
        return self.views.interpolation

    def score(self, network: ResNeXtClassifier, views: Any, device: torch.device) -> Tensor:
        """Score the views of N images, as a loader batches them; returns (N, K)."""
        if not isinstance(self.views, DenseScales):
            return score_crops(network, views.to(device, non_blocking=True))
        images = ((scale.to(device) for scale in image) for image in views)
        return torch.cat([score_densely(network, scales, window=self.window) for scales in images])


def make_protocol(
    kind: str,
    preprocessing: Preprocessing,
    *,
    size: int,
    resize: int,
    scales: Sequence[int] = DENSE_SCALES,
    interpolation: str,
    window: int = 7,
) -> EvaluationProtocol:
    """Make a protocol of a kind, all of whose settings are known; see ``protocol_of``."""
    common: dict[str, Any] = {
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "channel_order": preprocessing.channel_order,
        "interpolation": interpolation,
    }
    if kind == "dense":
        return EvaluationProtocol(DenseScales(scales, **common), window)
    if kind == "ten-crop":
        return EvaluationProtocol(TenCrop(size, resize, **common))
    rounding = "up" if interpolation == "torch7_bicubic" else "half_even"
    return EvaluationProtocol(CenterCrop(size, resize, rounding=rounding, **common))


def protocol_of(
    file: WeightFile,
    kind: str = "center",
    *,
    size: int | None = None,
    resize: int | None = None,
    scales: Sequence[int] | None = None,
    interpolation: str | None = None,
) -> EvaluationProtocol:
    """Choose the protocol for a file of weights: what is not given is as in training, or usual.

    A warning says what is only usual and not known of the file.

    Args:
        file: the weights, which say their preprocessing.
        kind: "center" for the central crop, "ten-crop" for the four corners, the center and their
            mirror images, or "dense" for whole images at several scales.
        size: of the crop, in pixels; usually 224, in table 5 of the paper 320 too.
        resize: the shorter side before cropping; usually 256 for 224, and the crop's for others.
        scales: shorter sides of dense testing; usually ``DENSE_SCALES``.
        interpolation: "torch7_bicubic" (fb.resnet.torch), "bicubic" or "bilinear" (Pillow).

    Raises:
        ValueError: the weights do not say their preprocessing; there is no such kind; a setting
            has no effect in it; sizes are below 1 or do not go together.
    """
    _check_effect(kind, size=size, resize=resize, scales=scales)
    if file.preprocessing is None:
        raise ValueError(
            f"{file.path} does not say which preprocessing its weights need; "
            f"name it with --preprocessing: {list_statements()}"
        )
    trained = file.metadata
    small = file.architecture is not None and file.architecture.for_small_images
    sized = size is not None or resize is not None
    size_in_training = int(trained.get("size_test", 32 if small else 224))
    size = size_in_training if size is None else size
    if resize is None:
        known = trained.get("resize_test", 256 if size == 224 else size)
        resize = int(known) if size == size_in_training else size
    usual = "torch7_bicubic" if file.format == "native" else "bilinear"
    protocol = make_protocol(
        kind,
        file.preprocessing,
        size=size,
        resize=resize,
        scales=DENSE_SCALES if scales is None else scales,
        interpolation=interpolation or trained.get("interpolation") or usual,
        window=8 if small else 7,
    )
    unknown = _find_usual(file, protocol, sized=sized, interpolated=interpolation is not None)
    if unknown:
        logger.warning(
            "%s does not tell how images were prepared in its publisher's tests; it is tested as "
            "is usual, which is not known to be right: %s. Say it with %s.",
            file.path,
            ", ".join(unknown.values()),
            ", ".join(f"--{name}" for name in unknown),
        )
    return replace(protocol, usual=tuple(unknown))


def _find_usual(
    file: WeightFile, protocol: EvaluationProtocol, *, sized: bool, interpolated: bool
) -> dict[str, str]:
    """Find what of a test is only usual for a file, see ``EvaluationProtocol.usual``; and say it.

    Args:
        sized, interpolated: the user gave the size of the crop or the shorter side, and the
            interpolation.
    """
    assert file.preprocessing is not None
    found = {}
    if any(map(file.is_usual, ("channel_order", "mean", "std"))):
        found["preprocessing"] = format_preprocessing(file.preprocessing)
    if not sized and protocol.resize is not None and _is_unknown(file, "resize_test"):
        found["resize"] = f"{protocol.name} of shorter side {protocol.resize}"
    if not interpolated and _is_unknown(file, "interpolation"):
        found["interpolation"] = protocol.interpolation
    return found


def _is_unknown(file: WeightFile, fact: str) -> bool:
    return fact not in file.metadata or file.is_usual(fact)


def _check_effect(kind: str, **settings: Any) -> None:
    """Refuse a kind that is not known, and settings that have no effect in it."""
    if kind not in PROTOCOLS:
        raise ValueError(f"protocol {kind!r} is not known; choose one of {', '.join(PROTOCOLS)}")
    others = "center or ten-crop" if kind == "dense" else "dense"
    for name in ("size", "resize") if kind == "dense" else ("scales",):
        if settings[name] is not None:
            raise ValueError(
                f"{name} = {settings[name]} has no effect in the protocol {kind!r}; "
                f"leave it out, or choose {others}"
            )
