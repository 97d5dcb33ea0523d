"""List the published ImageNet weights, each figure from the page that its entry names, and a small
network that travels with the package.

A checksum is what the publisher writes into the file's name: the first eight digits of its SHA-256.
Who writes none has None here; a download is then held to its size, and Detectron's to the MD5
beside it. A top-1 accuracy is the published one, of one 224x224 crop in the publisher's own test;
where a file is another one's converted copy, it is the original's. A license is that of the weights
or, where the publisher states none for them (torchvision, mmpretrain, pycls), of its project.
ImageNet itself was given for research only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from resnext_det.architecture import Architecture
from resnext_det.files import cache_folder

PREFIX = "resnext://"
"""The beginning of every name of the catalog."""


@dataclass(frozen=True)
class Entry:
    """A published file of weights.

    Attributes:
        name: in the catalog, as ``resnext://torchvision/X-50-32x4d``.
        url: of the file, https; "" for one that travels with the package.
        architecture: the network.
        preprocessing: a key of ``preprocessing.KNOWN``.
        license: its SPDX identifier.
        top1: accuracy on ImageNet-1k's validation images, per cent; None where none is published.
            Of the network of this package, on shape_images_val.
        page: where the figures are from.
        sha256: the file's SHA-256, or its first digits; None where none is published.
        md5_url: where the publisher gives the file's MD5, for a download to be checked with.
        mebibytes: the file's size, rounded; None where none is published.
        resize: the shorter side of images before the crop of 224 pixels, in the test of top1.
        interpolation: of that resizing; None for what is known of the publisher.
    """

    name: str
    url: str
    architecture: Architecture
    preprocessing: str
    license: str
    top1: float | None
    page: str
    sha256: str | None = None
    md5_url: str | None = None
    mebibytes: float | None = None
    resize: int = 256
    interpolation: str | None = None

    @property
    def is_shipped(self) -> bool:
        """Tell whether the file travels with the package and is never downloaded."""
        return not self.url

    @property
    def path(self) -> Path:
        """Name the file's place: in the package, or in the cache, where it may be put by hand."""
        publisher, _, network = self.name.removeprefix(PREFIX).rpartition("/")
        if self.is_shipped:
            return Path(__file__).parents[1] / publisher / f"{network}.safetensors"
        return cache_folder() / publisher / urlsplit(self.url).path.rpartition("/")[2]

    @property
    def smallest_size(self) -> int:
        """Bytes that the file has at least: 99 % of its published size, or those of a backbone."""
        if self.mebibytes is not None:
            return int(self.mebibytes * 0.99 * 2**20)
        return 4 * self.architecture.num_parameters(None)

    @property
    def verification(self) -> str:
        """The check of a download, beside the size that the server states."""
        if self.sha256:
            return f"SHA-256 {self.sha256[:8]}..."
        return "MD5 beside the file" if self.md5_url else "size"


_Row = tuple[str, str, float | None] | tuple[str, str, float | None, float]


def _make_entries(
    publisher: str,
    base: str,
    *rows: _Row,
    license: str,
    page: str,
    preprocessing: str = "",
    md5: bool = False,
    resized_to_232: Sequence[str] = (),
    interpolation: str | None = None,
) -> list[Entry]:
    """Make the entries of a publisher; a row is the name, the rest of the address, the accuracy
    and, where it is published, the size."""
    entries = []
    for name, rest, top1, *size in rows:
        url = f"{base}/{rest}"
        found = re.search(r"-([0-9a-f]{8})\.pth", url)
        entries.append(
            Entry(
                name=f"{PREFIX}{publisher}/{name}",
                url=url,
                architecture=Architecture.parse(re.sub(r"-(V2|IN5k|GN)$", "", name)),
                preprocessing=preprocessing or publisher,
                license=license,
                top1=top1,
                page=page,
                sha256=found[1] if found else None,
                md5_url=f"{url}.md5sum" if md5 else None,
                mebibytes=size[0] if size else None,
                resize=232 if name in resized_to_232 else 256,
                interpolation=interpolation,
            )
        )
    return entries


# V2 is torchvision's later recipe of 600 epochs; X-101-64x4d was only trained by that one.
_TORCHVISION = _make_entries(
    "torchvision",
    "https://download.pytorch.org/models",
    ("R-50", "resnet50-0676ba61.pth", 76.130, 97.781),
    ("R-50-V2", "resnet50-11ad3fa6.pth", 80.858, 97.790),
    ("X-50-32x4d", "resnext50_32x4d-7cdf4587.pth", 77.618, 95.789),
    ("X-50-32x4d-V2", "resnext50_32x4d-1a0047aa.pth", 81.198, 95.833),
    ("R-101", "resnet101-63fe2227.pth", 77.374, 170.511),
    ("R-101-V2", "resnet101-cd907fc2.pth", 81.886, 170.530),
    ("X-101-32x8d", "resnext101_32x8d-8ba56ff5.pth", 79.312, 339.586),
    ("X-101-32x8d-V2", "resnext101_32x8d-110c445d.pth", 82.834, 339.673),
    ("X-101-64x4d", "resnext101_64x4d-173b62eb.pth", 83.246, 319.318),
    license="BSD-3-Clause",
    page="https://github.com/pytorch/vision/blob/main/torchvision/models/resnet.py",
    resized_to_232=("R-50-V2", "X-50-32x4d-V2", "R-101-V2", "X-101-32x8d-V2", "X-101-64x4d"),
)

_MMPRETRAIN = _make_entries(
    "mmpretrain",
    "https://download.openmmlab.com/mmclassification/v0",
    ("R-50", "resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth", 76.55),
    ("X-50-32x4d", "resnext/resnext50_32x4d_b32x8_imagenet_20210429-56066e27.pth", 77.90),
    ("R-101", "resnet/resnet101_8xb32_in1k_20210831-539c63f8.pth", 77.97),
    ("X-101-32x4d", "resnext/resnext101_32x4d_b32x8_imagenet_20210506-e0fa3dd5.pth", 78.61),
    ("X-101-32x8d", "resnext/resnext101_32x8d_b32x8_imagenet_20210506-23a247d5.pth", 79.27),
    license="Apache-2.0",
    page="https://github.com/open-mmlab/mmpretrain/tree/main/configs "
    "(resnet/metafile.yml and resnext/metafile.yml)",
)

# GluonCV's weights, converted and measured by timm.
_GLUON = _make_entries(
    "gluon",
    "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1",
    ("R-50", "gluon_resnet50_v1b-0ebe02e2.pth", 77.580),
    ("X-50-32x4d", "gluon_resnext50_32x4d-e6a097c1.pth", 79.354),
    ("R-101", "gluon_resnet101_v1b-3b017079.pth", 79.306),
    ("X-101-32x4d", "gluon_resnext101_32x4d-b253c8c4.pth", 80.336),
    ("X-101-64x4d", "gluon_resnext101_64x4d-f9a8e184.pth", 80.640),
    preprocessing="torchvision",
    license="Apache-2.0",
    page="https://github.com/huggingface/pytorch-image-models/tree/main "
    "(timm/models/resnet.py and results/results-imagenet.csv)",
    interpolation="bicubic",
)

_PYCLS = _make_entries(
    "pycls",
    "https://dl.fbaipublicfiles.com/pycls/dds_baselines",
    ("R-50", "161235311/R-50-1x64d_dds_8gpu.pyth", 76.810),
    ("X-50-32x4d", "161167411/X-50-32x4d_dds_8gpu.pyth", 78.116),
    ("R-101", "161167170/R-101-1x64d_dds_8gpu.pyth", 78.586),
    ("X-101-32x4d", "161167590/X-101-32x4d_dds_8gpu.pyth", 79.336),
    license="MIT",
    page="https://github.com/facebookresearch/pycls (MODEL_ZOO.md and dev/model_error.json)",
)

_PAPER = _make_entries(
    "paper",
    "https://dl.fbaipublicfiles.com/resnext/imagenet_models",
    ("X-50-32x4d", "resnext_50_32x4d.t7", 77.8, 191),
    ("X-101-32x4d", "resnext_101_32x4d.t7", 78.8, 338),
    ("X-101-64x4d", "resnext_101_64x4d.t7", 79.6, 638),
    license="CC-BY-NC-4.0",
    page="https://github.com/facebookresearch/ResNeXt/blob/main/README.md",
)

_DETECTRON2 = "https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md"
_MSRA = _make_entries(
    "msra",
    "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA",
    ("R-50", "R-50.pkl", 75.3),
    ("R-101", "R-101.pkl", 76.4),
    license="CC-BY-SA-3.0",
    page=f"{_DETECTRON2} (accuracy: https://github.com/KaimingHe/deep-residual-networks)",
)
_FAIR = _make_entries(
    "fair",
    "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/FAIR",
    ("X-101-32x8d", "X-101-32x8d.pkl", None),
    license="CC-BY-SA-3.0",
    page=_DETECTRON2,
)

# X-101-64x4d is the paper's, converted; IN5k was trained on ImageNet-5k, and GN has group norms.
_DETECTRON1 = _make_entries(
    "detectron1",
    "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained",
    ("X-101-64x4d", "FBResNeXt/X-101-64x4d.pkl", 79.6),
    ("X-101-32x8d", "20171220/X-101-32x8d.pkl", None),
    ("X-152-32x8d-IN5k", "25093814/X-152-32x8d-IN5k.pkl", None),
    ("R-50-GN", "47261647/R-50-GN.pkl", None),
    ("R-101-GN", "47592356/R-101-GN.pkl", None),
    license="CC-BY-SA-3.0",
    page="https://github.com/facebookresearch/Detectron/blob/main/MODEL_ZOO.md",
    md5=True,
)

# Its recipe trains it in minutes on a CPU: see resnext_det/weights/shapes/README.md.
_SHAPES = (
    Entry(
        name=f"{PREFIX}shapes/X-26-8x4d",
        url="",
        architecture=Architecture(26, 8, 4, stem_channels=32, res2_channels=64),
        preprocessing="torchvision",
        license="Apache-2.0",
        top1=93.833,
        page="configs/quickstart/classifier_X26_8x4d_shapes.yaml",
        sha256="147934838fd05ad3e38d3e419d84d1824975f70b5f8ce7628613e7d1bb97cd28",
        mebibytes=1.97,
        resize=64,
        interpolation="torch7_bicubic",
    ),
)

_DETECTRON = (*_MSRA, *_FAIR, *_DETECTRON1)
_ALL = (*_TORCHVISION, *_MMPRETRAIN, *_GLUON, *_PYCLS, *_PAPER, *_DETECTRON, *_SHAPES)

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in _ALL}
"""Every entry by its name."""
