"""Read a file of weights: under our names, with their network, publisher and preprocessing."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from resnext_det.architecture import Architecture
from resnext_det.files import list_first
from resnext_det.weights.containers import (
    Contents,
    find_damage,
    read_container,
    unpack_weights,
)
from resnext_det.weights.formats import NativeWeights, convert_to_native
from resnext_det.weights.health import tell_not_finite
from resnext_det.weights.preprocessing import KNOWN, Preprocessing, find_batch_norm, list_fields
from resnext_det.weights.published import hub, model_zoo
from resnext_det.weights.published.timm_config import CONFIG, read_config, read_facts
from resnext_det.weights.publishers import (
    FROM_WEIGHTS,
    find_publisher,
    is_converted,
    is_usual,
    name_usual,
    read_class_names,
)
from resnext_det.weights.structure import find_architecture, guess_architecture
from resnext_det.weights.torch7_models import convert_torch7_network
from resnext_det.weights.trained_detector import KEY, TrainedDetector
from resnext_det.weights.training_arguments import check_network

if TYPE_CHECKING:
    from resnext_det.weights.published.catalog_entries import Entry

logger = logging.getLogger(__name__)

_CATALOG = "resnext://"
_ADDRESS = re.compile(r"[a-z][a-z0-9_-]+:", re.IGNORECASE)  # https:, detectron2:, s3:, hf-hub: ...


@dataclass(frozen=True)
class WeightFile:
    """The weights of a file and what is known of them.

    Attributes:
        path: of the file.
        format: ``torchvision``, ``timm``, ``mmpretrain``, ``mmdetection``, ``detectron2``,
            ``caffe2`` (Detectron 1 and detectron2's MSRA and FAIR), ``pycls``, ``torch7`` (the
            paper's), ``native`` (what ``write_weights`` writes), or ``detector``, a whole one.
        state: the weights under our names: stem.conv1.weight, res2.0.conv1.norm.weight,
            linear.weight; a detector's under its own.
        architecture: found by the shapes; None where they are of no ResNeXt.
        preprocessing: which the weights need; None where it is not known.
        metadata: author, license, top1, url ..., as far as they are known.
        origins: where each fact is from: a field of ``preprocessing`` or a key of ``metadata``, and
            short words, such as "the file", "config.json", "the catalog", "the weights" (what
            tensors prove), or "usual for torchvision's files" for what is no fact but a default.
        prefix: what stands before the network's names in the file, without names of wrappers such
            as ``module.``.
        left_out: names in the file that are no part of a backbone or classifier, such as another
            library's detection heads.
        passed_over: other networks of the file, such as copies that a training keeps: the word
            under which each stands, or its prefix, with how to choose it.
        class_names: of a classifier's or detector's outputs, in their order; None where the file
            does not tell.
        detector: what the file says of the trained detector in it; None where it says nothing, as
            plain detectron2's do.
    """

    path: str
    format: str
    state: dict[str, Tensor] = field(repr=False)
    architecture: Architecture | None = None
    preprocessing: Preprocessing | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict, repr=False)
    left_out: tuple[str, ...] = field(default=(), repr=False)
    passed_over: tuple[str, ...] = ()
    prefix: str = ""
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
    detector: TrainedDetector | None = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        """Name the kind of network: "detector", "classifier" or "backbone"."""
        if self.format == "detector":
            return "detector"
        return "classifier" if "linear.weight" in self.state else "backbone"

    @cached_property
    def not_finite(self) -> str | None:
        """Say which numbers are NaN or infinite; None where all are finite.

        The numbers are looked at once, on first use.
        """
        return tell_not_finite(self.state)

    def refuse_unusable(self) -> None:
        """Refuse weights with which no work can begin.

        Raises:
            ValueError: they are neither a detector's nor of a network that is recognized, some of
                their numbers are NaN or infinite, or are not what the checksums in the file say;
                the text says what to do.
        """
        try:
            if os.path.isfile(self.path) and (damage := find_damage(self.path)):
                raise ValueError(damage)
            if self.architecture is None and self.format != "detector":
                find_architecture(self.state)
            if self.not_finite:
                raise ValueError(self.not_finite)
        except ValueError as error:
            raise ValueError(f"weights {self.path}: {error}") from error

    def is_usual(self, fact: str) -> bool:
        """Tell whether a field of ``preprocessing`` or key of ``metadata`` is only a default.

        Names tell the network and not how it was trained: such a default gives way to whatever is
        stated.
        """
        return is_usual(self.origins.get(fact))


def read_weights(
    source: str | Path, *, mapped: bool = False, prefix: str | None = None
) -> WeightFile:
    """Read weights of any known format, recognized by content; no code in the file is run.

    Args:
        source: the path of a file, or a name of the catalog (``resnext://torchvision/X-50-32x4d``),
            of the Hugging Face hub (``hf-hub:timm/resnext50_32x4d.a1h_in1k``) or of detectron2's
            model zoo (``detectron2://...pkl``), which is downloaded on first use, or a folder with
            a model.safetensors, as ``hf download`` makes it. A config.json of timm's beside the
            weights tells their preprocessing.
        mapped: tensors may be parts of the mapped file and take memory only where they are used.
            The file must then stay as it is as long as they live.
        prefix: of the network to read, where the file has several: what stands before its names,
            such as ``student.backbone.``.

    Raises:
        FileNotFoundError: there is no such file, or it cannot be downloaded.
        ValueError: the file is damaged, of another format, would run code, or its names are of no
            known network.
    """
    source = model_zoo.find_catalog_name(str(source)) or source
    if str(source).startswith(_CATALOG):
        return _read_from_catalog(str(source), mapped=mapped, prefix=prefix)
    if str(source).startswith(hub.PREFIX):
        path = hub.download_from_hub(str(source))
        return _read_with_config(path, str(source), mapped=mapped, prefix=prefix)
    if model_zoo.is_in_zoo(str(source)):
        source = model_zoo.locate_zoo_file(str(source))
    path = Path(source).expanduser()
    if _ADDRESS.match(str(source)) and not os.path.exists(path):
        raise ValueError(
            f"MODEL.WEIGHTS = {source!s:.200} is an address, and nothing is downloaded from there; "
            "download it yourself and give the file's path, a name of the catalog "
            f"({_CATALOG}torchvision/X-50-32x4d), detectron2://PATH.pkl for a file of detectron2's "
            f"model zoo, or {hub.PREFIX}OWNER/NAME for a repository of the Hugging Face hub"
        )
    if os.path.isdir(path):
        path = hub.find_weights(path)
    if hub.may_have_config(path):
        return _read_with_config(path, None, mapped=mapped, prefix=prefix)
    from resnext_det.weights.published.catalog import recognize

    file, entry = _read_file(path, mapped=mapped, prefix=prefix), recognize(path)
    if entry is None or entry.architecture != file.architecture:
        return file
    return _add_entry(file, entry)


def _read_file(path: Path, *, mapped: bool, prefix: str | None) -> WeightFile:
    kind, found = read_container(path, mapped=mapped)
    try:
        if kind == "torch7":
            state = convert_torch7_network(found)
            contents, native = Contents(state, {}, ""), NativeWeights("torch7", state)
            if prefix:
                raise ValueError(
                    f"there are no names in a Torch 7 file, and so no prefix {prefix!a:.80}; leave "
                    "--prefix out"
                )
        else:
            contents = unpack_weights(found, path)
            native = convert_to_native(contents.state, prefix)
            check_network(contents.beside, path.name)
        architecture = guess_architecture(native.state)
        publisher = find_publisher(kind, contents, native, architecture)
        said, detector = contents.beside.get(KEY), None
        # Another program's entry of this name is none of ours.
        if publisher.format == "detector" and isinstance(said, Mapping) and "config" in said:
            detector = TrainedDetector.from_dict(said)
    except ValueError as error:
        raise ValueError(f"weights {path}: {error}") from error
    if native.prefix:
        logger.info("%s: the network under the prefix %s is read.", path, ascii(native.prefix)[:99])
    passed_over = [f"{word!a:.80}" for word in contents.passed_over]
    passed_over += [
        f"{each!a:.80} (--prefix {shlex.quote(each)!s:.80} chooses it)"
        for each in native.passed_over
    ]
    if passed_over:
        told = list_first(passed_over, 4)
        logger.info("%s has other networks, which are passed over: %s.", path, told)
    return WeightFile(
        path=str(path),
        format=publisher.format,
        state=native.state,
        architecture=architecture,
        preprocessing=publisher.preprocessing,
        metadata=publisher.metadata,
        origins=publisher.origins,
        left_out=(*contents.left_out, *native.left_out),
        passed_over=tuple(passed_over),
        prefix=native.prefix,
        class_names=(detector and detector.class_names) or read_class_names(contents, native),
        detector=detector,
    )


def _read_from_catalog(name: str, *, mapped: bool, prefix: str | None) -> WeightFile:
    from resnext_det.weights.published.catalog import locate

    path, entry = locate(name)
    file = _read_file(path, mapped=mapped, prefix=prefix)
    if file.architecture != entry.architecture:
        raise ValueError(
            f"{path} holds {file.architecture or 'no ResNeXt'}, and {name} is "
            f"{entry.architecture}; remove the file, and it is downloaded anew"
        )
    return _add_entry(file, entry)


def _add_entry(file: WeightFile, entry: Entry) -> WeightFile:
    """Add what the catalog knows, which goes before what the names in the file suggest."""
    preprocessing = replace(KNOWN[entry.preprocessing], batch_norm=find_batch_norm(file.state))
    facts: dict[str, object] = {"name": entry.name, "resize_test": entry.resize}
    keys = ("url", "page", "license", "top1", "interpolation")
    facts |= {key: getattr(entry, key) for key in keys}
    known = {key: str(value) for key, value in facts.items() if value not in (None, "")}
    # A publisher's usual interpolation is that of its published files.
    origins = dict.fromkeys((*known, "interpolation", *list_fields()), "the catalog")
    return replace(
        file,
        preprocessing=preprocessing,
        metadata={**file.metadata, **known},
        origins={**file.origins, **origins, "batch_norm": FROM_WEIGHTS},
    )


def _read_with_config(
    path: Path, name: str | None, *, mapped: bool, prefix: str | None
) -> WeightFile:
    """Read weights laid out as the hub's: what the config.json beside them tells are facts.

    What the file itself states goes before it.

    Args:
        name: in the hub; None for a folder of the user's.
    """
    config = read_config(path.parent)
    file = _read_file(path, mapped=mapped, prefix=prefix)
    if name is not None:
        known = {"name": name, "commit": path.parent.name}
        origins = file.origins | dict.fromkeys(known, "the hub")
        file = replace(file, metadata=file.metadata | known, origins=origins)
    if config is None or file.format == "detector":
        return file
    facts = read_facts(path.parent, config, file.state, file.architecture)
    origins = dict(file.origins)

    def is_open(fact: str) -> bool:
        # What was converted is of this file, and the config.json of the one before.
        origin = origins.get(fact)
        return origin is None or (is_usual(origin) and not is_converted(origin))

    metadata = {key: text for key, text in facts.metadata.items() if is_open(key)}
    preprocessing, taken = file.preprocessing, set(metadata)
    if facts.preprocessing is not None and (preprocessing is None or is_open("mean")):
        preprocessing, taken = facts.preprocessing, taken | set(list_fields())
    usual = name_usual("timm")
    origins |= {fact: CONFIG if fact in facts.stated else usual for fact in taken}
    return replace(
        file,
        format="timm" if file.format == "torchvision" else file.format,
        preprocessing=preprocessing,
        metadata=file.metadata | metadata,
        origins=origins | {"batch_norm": FROM_WEIGHTS},
        class_names=file.class_names or facts.class_names,
    )
