"""The preprocessing that weights need, known publishers' and how a configuration differs from it.

Weights under another preprocessing than theirs load without an error and cost several points of AP.
So it travels with them, and ``requirements.check_configuration`` compares a configuration with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from fvcore.common.config import CfgNode
from torch import Tensor

_BATCH_NORMS = ("statistics", "folded", "none")
_FROZEN_NORMS = ("FrozenBN", "FrozenStatisticsBN")
_SYNCHRONIZED = ("SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")  # the last are detectron2's
_ANY_BATCH_NORM = (*_FROZEN_NORMS, "BN", *_SYNCHRONIZED)
_EPS = 1e-5
_TOLERANCE = 5e-3


@dataclass(frozen=True)
class Preprocessing:
    """The image preprocessing and the variant of the network that weights were trained with.

    Attributes:
        channel_order: "RGB" or "BGR".
        mean: subtracted from every pixel, on the scale 0-255, one number a channel in
            ``channel_order``.
        std: what it is then divided by, in the same order.
        stride_in_1x1: whether a block's stride is in its first 1x1 convolution and not in the 3x3
            one; shapes do not tell.
        batch_norm: "statistics": scale, bias, mean and variance. "folded": scale and bias alone,
            which a frozen norm computes exactly (mean 0, variance 1) and which must not be trained
            as a batch norm. "none": the norms are of another kind.

    Raises:
        ValueError: a value is of none of these.
    """

    channel_order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stride_in_1x1: bool = False
    batch_norm: str = "statistics"

    def __post_init__(self) -> None:
        for name, choices in (("channel_order", ("RGB", "BGR")), ("batch_norm", _BATCH_NORMS)):
            if getattr(self, name) not in choices:
                words = " or ".join(map(repr, choices))
                raise ValueError(f"{name} is {getattr(self, name)!a:.40}; write {words}")
        if not isinstance(self.stride_in_1x1, bool):
            raise ValueError(f"stride_in_1x1 is {self.stride_in_1x1!a:.40}; write True or False")
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if not isinstance(numbers, tuple) or [*map(_is_real, numbers)] != [True] * 3:
                raise ValueError(
                    f"{name} is {numbers!a:.80}; write three numbers on the scale 0-255"
                )
        if min(self.std) <= 0:
            raise ValueError(
                f"std is {self.std!a:.80}, and pixels are divided by it; write numbers above 0, 1 "
                "for none"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as JSON holds it; ``from_dict`` reads it."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read what ``as_dict`` gave.

        Raises:
            ValueError: an entry is missing, unknown or wrong.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != known:
            names = map(ascii, values) if isinstance(values, Mapping) else [type(values).__name__]
            raise ValueError(
                f"a preprocessing has {', '.join(sorted(known))}, and this has "
                f"{', '.join(names)[:80] or 'nothing'}"
            )
        triples = {
            name: tuple(float(number) if _is_real(number) else number for number in values[name])
            for name in ("mean", "std")
            if isinstance(values[name], list | tuple)
        }
        return cls(**{**values, **triples})


def list_fields() -> tuple[str, ...]:
    """List the names of the fields of a ``Preprocessing``."""
    return tuple(field.name for field in fields(Preprocessing))


def _is_real(number: object) -> bool:
    """Tell whether something may be a pixel's mean or std; nan and True may not."""
    return type(number) in (int, float) and abs(number) < 1e6  # type: ignore[arg-type]


_RGB = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_BGR = (_RGB[0][::-1], _RGB[1][::-1])
_DETECTRON = (102.9801, 115.9465, 122.7717)
_NO_STD = (1.0, 1.0, 1.0)

KNOWN: dict[str, Preprocessing] = {
    "torchvision": Preprocessing("RGB", *_RGB),
    "mmpretrain": Preprocessing("RGB", *_RGB),
    "msra": Preprocessing("BGR", _BGR[0], _NO_STD, stride_in_1x1=True),
    "fair": Preprocessing("BGR", *_BGR),
    "detectron1": Preprocessing("BGR", _DETECTRON, _NO_STD, batch_norm="folded"),
    "pycls": Preprocessing("BGR", *_BGR),
    "paper": Preprocessing("RGB", *_RGB),
}
"""By publisher: torchvision (timm and GluonCV too), mmpretrain, detectron2's MSRA and FAIR,
Detectron 1 (its ResNeXts; its ResNets have their stride in the 1x1), pycls, the paper (Torch 7)."""


def find_batch_norm(state: Mapping[str, Tensor]) -> str:
    """Find the kind of a network's batch norms, see ``Preprocessing.batch_norm``.

    They are folded where every mean is 0 and every variance 1, but some bias is not 0. Trained
    statistics never are so; those of an untrained network are, but its biases are 0.
    """
    norms = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    means, variances, biases = (
        [state[f"{norm}{key}"].float() for norm in norms if f"{norm}{key}" in state]
        for key in ("running_mean", "running_var", "bias")
    )
    if not norms:
        return "none"
    constant = means and not any(mean.any() for mean in means)
    constant = constant and all(((each - 1).abs() <= 2 * _EPS).all() for each in variances)
    return "folded" if constant and any(bias.any() for bias in biases) else "statistics"


def find_differences(preprocessing: Preprocessing, cfg: CfgNode) -> list[tuple[str, Any, Any]]:
    """Find where a configuration differs from what weights need.

    Numbers agree within 0.5 %: the published ones are rounded in several ways. Images of one
    channel ("L") have no order, and their mean and std are not compared.

    Returns:
        (key, its value, the value that is needed) for every difference.
    """
    resnets, needed = cfg.MODEL.RESNETS, preprocessing
    found: list[tuple[str, Any, Any]] = []
    if cfg.INPUT.FORMAT in ("RGB", "BGR"):
        if needed.channel_order != cfg.INPUT.FORMAT:
            found.append(("INPUT.FORMAT", cfg.INPUT.FORMAT, needed.channel_order))
        for key, numbers in (("PIXEL_MEAN", needed.mean), ("PIXEL_STD", needed.std)):
            if not are_close(cfg.MODEL[key], numbers):
                found.append((f"MODEL.{key}", list(cfg.MODEL[key]), list(numbers)))
    if needed.stride_in_1x1 != resnets.STRIDE_IN_1X1:
        found.append(("MODEL.RESNETS.STRIDE_IN_1X1", resnets.STRIDE_IN_1X1, needed.stride_in_1x1))
    norms = _FROZEN_NORMS if needed.batch_norm == "folded" else _ANY_BATCH_NORM
    if needed.batch_norm != "none" and resnets.NORM not in norms:
        found.append(("MODEL.RESNETS.NORM", resnets.NORM, "FrozenBN"))
    return found


def are_close(
    numbers: Sequence[float], others: Sequence[float], tolerance: float = _TOLERANCE
) -> bool:
    """Tell whether two means or stds are one, but for rounding."""
    return len(numbers) == len(others) and all(
        math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-9) for a, b in zip(numbers, others)
    )


def list_overrides(cfg: CfgNode, preprocessing: Preprocessing) -> list[str]:
    """List the KEY VALUE overrides that make a configuration fit; none where it does."""
    found = find_differences(preprocessing, cfg)
    return [str(word) for key, _, needed in found for word in (key, needed)]
