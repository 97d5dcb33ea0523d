"""How a network scores images: the mean over crops, the whole image at several scales, and some of its outputs only.

Scores are numbers whose softmax is the prediction: logits, or log probabilities where probabilities were averaged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnext_det.resnext import ResNeXtClassifier


@torch.no_grad()
def crop_scores(network: nn.Module, crops: Tensor) -> Tensor:
    """The mean of the logits over the crops of each image, as fb.resnet.torch's (train.lua, ``computeScore``).

    All N * n crops go through the network at once.

    Args:
        network: (N, 3, H, W) -> logits (N, K), in evaluation mode.
        crops: (N, n, 3, H, W), preprocessed; n is 1 for the central crop, 10 for ten-crop testing.

    Returns:
        (N, K), in float32 or float64.

    Raises:
        ValueError: the network is in training mode, or the crops have another shape.
    """
    if crops.dim() != 5 or 0 in crops.shape:
        raise ValueError(f"the crops have the shape {tuple(crops.shape)}; give (N, n, 3, H, W)")
    _check_mode(network)
    logits = _precise(network(crops.flatten(0, 1)))  # (N * n, K)
    return logits.unflatten(0, crops.shape[:2]).mean(dim=1)


@torch.no_grad()
def dense_logits(network: ResNeXtClassifier, images: Tensor, *, window: int = 7) -> Tensor:
    """The fully convolutional form: the classifier at every place of the last map, averaged over the places.

    At a place, the ``window`` x ``window`` positions of the map are averaged, and the linear layer follows, which is a 1x1
    convolution (VGG, section 3.2; ResNet, section 3.4). On an image of the training size there is one place, and the result is the
    classifier's own, to the last bit.

    Args:
        network: in evaluation mode.
        images: (V, 3, h, w), preprocessed, of any size.
        window: size of the last map in training: 7 of images of 224 pixels, 8 of CIFAR's. Where the map is smaller, it is the map's.

    Returns:
        (V, K), in float32 or float64.

    Raises:
        ValueError: the network is in training mode, the images have another shape, or the window is below 1.
    """
    if window < 1:
        raise ValueError(
            f"window is {window}; give the size of the last map in training, such as 7"
        )
    _check_mode(network)
    maps = network.forward_features(images)  # (V, C, h/32, w/32)
    height, width = (min(window, size) for size in maps.shape[2:])
    places = maps  # where there is one place, its average is the classifier's own, to the last bit
    if (height, width) != maps.shape[2:]:
        places = F.avg_pool2d(maps, (height, width), stride=1)  # (V, C, h/32 - 6, w/32 - 6)
    # The mean over the places comes before the linear layer, with which it commutes: no map of K channels has to be held.
    return _precise(network.linear(F.adaptive_avg_pool2d(places, 1).flatten(1)))


@torch.no_grad()
def dense_scores(
    network: ResNeXtClassifier, scales: Iterable[Tensor], *, window: int = 7
) -> Tensor:
    """Multi-scale dense testing of one image (section 5.1; ResNet, section 3.4, with shorter sides 224, 256, 384, 480, 640).

    Args:
        network: in evaluation mode.
        scales: for every scale the image's views, its flipped one among them, (V, 3, h, w), preprocessed. They go through
            the network one scale after the other, and a generator need make the next only then.
        window: see ``dense_logits``.

    Returns:
        (1, K): the log of the mean over the views, then over the scales, of the softmax of ``dense_logits``.

    Raises:
        ValueError: as ``dense_logits``; there is no scale, or one without a view.
    """
    probabilities = []
    for views in scales:
        if views.dim() != 4 or 0 in views.shape:
            raise ValueError(
                f"the views of a scale have the shape {tuple(views.shape)}; give (V, 3, h, w)"
            )
        probabilities.append(_log_mean_softmax(dense_logits(network, views, window=window), dim=0))
    if not probabilities:
        raise ValueError(
            "there is no scale to test at; give the views of an image at one or more scales"
        )
    return _log_mean_softmax(torch.stack(probabilities), dim=0)[None]


def restricted(scores: Tensor, outputs: Tensor) -> Tensor:
    """The scores of some outputs, which then compete alone: section 5.2's 1K-way test of a network of 5000 outputs.

    The softmax of the result is the softmax over these outputs. Labels become positions within ``outputs``.

    Args:
        scores: (N, K), whose softmax is the prediction.
        outputs: (K',), int64, different columns of the scores, as ``columns_of`` gives them.

    Returns:
        (N, K').

    Raises:
        ValueError: an output is no column of the scores, or is given twice.
    """
    if outputs.dim() != 1 or len(outputs) == 0 or outputs.dtype != torch.int64:
        raise ValueError(
            f"outputs are {outputs.dtype} of shape {tuple(outputs.shape)}; give one or more columns as int64 (K',)"
        )
    if outputs.min() < 0 or outputs.max() >= scores.shape[1]:
        wrong = next(index for index in outputs.tolist() if not 0 <= index < scores.shape[1])
        raise ValueError(f"output {wrong} is none of the {scores.shape[1]} columns of the scores")
    if len(outputs.unique()) < len(outputs):
        index, times = Counter(outputs.tolist()).most_common(1)[0]
        raise ValueError(
            f"output {index} is given {times} times, and would compete with itself; give it once"
        )
    return scores[:, outputs.to(scores.device)]


def columns_of(class_names: Sequence[str], among: Sequence[str]) -> Tensor:
    """The output column of every class name.

    Args:
        class_names: those that are looked for, such as the 1000 of ImageNet-1K.
        among: the names of a network's outputs, in their order, such as the 5000 of ImageNet-5K.

    Returns:
        (len(class_names),), int64.

    Raises:
        ValueError: names are missing among the outputs, or several outputs bear one of them.
    """
    columns = {name: index for index, name in enumerate(among)}
    missing = [name for name in class_names if name not in columns]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(class_names)} classes are none of the network's {len(among)} outputs: {_some(missing)}; test on "
            "classes that it was trained on, under the same names"
        )
    times = Counter(among)
    ambiguous = [name for name in class_names if times[name] > 1]
    if ambiguous:
        raise ValueError(
            f"several outputs bear one name: {_some(ambiguous)}; give every class a name of its own"
        )
    return torch.tensor([columns[name] for name in class_names], dtype=torch.int64)


def _log_mean_softmax(logits: Tensor, dim: int) -> Tensor:
    """log(mean over ``dim`` of softmax over the last), which does not underflow where a probability does."""
    return torch.log_softmax(logits, dim=-1).logsumexp(dim) - math.log(logits.shape[dim])


def _precise(scores: Tensor) -> Tensor:
    """At least float32: what a network in half precision gives is averaged in more."""
    return scores if scores.dtype == torch.float64 else scores.float()


def _check_mode(network: nn.Module) -> None:
    if network.training:
        raise ValueError(
            "the network is in training mode, where the scores of an image depend on the others of its batch; call network.eval()"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
