"""Whose weights a file holds, and so the preprocessing that they need: from what stands beside them, else from what is known of a source.

Where neither tells, it stays unknown: a guess that is wrong costs accuracy without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from resnext_det.architecture import Architecture
from resnext_det.weights.containers import Contents
from resnext_det.weights.formats import NativeWeights
from resnext_det.weights.preprocessing import KNOWN, Preprocessing, batch_norm_of

_LONGEST_TEXT = 1 << 20
_LONGEST_NOTE = 500
_EPS = 1e-5
_OWN = "if it is one of {}'s own"
_SAME_NAMES = (
    "the file does not say; torchvision's own are BSD-3-Clause, timm's Apache-2.0, but WSL, SSL and SWSL weights, which have the same "
    "names, are for non-commercial use"
)
_LICENCES = {
    "torchvision": _SAME_NAMES,
    "mmpretrain": f"Apache-2.0, {_OWN.format('OpenMMLab')}",
    "msra": f"CC-BY-SA-3.0, {_OWN.format('detectron2')}",
    "fair": f"CC-BY-SA-3.0, {_OWN.format('detectron2')}",
    "detectron1": f"CC-BY-SA-3.0, {_OWN.format('Detectron')}",
    "pycls": f"MIT, {_OWN.format('pycls')}",
    "paper": f"CC-BY-NC-4.0, {_OWN.format('the paper')}",
}
# How images were resized in testing, where that is not Pillow's bilinear filter or OpenCV's, which is near it.
_INTERPOLATION = {"paper": "torch7_bicubic"}
_OF_MMDETECTION = ("neck.", "rpn_head.", "roi_head.", "bbox_head.", "mask_head.")


class Source(NamedTuple):
    """Whose weights they are.

    Attributes:
        format: see ``WeightFile``.
        preprocessing: None where it is not known.
        metadata: texts by name.
    """

    format: str
    preprocessing: Preprocessing | None
    metadata: dict[str, str]


def source_of(
    kind: str, contents: Contents, native: NativeWeights, architecture: Architecture | None
) -> Source:
    """Whose weights they are.

    Args:
        kind: of the container, as ``read_container`` says it.
        contents: as they are in the file.
        native: under our names.
        architecture: recognised, or None.

    Raises:
        ValueError: the file carries a preprocessing that is broken.
    """
    format = _format(kind, contents, native)
    metadata = _own_metadata(contents.beside)
    if "preprocessing" in _labelled(contents.beside):
        return Source(format, Preprocessing.from_dict(contents.beside["preprocessing"]), metadata)
    known = _known(format, contents, native, architecture)
    if isinstance(known, str):
        metadata.setdefault("licence", _LICENCES[known])
        metadata.setdefault("interpolation", _INTERPOLATION.get(known, "bilinear"))
        preprocessing: Preprocessing | None = KNOWN[known]
        if known == "detectron1" and architecture is not None and architecture.cardinality == 1:
            preprocessing = replace(KNOWN[known], stride_in_1x1=True)  # those are MSRA's
    else:
        preprocessing = known
    if preprocessing is not None:
        preprocessing = replace(preprocessing, batch_norm=batch_norm_of(native.state))
    return Source(format, preprocessing, metadata)


def class_names_of(contents: Contents, native: NativeWeights) -> tuple[str, ...] | None:
    """What ``write_weights`` wrote of the classes, one name an output; None where there is nothing of that kind."""
    names, bias = contents.beside.get("class_names"), native.state.get("linear.bias")
    if bias is None or not isinstance(names, list) or len(names) != len(bias):
        return None
    return tuple(names) if all(isinstance(name, str) for name in names) else None


def _format(kind: str, contents: Contents, native: NativeWeights) -> str:
    meta = contents.beside.get("meta")
    versions = set(meta) if isinstance(meta, dict) else set()
    if native.format == "detectron2":
        return "native" if _labelled(contents.beside) and kind != "pickle" else "detectron2"
    if native.format != "torchvision":
        return native.format
    if "mmdet_version" in versions or any(
        name.startswith(_OF_MMDETECTION) for name in native.left_out
    ):
        return "mmdetection"
    if native.prefix == "backbone." or versions & {
        "mmcls_version",
        "mmpretrain_version",
        "mmengine_version",
    }:
        return "mmpretrain"
    of_timm = contents.envelope == "state_dict_ema" or {"arch", "version", "metric"} <= set(
        contents.beside
    )
    return "timm" if kind == "safetensors" or of_timm else "torchvision"


def _labelled(beside: Mapping[str, Any]) -> list[str]:
    """Which of the words that ``write_weights`` writes are there; other libraries may use them for something else."""
    first_fields = {"preprocessing": "channel_order", "architecture": "cardinality"}
    return [
        key
        for key, first in first_fields.items()
        if isinstance(beside.get(key), dict) and first in beside[key]
    ]


def _known(
    format: str, contents: Contents, native: NativeWeights, architecture: Architecture | None
) -> str | Preprocessing | None:
    """A key of ``KNOWN``, or the preprocessing that the file describes, or None."""
    if format in ("torchvision", "timm"):
        return None if _may_be_caffes(contents, native.state) else "torchvision"
    if format in ("mmpretrain", "mmdetection"):
        return _of_openmmlab(format, contents.beside.get("meta"), architecture)
    if format == "pycls":
        return _of_pycls(contents.beside.get("cfg"))
    if format == "torch7":
        return "paper"
    if format == "caffe2":
        return _of_detectron(native.state, architecture)
    author = contents.beside.get("__author__")
    if format == "detectron2" and isinstance(author, str):
        return _of_author(author.lower(), native.state, architecture)
    return None


def _may_be_caffes(contents: Contents, state: Mapping[str, Tensor]) -> bool:
    """Whether it may be what mmdetection's converter makes of Caffe's ResNets: torchvision's names under "state_dict", and no counters.

    It makes folded norms too, which nothing else of these names has.
    """
    counted = any(name.endswith("num_batches_tracked") for name in state)
    alone = contents.envelope == "state_dict" and set(contents.beside) <= {"meta"}
    return not counted and (alone or batch_norm_of(state) == "folded")


def _of_openmmlab(
    format: str, meta: Any, architecture: Architecture | None
) -> str | Preprocessing | None:
    """By the configuration in ``meta``, a text. Without one, mmpretrain has one preprocessing, and mmdetection several."""
    texts = (
        [meta[key] for key in ("config", "cfg") if isinstance(meta.get(key), str)]
        if isinstance(meta, dict)
        else []
    )
    if not texts:
        several = architecture is None or architecture.cardinality == 1 or architecture.width == 8
        return None if format == "mmdetection" and several else "mmpretrain"
    text = texts[0][:_LONGEST_TEXT]
    number = r"\s*(-?\d+(?:\.\d*)?)\s*"
    triple = rf"[\"']?\s*[=:]\s*[\[(]{number},{number},{number},?\s*[\])]"
    means, stds = (set(re.findall(rf"\b{name}{triple}", text)) for name in ("mean", "std"))
    to_rgb = set(re.findall(r"\b(?:bgr_)?to_rgb[\"']?\s*[=:]\s*(True|False)", text))
    styles = set(re.findall(r"\bstyle[\"']?\s*[=:]\s*[\"'](pytorch|caffe)[\"']", text)) or {
        "pytorch"
    }
    if not len(means) == len(stds) == len(to_rgb) == len(styles) == 1:
        return None
    mean, std = (tuple(float(each) for each in next(iter(numbers))) for numbers in (means, stds))
    order = "RGB" if to_rgb == {"True"} else "BGR"
    found = Preprocessing.from_dict(
        {
            **KNOWN["mmpretrain"].as_dict(),
            **{
                "channel_order": order,
                "mean": mean,
                "std": std,
                "stride_in_1x1": styles == {"caffe"},
            },
        }
    )
    return "mmpretrain" if found == KNOWN["mmpretrain"] else found


def _of_pycls(text: Any) -> str | Preprocessing:
    """Its networks have the stride in the 3x3, but for those of MODEL.TYPE resnet whose configuration says otherwise."""
    text = text[:_LONGEST_TEXT] if isinstance(text, str) else ""
    resnet = re.search(r"^MODEL:\n(?: .*\n)*?  TYPE: resnet$", text, re.MULTILINE)
    epsilon = re.search(r"^BN:\n(?: .*\n)*?  EPS: (\S+)$", text, re.MULTILINE)
    if epsilon and float(epsilon[1]) != _EPS:
        raise ValueError(
            f"its batch norms have the epsilon {epsilon[1]:.20}, where ours have {_EPS}; give weights of that epsilon"
        )
    in_1x1 = re.search(r"^RESNET:\n(?: .*\n)*?  STRIDE_1X1: true$", text, re.MULTILINE)
    return replace(KNOWN["pycls"], stride_in_1x1=True) if resnet and in_1x1 else "pycls"


def _of_detectron(state: Mapping[str, Tensor], architecture: Architecture | None) -> str | None:
    if architecture is None or "stem.conv1.norm.running_var" not in state:  # with group norms
        return None
    if batch_norm_of(state) == "folded":
        return "detectron1"
    if str(architecture) in ("R-50", "R-101", "R-152"):
        return "msra"
    return "fair" if str(architecture) == "X-101-32x8d" else None


def _of_author(
    author: str, state: Mapping[str, Tensor], architecture: Architecture | None
) -> str | None:
    for word, known in {
        "torchvision": "torchvision",
        "timm": "torchvision",
        "pycls": "pycls",
        "mmpretrain": "mmpretrain",
    }.items():
        if word in author:
            return known
    if re.search("msra|fair|facebook|caffe2|detectron", author):
        return _of_detectron(state, architecture)
    return None


def _own_metadata(beside: Mapping[str, Any]) -> dict[str, str]:
    """Short texts by name, that ``write_weights`` wrote, and detectron2's author."""
    own = beside.get("metadata")
    texts = {str(key): value for key, value in own.items()} if isinstance(own, dict) else {}
    if isinstance(beside.get("__author__"), str):
        texts.setdefault("author", beside["__author__"])
    return {
        key[:_LONGEST_NOTE]: text[:_LONGEST_NOTE]
        for key, text in texts.items()
        if isinstance(text, str)
    }
