"""A file of weights of any known format, read: the weights under our names, whose they are, and what they need."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from resnext_det.architecture import Architecture
from resnext_det.weights.containers import Contents, read_container, unpacked
from resnext_det.weights.formats import NativeWeights, in_form_c, to_native
from resnext_det.weights.preprocessing import KNOWN, Preprocessing, batch_norm_of
from resnext_det.weights.publishers import class_names_of, source_of
from resnext_det.weights.recognition import recognise
from resnext_det.weights.torch7_models import resnext_state_of_torch7

_CATALOG = "resnext://"
_ADDRESSES: tuple[str, ...] = (
    "http:",
    "https:",
    "ftp:",
    "detectron2:",
    "catalog:",
    "s3:",
    "hdfs:",
    "manifold:",
)
_ADDRESSES += ("torchvision:", "timm:", "hf-hub:", "open-mmlab:", "modelzoo:")


@dataclass(frozen=True)
class WeightFile:
    """Weights out of a file.

    Attributes:
        path: where they are from.
        format: ``torchvision``, ``timm``, ``mmpretrain``, ``mmdetection``, ``detectron2``, ``caffe2`` (Detectron 1 and detectron2's
            MSRA and FAIR), ``pycls``, ``torch7`` (the paper's), ``native`` (what ``write_weights`` writes), or ``detector``: a whole
            detector in our names, which are detectron2's.
        state: the weights under our names: stem.conv1.weight, res2.0.conv1.norm.weight, linear.weight; a detector's under its own.
        architecture: recognised from the shapes; None where they are of no ResNeXt.
        preprocessing: what the weights need; None where neither the file nor a known source tells.
        metadata: author, licence, top1, url ..., as far as they are known.
        left_out: names in the file that are no part of a backbone or classifier, such as another library's detection heads.
        class_names: of a classifier's outputs, in their order; None where the file does not tell.
    """

    path: str
    format: str
    state: dict[str, Tensor] = field(repr=False)
    architecture: Architecture | None = None
    preprocessing: Preprocessing | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = field(default=(), repr=False)
    class_names: tuple[str, ...] | None = field(default=None, repr=False)


def read_weights(source: str | Path, *, mapped: bool = False) -> WeightFile:
    """Read weights of any known format, told by the contents and not by the name. No code in the file is run.

    Args:
        source: the path of a file, or a name of the catalog (``resnext://torchvision/X-50-32x4d``), which is downloaded on first use.
        mapped: tensors may be parts of the mapped file and take memory only where they are used. The file must then stay as it is as
            long as they live.

    Raises:
        FileNotFoundError: there is no such file, or it cannot be downloaded.
        ValueError: the file is damaged, of another format, would run code, or its names are of no known network.
    """
    if str(source).startswith(_CATALOG):
        return _from_catalog(str(source), mapped=mapped)
    if str(source).startswith(_ADDRESSES):
        raise ValueError(
            f"MODEL.WEIGHTS = {source!s:.200} is an address, and nothing is downloaded from there; download it yourself and give the "
            f"file's path, or a name of the catalog ({_CATALOG}torchvision/X-50-32x4d)"
        )
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"weights {path} are not there; give the path of a file (MODEL.WEIGHTS, in a configuration)"
        )
    kind, found = read_container(path, mapped=mapped)
    try:
        contents, native = _named(kind, found)
        architecture = recognise(native.state)
        source_found = source_of(kind, contents, native, architecture)
    except ValueError as error:
        raise ValueError(f"weights {path}: {error}") from error
    return WeightFile(
        path=str(path),
        format=source_found.format,
        state=native.state,
        architecture=architecture,
        preprocessing=source_found.preprocessing,
        metadata=source_found.metadata,
        left_out=native.left_out,
        class_names=class_names_of(contents, native),
    )


def _named(kind: str, found: object) -> tuple[Contents, NativeWeights]:
    if kind == "torch7":
        state = resnext_state_of_torch7(found)
        return Contents(state, {}, ""), NativeWeights("torch7", state)
    contents = unpacked(found)
    return contents, to_native(in_form_c(contents.state))


def _from_catalog(name: str, *, mapped: bool) -> WeightFile:
    """What the catalog says of a file is of its publisher, and so goes before what its names suggest."""
    from resnext_det.weights.catalog import locate

    path, entry = locate(name)
    file = read_weights(path, mapped=mapped)
    if file.architecture != entry.architecture:
        raise ValueError(
            f"{path} holds {file.architecture or 'no ResNeXt'}, and {name} is {entry.architecture}; remove the file, and it is "
            "downloaded anew"
        )
    preprocessing = replace(KNOWN[entry.preprocessing], batch_norm=batch_norm_of(file.state))
    facts = {"name": name, "url": entry.url, "page": entry.page, "licence": entry.licence}
    facts["top1"] = None if entry.top1 is None else str(entry.top1)
    facts |= {"resize_test": str(entry.resize), "interpolation": entry.interpolation}
    known = {key: value for key, value in facts.items() if value is not None}
    return replace(file, preprocessing=preprocessing, metadata={**file.metadata, **known})
