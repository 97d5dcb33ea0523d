"""Find who published a weight file and which preprocessing it needs, from its metadata or, failing
that, its publisher.

Where neither tells, the preprocessing stays unknown: a wrong one costs accuracy without an error.
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
from resnext_det.weights.preprocessing import KNOWN, Preprocessing, find_batch_norm

_LONGEST_TEXT = 1 << 20
_LONGEST_NOTE = 500
_EPS = 1e-5
_LICENSES = {
    "torchvision": "the file does not say; torchvision's own are BSD-3-Clause, timm's Apache-2.0, "
    "but WSL, SSL and SWSL weights, which have the same names, are for non-commercial use",
    "mmpretrain": "Apache-2.0, if it is one of OpenMMLab's own",
    "msra": "CC-BY-SA-3.0, if it is one of detectron2's own",
    "fair": "CC-BY-SA-3.0, if it is one of detectron2's own",
    "detectron1": "CC-BY-SA-3.0, if it is one of Detectron's own",
    "pycls": "MIT, if it is one of pycls's own",
    "paper": "CC-BY-NC-4.0, if it is one of the paper's own",
}
_OF_MMDETECTION = ("neck.", "rpn_head.", "roi_head.", "bbox_head.", "mask_head.")
_OF_MMPRETRAIN = {"mmcls_version", "mmpretrain_version", "mmengine_version"}
# The words that write_weights writes beside weights, each with a field that it has there: other
# libraries may use the words for something else.
_OWN_WORDS = {"preprocessing": "channel_order", "architecture": "cardinality"}


class Publisher(NamedTuple):
    """The format, preprocessing and metadata of a weight file, found by who published it.

    Attributes:
        format: see ``WeightFile``.
        preprocessing: None where it is not known.
        metadata: texts by name.
    """

    format: str
    preprocessing: Preprocessing | None
    metadata: dict[str, str]


def find_publisher(
    kind: str, contents: Contents, native: NativeWeights, architecture: Architecture | None
) -> Publisher:
    """Find who published weights, and which preprocessing they need.

    Args:
        kind: of the container, as ``read_container`` names it.
        contents: as they are in the file.
        native: the weights under our names.
        architecture: of the weights, or None.

    Raises:
        ValueError: the file carries a preprocessing that is broken.
    """
    format = _find_format(kind, contents, native)
    metadata = _read_metadata(contents.beside)
    if "preprocessing" in _own_words(contents.beside):
        own = Preprocessing.from_dict(contents.beside["preprocessing"])
        return Publisher(format, own, metadata)
    known = _find_preprocessing(format, contents, native, architecture)
    preprocessing = KNOWN[known] if isinstance(known, str) else known
    if isinstance(known, str):
        metadata.setdefault("license", _LICENSES[known])
        # How images were resized in testing: by Pillow's bilinear filter or OpenCV's, near it.
        metadata.setdefault("interpolation", "torch7_bicubic" if known == "paper" else "bilinear")
        if known == "detectron1" and architecture is not None and architecture.cardinality == 1:
            preprocessing = replace(KNOWN[known], stride_in_1x1=True)  # those are MSRA's
    if preprocessing is not None:
        preprocessing = replace(preprocessing, batch_norm=find_batch_norm(native.state))
    return Publisher(format, preprocessing, metadata)


def read_class_names(contents: Contents, native: NativeWeights) -> tuple[str, ...] | None:
    """Read the classes that ``write_weights`` wrote, one an output; None where there are none."""
    names, bias = contents.beside.get("class_names"), native.state.get("linear.bias")
    if bias is None or not isinstance(names, list) or len(names) != len(bias):
        return None
    return tuple(names) if all(isinstance(name, str) for name in names) else None


def _own_words(beside: Mapping[str, Any]) -> list[str]:
    return [
        word
        for word, first in _OWN_WORDS.items()
        if isinstance(beside.get(word), dict) and first in beside[word]
    ]


def _find_format(kind: str, contents: Contents, native: NativeWeights) -> str:
    meta = contents.beside.get("meta")
    versions = set(meta) if isinstance(meta, dict) else set()
    if native.format == "detectron2":
        return "native" if _own_words(contents.beside) and kind != "pickle" else "detectron2"
    if native.format != "torchvision":
        return native.format
    if "mmdet_version" in versions or any(
        name.startswith(_OF_MMDETECTION) for name in native.left_out
    ):
        return "mmdetection"
    if native.prefix == "backbone." or versions & _OF_MMPRETRAIN:
        return "mmpretrain"
    of_timm = {"arch", "version", "metric"} <= set(contents.beside)
    if kind == "safetensors" or contents.envelope == "state_dict_ema" or of_timm:
        return "timm"
    return "torchvision"


def _find_preprocessing(
    format: str, contents: Contents, native: NativeWeights, architecture: Architecture | None
) -> str | Preprocessing | None:
    """Return a key of ``KNOWN``, or the preprocessing that the file describes, or None."""
    beside, state = contents.beside, native.state
    if format in ("torchvision", "timm"):
        # mmdetection's converter makes such names of Caffe's ResNets: alone under "state_dict" and
        # without counters. It folds the norms too, which nothing else of these names does.
        counted = any(name.endswith("num_batches_tracked") for name in state)
        alone = contents.envelope == "state_dict" and set(beside) <= {"meta"}
        may_be_caffe = not counted and (alone or find_batch_norm(state) == "folded")
        return None if may_be_caffe else "torchvision"
    if format in ("mmpretrain", "mmdetection"):
        return _read_openmmlab(format, beside.get("meta"), architecture)
    if format == "pycls":
        return _read_pycls(beside.get("cfg"))
    if format == "torch7":
        return "paper"
    if format == "caffe2":
        return _find_detectron(state, architecture)
    author = beside.get("__author__")
    if format == "detectron2" and isinstance(author, str):
        for word in ("torchvision", "timm", "pycls", "mmpretrain"):
            if word in author.lower():
                return "torchvision" if word == "timm" else word
        if re.search("msra|fair|facebook|caffe2|detectron", author.lower()):
            return _find_detectron(state, architecture)
    return None


def _read_openmmlab(
    format: str, meta: Any, architecture: Architecture | None
) -> str | Preprocessing | None:
    """Read the configuration in ``meta``, a text.

    Without one, mmpretrain has one preprocessing, and mmdetection several.
    """
    values = [meta.get(key) for key in ("config", "cfg")] if isinstance(meta, dict) else []
    texts = [value[:_LONGEST_TEXT] for value in values if isinstance(value, str)]
    if not texts:
        several = architecture is None or architecture.cardinality == 1 or architecture.width == 8
        return None if format == "mmdetection" and several else "mmpretrain"
    number = r"\s*(-?\d+(?:\.\d*)?)\s*"
    triple = rf"[\"']?\s*[=:]\s*[\[(]{number},{number},{number},?\s*[\])]"
    means, stds, to_rgb, styles = (
        set(re.findall(pattern, texts[0]))
        for pattern in (
            rf"\bmean{triple}",
            rf"\bstd{triple}",
            r"\b(?:bgr_)?to_rgb[\"']?\s*[=:]\s*(True|False)",
            r"\bstyle[\"']?\s*[=:]\s*[\"'](pytorch|caffe)[\"']",
        )
    )
    if not len(means) == len(stds) == len(to_rgb) == 1 or len(styles) > 1:
        return None
    found = Preprocessing.from_dict(
        {
            **KNOWN["mmpretrain"].as_dict(),
            "channel_order": "RGB" if to_rgb == {"True"} else "BGR",
            "mean": [*map(float, means.pop())],
            "std": [*map(float, stds.pop())],
            "stride_in_1x1": styles == {"caffe"},
        }
    )
    return "mmpretrain" if found == KNOWN["mmpretrain"] else found


def _read_pycls(text: Any) -> str | Preprocessing:
    """Read pycls's configuration: networks of MODEL.TYPE resnet may have the stride in the 1x1."""
    text = text[:_LONGEST_TEXT] if isinstance(text, str) else ""

    def find(node: str, line: str) -> re.Match[str] | None:
        return re.search(rf"^{node}:\n(?: .*\n)*?  {line}$", text, re.MULTILINE)

    epsilon = find("BN", r"EPS: (\S+)")
    if epsilon and float(epsilon[1]) != _EPS:
        raise ValueError(
            f"its batch norms have the epsilon {epsilon[1]:.20}, where ours have {_EPS}; give "
            "weights of that epsilon"
        )
    if find("MODEL", "TYPE: resnet") and find("RESNET", "STRIDE_1X1: true"):
        return replace(KNOWN["pycls"], stride_in_1x1=True)
    return "pycls"


def _find_detectron(state: Mapping[str, Tensor], architecture: Architecture | None) -> str | None:
    if architecture is None or "stem.conv1.norm.running_var" not in state:  # with group norms
        return None
    if find_batch_norm(state) == "folded":
        return "detectron1"
    if str(architecture) in ("R-50", "R-101", "R-152"):
        return "msra"
    return "fair" if str(architecture) == "X-101-32x8d" else None


def _read_metadata(beside: Mapping[str, Any]) -> dict[str, str]:
    """Read the short texts that ``write_weights`` wrote, and detectron2's author."""
    own = beside.get("metadata")
    texts = {str(key): value for key, value in own.items()} if isinstance(own, dict) else {}
    texts.setdefault("author", beside.get("__author__"))
    return {
        key[:_LONGEST_NOTE]: text[:_LONGEST_NOTE]
        for key, text in texts.items()
        if isinstance(text, str)
    }
