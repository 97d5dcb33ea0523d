"""What images have to be for weights to work: channel order, mean and std, and what the names and shapes of weights do not tell.

Weights under another preprocessing than theirs load without a word and cost several points of AP. So it travels with them, is compared
with the configuration, and can be converted where that is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

_ORDERS = ("RGB", "BGR")
_BATCH_NORMS = ("statistics", "folded", "none")
_EPS = 1e-5
# Means this near are one mean, written with other digits (123.675 and 123.68).
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Preprocessing:
    """What the images and the network have to be for weights.

    Attributes:
        channel_order: "RGB" or "BGR".
        mean: subtracted from every pixel, on the scale 0-255, a number a channel in ``channel_order``.
        std: what it is then divided by, in the same order.
        stride_in_1x1: whether the stride is in the first 1x1 convolution of a block and not in the 3x3 one; shapes do not tell.
        batch_norm: "statistics": scale, bias, mean and variance. "folded": scale and bias alone, which a frozen norm computes exactly
            (mean 0, variance 1) and which must not be trained as a batch norm. "none": the norms are of another kind.

    Raises:
        ValueError: a value is of none of these.
    """

    channel_order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stride_in_1x1: bool = False
    batch_norm: str = "statistics"

    def __post_init__(self) -> None:
        for name, choices in (("channel_order", _ORDERS), ("batch_norm", _BATCH_NORMS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is {getattr(self, name)!a:.40}; write {' or '.join(map(repr, choices))}"
                )
        if not isinstance(self.stride_in_1x1, bool):
            raise ValueError(f"stride_in_1x1 is {self.stride_in_1x1!a:.40}; write True or False")
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if not (
                isinstance(numbers, tuple) and len(numbers) == 3 and all(map(_is_finite, numbers))
            ):
                raise ValueError(
                    f"{name} is {numbers!a:.80}; write three numbers on the scale 0-255"
                )
        if min(self.std) <= 0:
            raise ValueError(
                f"std is {self.std!a:.80}, and pixels are divided by it; write numbers above 0, 1 for none"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it; ``from_dict`` reads it."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """What ``as_dict`` gave.

        Raises:
            ValueError: an entry is missing, unknown or wrong.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != known:
            found = (
                ", ".join(map(ascii, values))[:80]
                if isinstance(values, Mapping)
                else type(values).__name__
            )
            raise ValueError(
                f"a preprocessing has {', '.join(sorted(known))}, and this has {found or 'nothing'}"
            )
        triples = {
            name: values[name] for name in ("mean", "std") if isinstance(values[name], list | tuple)
        }
        numbers = {
            name: tuple(float(number) if _is_finite(number) else number for number in triple)
            for name, triple in triples.items()
        }
        return cls(**{**values, **numbers})


def _is_finite(number: object) -> bool:
    return (
        isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    )


_RGB = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_BGR = (_RGB[0][::-1], _RGB[1][::-1])
_NO_STD = (1.0, 1.0, 1.0)

KNOWN: dict[str, Preprocessing] = {
    "torchvision": Preprocessing("RGB", *_RGB),
    "mmpretrain": Preprocessing("RGB", *_RGB),
    "msra": Preprocessing("BGR", _BGR[0], _NO_STD, stride_in_1x1=True),
    "fair": Preprocessing("BGR", *_BGR),
    "detectron1": Preprocessing(
        "BGR", (102.9801, 115.9465, 122.7717), _NO_STD, batch_norm="folded"
    ),
    "pycls": Preprocessing("BGR", *_BGR),
    "paper": Preprocessing("RGB", *_RGB),
}
"""By kind of source: torchvision (timm and gluon too), mmpretrain, detectron2's MSRA and FAIR, Detectron 1 (its ResNeXts; its ResNets
have their stride in the 1x1), pycls, the paper's own in Torch 7."""


def batch_norm_of(state: Mapping[str, Tensor]) -> str:
    """ "none" where there is no running mean; "folded" where each is 0 and every variance 1, but some biases are not 0; else "statistics".

    Trained statistics are never so. Those of a network that nobody has trained are, but its biases are 0.
    """
    named = {key: [] for key in ("running_mean", "running_var", "bias")}  # type: dict[str, list[Tensor]]
    for name, tensor in state.items():
        key = name.rpartition(".")[2]
        if key in named and f"{name.removesuffix(key)}running_var" in state:
            named[key].append(tensor)
    folded = (
        bool(named["running_mean"])
        and not any(bool(mean.float().any()) for mean in named["running_mean"])
        and all(
            bool(((variance.float() - 1).abs() <= 2 * _EPS).all())
            for variance in named["running_var"]
        )
        and any(bool(bias.float().any()) for bias in named["bias"])
    )
    if not named["running_var"]:
        return "none"
    return "folded" if folded else "statistics"


def converted(
    state: Mapping[str, Tensor], source: Preprocessing, target: Preprocessing
) -> dict[str, Tensor]:
    """Weights for another channel order or pixel std, by exact algebra: conv1's input channels swapped, the std's ratio folded into it.

    Args:
        state: under our names, of a backbone, a classifier or a detector.
        source: what they are for.
        target: what they are to be for.

    Returns:
        a new dict; all tensors but conv1's are the same. Without a change of std every number stays as it is.

    Raises:
        ValueError: means differ, which no weights make up for (a convolution pads with zeros, which are pixels of the mean); or the
            stride or the kind of batch norm; or there is no conv1 for three channels.
    """
    for name in ("stride_in_1x1", "batch_norm"):
        have, want = getattr(source, name), getattr(target, name)
        if have != want:
            raise ValueError(
                f"the weights have {name} {have}, not {want}, and converting that is no exact algebra; set the configuration to {have}"
            )
    swapped = source.channel_order != target.channel_order
    mean, std = (numbers[::-1] if swapped else numbers for numbers in (source.mean, source.std))
    if not all(
        math.isclose(a, b, rel_tol=_ROUNDING, abs_tol=1e-9) for a, b in zip(mean, target.mean)
    ):
        raise ValueError(
            f"the weights are for the mean {list(mean)} in {target.channel_order}, not {list(target.mean)}, and no weights make up for "
            "another mean: a convolution pads with zeros, which are pixels of the mean; set MODEL.PIXEL_MEAN to the weights'"
        )
    name = _conv1(state)
    weight = state[name]
    if swapped:
        weight = weight.flip(1)
    if std != target.std:
        ratio = torch.tensor(target.std, dtype=torch.float64) / torch.tensor(
            std, dtype=torch.float64
        )
        weight = (weight.double() * ratio.to(weight.device).view(1, 3, 1, 1)).to(weight.dtype)
    return {**state, name: weight}


def _conv1(state: Mapping[str, Tensor]) -> str:
    found = [name for name in state if f".{name}".endswith(".stem.conv1.weight")]
    if len(found) != 1 or state[found[0]].ndim != 4 or state[found[0]].shape[1] != 3:
        raise ValueError(
            "the weights have no stem.conv1.weight for three channels; give those of a ResNeXt or of a detector that has one"
        )
    return found[0]
