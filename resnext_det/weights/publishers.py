"""Find who published a weight file and which preprocessing it needs, from its metadata or, failing
that, its publisher.

Where neither tells, the preprocessing stays unknown: a wrong one costs accuracy without an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from resnext_det.architecture import Architecture
from resnext_det.weights.containers import Contents
from resnext_det.weights.formats import NativeWeights
from resnext_det.weights.preprocessing import KNOWN, Preprocessing, find_batch_norm, list_fields
from resnext_det.weights.training_arguments import ORIGIN, read_arguments

_LONGEST_TEXT = 1 << 20
_LONGEST_NOTE = 500
_EPS = 1e-5
FROM_WEIGHTS = "the weights"
"""The origin of what tensors prove, such as their kind of batch norm."""
FROM_FILE = "the file"
"""The origin of what a file says of itself."""
_USUAL = "usual for "
_OF_CONVERTED = "'s converted files"
_IS_USUAL = re.compile(rf"{_USUAL}[\w. -]{{1,40}}'s (?:converted )?files", re.ASCII)
_NAMES = {
    "msra": "MSRA",
    "fair": "FAIR",
    "detectron1": "Detectron",
    "paper": "fb.resnet.torch",
    "classy_vision": "Classy Vision",
}
# Formats whose preprocessing is another's, and whose name says more about a file.
_OF_THEIR_OWN = ("timm", "mmdetection", "classy_vision", "pytorchcv", "pretrainedmodels")
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
_WRAPPED = r"(?:(?:module|_orig_mod|model|network|net)\.)*"
_OF_MMDETECTION = re.compile(rf"{_WRAPPED}(?:neck|rpn_head|roi_head|bbox_head|mask_head)\.")
_OF_MMPRETRAINS_BACKBONE = re.compile(rf"{_WRAPPED}backbone\.")
# The images of a test, as ``classification.protocols`` understands them.
_ANY, _SIDE = re.compile(r".*", re.DOTALL), re.compile(r"[1-9]\d{1,3}", re.ASCII)
_OF_TESTS = {
    **{"size_test": _SIDE, "resize_test": _SIDE},
    "interpolation": re.compile("bilinear|bicubic|torch7_bicubic"),
}
_OF_MMPRETRAIN = {"mmcls_version", "mmpretrain_version", "mmengine_version"}
# The words that write_weights writes beside weights, each with a field that it has there: other
# libraries may use the words for something else.
_OWN_WORDS = {"preprocessing": "channel_order", "architecture": "cardinality"}


class Publisher(NamedTuple):
    """The format, preprocessing and metadata of a weight file, found by who published it.

    Attributes:
        format, preprocessing, metadata, origins: see ``WeightFile``.
    """

    format: str
    preprocessing: Preprocessing | None
    metadata: dict[str, str]
    origins: dict[str, str]


class _Found(NamedTuple):
    """A preprocessing, and where it is from.

    Attributes:
        preprocessing: a key of ``KNOWN``, or what the file describes.
        origin: "" where the names of the weights alone speak for it, so that it is only usual.
    """

    preprocessing: str | Preprocessing
    origin: str = ""


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
    origins = _read_origins(contents.beside, metadata)
    if "preprocessing" in _own_words(contents.beside):
        own = Preprocessing.from_dict(contents.beside["preprocessing"])
        origins |= _read_origins(contents.beside, list_fields())
        return Publisher(format, own, metadata, origins)
    found = _find_preprocessing(format, contents, native, architecture)
    if found is None:
        return Publisher(format, None, metadata, origins)
    known, origin = found
    usual_origin = name_usual(format if format in _OF_THEIR_OWN else str(known))
    batch_norm = find_batch_norm(native.state)
    if isinstance(known, Preprocessing):
        preprocessing = replace(known, batch_norm=batch_norm)
    else:
        preprocessing = replace(KNOWN[known], batch_norm=batch_norm)
        usual = {
            "license": _LICENSES[known],
            # How images were resized in testing: by Pillow's bilinear filter or OpenCV's, near it.
            "interpolation": "torch7_bicubic" if known == "paper" else "bilinear",
        }
        origins = {**dict.fromkeys(usual, usual_origin), **origins}
        metadata = {**usual, **metadata}
        plain = architecture is not None and architecture.cardinality == 1
        if known == "detectron1" and plain and batch_norm == "folded":
            preprocessing = replace(preprocessing, stride_in_1x1=True)  # those are MSRA's
    origins |= dict.fromkeys(list_fields(), origin or usual_origin) | {"batch_norm": FROM_WEIGHTS}
    if format in ("torchvision", "timm"):
        told = read_arguments(contents.beside.get("args"))
        preprocessing = replace(preprocessing, **told.images)
        metadata |= told.metadata
        origins |= dict.fromkeys((*told.images, *told.metadata), ORIGIN)
    return Publisher(format, preprocessing, metadata, origins)


def is_usual(origin: object) -> bool:
    """Tell whether an origin is that of a default, and not of a fact; see ``WeightFile``."""
    return isinstance(origin, str) and origin.startswith(_USUAL)


def name_usual(publisher: str) -> str:
    """Name the origin of what is usual: "usual for torchvision's files"."""
    return f"{_USUAL}{_NAMES.get(publisher, publisher)}'s files"


def name_converted(usual: str) -> str:
    """Name the origin of what was converted from what is usual for a publisher's files."""
    return usual if is_converted(usual) else usual.removesuffix("'s files") + _OF_CONVERTED


def is_converted(origin: object) -> bool:
    """Tell whether an origin is of what was converted from a default."""
    return is_usual(origin) and str(origin).endswith(_OF_CONVERTED)


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
    if "mmdet_version" in versions or any(_OF_MMDETECTION.match(name) for name in native.left_out):
        return "mmdetection"
    if _OF_MMPRETRAINS_BACKBONE.fullmatch(native.prefix) or versions & _OF_MMPRETRAIN:
        return "mmpretrain"
    of_timm = {"arch", "version", "metric"} <= set(contents.beside)
    if kind == "safetensors" or contents.envelope == "state_dict_ema" or of_timm:
        return "timm"
    return "torchvision"


def _find_preprocessing(
    format: str, contents: Contents, native: NativeWeights, architecture: Architecture | None
) -> _Found | None:
    """Find the preprocessing that the file tells, or that is usual; None where there is neither.

    Weights of no network here have none, and neither have those for images of other than three
    channels: another library's file of familiar names is none of these publishers'.
    """
    beside, state = contents.beside, native.state
    stem = state.get(
        "backbone.bottom_up.stem.conv1.weight" if native.library else "stem.conv1.weight"
    )
    if architecture is None or stem is None or stem.shape[1] != 3:
        return None
    if native.library:
        return _Found(native.library)
    if format in ("torchvision", "timm"):
        # mmdetection's converter makes such names of Caffe's ResNets: alone under "state_dict" and
        # without counters. It folds the norms too, which nothing else of these names does.
        counted = any(name.endswith("num_batches_tracked") for name in state)
        alone = contents.envelope == "state_dict" and set(beside) <= {"meta"}
        may_be_caffe = not counted and (alone or find_batch_norm(state) == "folded")
        return None if may_be_caffe else _Found("torchvision")
    if format in ("mmpretrain", "mmdetection"):
        return _read_openmmlab(format, beside.get("meta"), architecture)
    if format == "pycls":
        return _read_pycls(beside.get("cfg"))
    if format in ("torch7", "pretrainedmodels"):  # the latter has the paper's own, converted
        return _Found("paper")
    # A ResNet of pytorchcv has the stride in its 1x1 or not, and its names do not tell.
    if format == "classy_vision" or (format == "pytorchcv" and architecture.cardinality > 1):
        return _Found("torchvision")
    if format == "caffe2":
        found = _find_detectron(state, architecture)
        return _Found(found) if found else None
    author = beside.get("__author__")
    if format == "detectron2" and isinstance(author, str):
        for word in ("torchvision", "timm", "pycls", "mmpretrain"):
            if word in author.lower():  # as converters write it, whoever trained the weights
                return _Found("torchvision" if word == "timm" else word)
        if re.search("msra|fair|facebook|caffe2|detectron", author.lower()):
            found = _find_detectron(state, architecture)
            return _Found(found, "the author in the file") if found else None
    return None


def _read_openmmlab(format: str, meta: Any, architecture: Architecture) -> _Found | None:
    """Read the configuration in ``meta``, a text.

    Without one, mmpretrain has one preprocessing, and mmdetection several.
    """
    values = [meta.get(key) for key in ("config", "cfg")] if isinstance(meta, dict) else []
    texts = [value[:_LONGEST_TEXT] for value in values if isinstance(value, str)]
    if not texts:
        several = architecture.cardinality == 1 or architecture.width == 8
        return None if format == "mmdetection" and several else _Found("mmpretrain")
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
    known = "mmpretrain" if found == KNOWN["mmpretrain"] else found
    return _Found(known, "the configuration in the file")


def _read_pycls(text: Any) -> _Found:
    """Read pycls's configuration: networks of MODEL.TYPE resnet may have the stride in the 1x1.

    Channel order, mean and std are constants of pycls's code.
    """
    origin = "the configuration in the file" if isinstance(text, str) and text else ""
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
        return _Found(replace(KNOWN["pycls"], stride_in_1x1=True), origin)
    return _Found("pycls", origin)


def _find_detectron(state: Mapping[str, Tensor], architecture: Architecture) -> str | None:
    if "stem.conv1.norm.running_var" not in state:  # with group norms
        return "detectron1" if str(architecture) in ("R-50", "R-101") else None
    if find_batch_norm(state) == "folded":
        return "detectron1"
    if str(architecture) in ("R-50", "R-101", "R-152"):
        return "msra"
    return "fair" if str(architecture) == "X-101-32x8d" else None


def _read_origins(beside: Mapping[str, Any], facts: Iterable[str]) -> dict[str, str]:
    """Read where a file's own words are from: ``write_weights`` wrote which were only usual."""
    said = beside.get("origins")
    usual = said if isinstance(said, dict) else {}
    origins = {fact: usual[fact] if is_usual(usual.get(fact)) else FROM_FILE for fact in facts}
    return {
        fact: origin
        if origin == FROM_FILE or _IS_USUAL.fullmatch(origin)
        else name_usual("its publisher")
        for fact, origin in origins.items()
    }


def _read_metadata(beside: Mapping[str, Any]) -> dict[str, str]:
    """Read the short texts that ``write_weights`` wrote, and detectron2's author.

    Sizes and interpolations with which no test is made here are left out: other programs write
    such words too.
    """
    own = beside.get("metadata")
    texts = {str(key): value for key, value in own.items()} if isinstance(own, dict) else {}
    texts.setdefault("author", beside.get("__author__"))
    return {
        key[:_LONGEST_NOTE]: text[:_LONGEST_NOTE]
        for key, text in texts.items()
        if isinstance(text, str) and _OF_TESTS.get(key, _ANY).fullmatch(text)
    }
