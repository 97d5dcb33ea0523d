"""The preprocessing that weights need, known publishers' and how a configuration differs from it.

Weights under another preprocessing than theirs load without an error and cost several points of AP.
So it travels with them, and ``requirements.check_configuration`` compares a configuration with it.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fvcore.common.config import CfgNode
from torch import Tensor

_BATCH_NORMS = ("statistics", "folded", "none")
_FROZEN_NORMS = ("FrozenBN", "FrozenStatisticsBN")
_SYNCHRONIZED = ("SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")  # the last are detectron2's

ANY_BATCH_NORM = (*_FROZEN_NORMS, "BN", *_SYNCHRONIZED)
"""The values of MODEL.RESNETS.NORM that are batch norms."""

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
                raise ValueError(f"{name} is {_show(getattr(self, name)):.40}; write {words}")
        if not isinstance(self.stride_in_1x1, bool):
            raise ValueError(
                f"stride_in_1x1 is {_show(self.stride_in_1x1):.40}; write True or False"
            )
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if not isinstance(numbers, tuple) or [*map(_is_real, numbers)] != [True] * 3:
                raise ValueError(
                    f"{name} is {_show(numbers):.80}; write three numbers on the scale 0-255"
                )
        if min(self.std) <= 0:
            raise ValueError(
                f"std is {_show(self.std):.80}, and pixels are divided by it; write numbers above "
                "0, 1 for none"
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


_STRIDE_WORD, _OTHER_STRIDE = "stride_in_1x1", "stride_in_3x3"
_EXAMPLE = "RGB:123.7,116.3,103.5:58.4,57.1,57.4"


def list_statements() -> str:
    """List what ``parse_preprocessing`` understands: publishers, and an example of numbers."""
    return f"{', '.join(KNOWN)}, or numbers such as {_EXAMPLE}"


def parse_preprocessing(text: str) -> Preprocessing:
    """Read what ``--preprocessing`` says.

    Args:
        text: a publisher of ``KNOWN``; or channel order, mean and std on the scale 0-255, such as
            "RGB:123.7,116.3,103.5:58.4,57.1,57.4", where one number stands for three ("RGB:0:255"
            for pixels divided by 255), and after them perhaps ":stride_in_1x1" or ":stride_in_3x3".

    Returns:
        With ``batch_norm`` "statistics" where numbers are given; the weights tell it. The stride is
        in the 3x3 where the text does not tell, see ``names_stride``.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(text, str):
        shown = format_preprocessing(text) if isinstance(text, Preprocessing) else _EXAMPLE
        raise ValueError(f"preprocessing is {text!a:.80}, and no text; write it as {shown!r}")
    name = text.strip().lower()
    if name in KNOWN or name == "timm":  # whose own files need what torchvision's do
        return KNOWN["torchvision" if name == "timm" else name]
    order, *parts = (part.strip() for part in text.split(":"))
    stride = [part.lower() for part in parts[2:]]
    has_stride = stride in ([_STRIDE_WORD], [_OTHER_STRIDE])
    try:
        mean, std = (
            tuple(float(number) for number in part.split(","))
            for part in (parts[:2] if has_stride else parts)
        )
    except ValueError:
        raise ValueError(
            f"--preprocessing {text!a:.80} is no publisher ({', '.join(KNOWN)}) and no numbers, "
            f"such as {_EXAMPLE}: channel order, mean and std, on the scale 0-255, where one "
            f"number stands for three, and :{_STRIDE_WORD} or :{_OTHER_STRIDE} may follow"
        ) from None
    triples: list[Any] = [each * 3 if len(each) == 1 else each for each in (mean, std)]
    try:
        found = Preprocessing(
            order.upper(), triples[0], triples[1], stride_in_1x1=stride == [_STRIDE_WORD]
        )
    except ValueError as error:
        raise ValueError(f"--preprocessing {text!a:.80}: {error}") from None
    if not all(0 <= number <= 255 for number in found.mean):
        raise ValueError(
            f"--preprocessing {text!a:.80}: mean is {found.mean}, and no pixel is; write numbers "
            "from 0 to 255"
        )
    if have_scale_of_one(found.mean, found.std):
        mean, std = (_scale(each) if max(each) <= 1 else each for each in (found.mean, found.std))
        scaled = replace(found, mean=mean, std=std)
        raise ValueError(
            f"--preprocessing {text!a:.80} has numbers on the scale 0-1; write all on the scale "
            f"0-255, {format_preprocessing(scaled)}"
        )
    return found


def names_stride(text: str) -> bool:
    """Tell whether what ``parse_preprocessing`` reads says where the stride is.

    A publisher's name says all; numbers are of images alone, but for a word behind them.
    """
    return ":" not in text or text.strip().lower().endswith((_STRIDE_WORD, _OTHER_STRIDE))


def have_scale_of_one(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Tell whether a mean or std can only be of pixels on the scale 0-1."""
    return max(std) < 1 or 0 < max(mean) < 1


def _scale(numbers: tuple[float, float, float]) -> tuple[float, float, float]:
    """Bring numbers from the scale 0-1 to 0-255."""
    first, second, third = (round(255 * number, 6) for number in numbers)
    return first, second, third


def format_preprocessing(preprocessing: Preprocessing) -> str:
    """Write it as ``parse_preprocessing`` reads it; the kind of batch norm is left out."""
    numbers = (
        ",".join(f"{number:.10g}" for number in (each[:1] if len(set(each)) == 1 else each))
        for each in (preprocessing.mean, preprocessing.std)
    )
    stride = [_STRIDE_WORD] if preprocessing.stride_in_1x1 else []
    return ":".join([preprocessing.channel_order, *numbers, *stride])


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
    norms = _FROZEN_NORMS if needed.batch_norm == "folded" else ANY_BATCH_NORM
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


def _show(value: Any) -> str:
    """Show the beginning of a value of a file, whose lists may be in each other without end."""
    return ascii(value) if isinstance(value, str) else ascii(reprlib.repr(value))[1:-1]
