"""Small networks of ours with random numbers, and their files, for the tests of weights."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torchvision
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from resnext_det.architecture import Architecture
from resnext_det.config import get_cfg
from resnext_det.config.backbone import write_architecture
from resnext_det.detection.portable.build import build_detector
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.weights import KNOWN
from resnext_det.weights.writing import SUFFIXES

STAGES = ("res2", "res3", "res4", "res5")
SMALL = Architecture(26, 4, 8, stem_channels=8, res2_channels=32)
NARROW50 = Architecture(50, 32, 1, stem_channels=32, res2_channels=64)
"""A network of a depth that detectron2 has; its group norms divide all channels."""
THIN = Architecture(26, 2, 4)  # torchvision's stem and res2, and few weights else
TORCHVISION = KNOWN["torchvision"]
NOTES = {"author": "A. Nother", "license": "CC BY-SA 3.0", "top1": "77.8"}


def list_keys(architecture: Architecture) -> list[Any]:
    return [*chain(*write_architecture(architecture, "MODEL.RESNETS.").items())]


HEAD: list[Any] = [
    *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
    *("MODEL.ROI_BOX_HEAD.NUM_FC", 1, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 3),
]
FPN: list[Any] = [
    *("MODEL.BACKBONE.NAME", "build_resnext_fpn_backbone", "MODEL.FPN.IN_FEATURES", STAGES, *HEAD),
    *("MODEL.RESNETS.OUT_FEATURES", STAGES, "MODEL.RPN.IN_FEATURES", ["p2", "p3"]),
    *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3"], "MODEL.FPN.OUT_CHANNELS", 16),
]
DC5: list[Any] = [
    *("MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.RESNETS.RES5_DILATION", 2, *HEAD),
    *("MODEL.RPN.IN_FEATURES", ["res5"], "MODEL.ROI_HEADS.IN_FEATURES", ["res5"]),
]
# What makes an FPN detector of detectron2's configuration, of few levels.
DETECTRON2_FPN: list[Any] = [
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.IN_FEATURES", STAGES, *HEAD),
    *("MODEL.RESNETS.OUT_FEATURES", STAGES, "MODEL.RPN.IN_FEATURES", ["p2", "p3"]),
    *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3"], "MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64]]),
]
HEADS: dict[str, list[Any]] = {"C4": [], "DC5": DC5, "FPN": FPN}


def configuration(*changes: Any) -> CfgNode:
    """Configure a small C4 detector of 5 classes, with the changes."""
    cfg = get_cfg()
    small = ["MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.ROI_HEADS.NUM_CLASSES", 5]
    cfg.merge_from_list([*list_keys(SMALL), *small, *changes])
    return cfg


def detector(*changes: Any) -> nn.Module:
    return build_detector(configuration(*changes))


def configure_detectron2(*changes: Any, architecture: Architecture = NARROW50) -> CfgNode:
    """Configure detectron2's own C4 detector of a ResNeXt, with the changes."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    fixed = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.MASK_ON", False]
    stride = ["MODEL.RESNETS.STRIDE_IN_1X1", False]
    cfg.merge_from_list([*list_keys(architecture), *fixed, *stride, *changes])
    return cfg


def fill_randomly(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill a model with random numbers; variances are positive, so that no feature explodes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                positive = "running_var" in name or ("norm" in name and name.endswith("weight"))
                low = 0.5 if positive else -0.1
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.2 + low)
    return model


def classifier(seed: int = 0, norm: str = "BN") -> nn.Module:
    return fill_randomly(ResNeXtClassifier(THIN, num_classes=7, norm=norm), seed).eval()


def torchvision_network(num_classes: int = 7) -> nn.Module:
    """Build torchvision's network of the same template as ``THIN``."""
    return torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck,
        [2, 2, 2, 2],
        num_classes=num_classes,
        groups=THIN.cardinality,
        width_per_group=THIN.width,
    )


def torchvision_retinanet(num_classes: int = 3, size: int = 96, **options: Any) -> nn.Module:
    """Build torchvision's RetinaNet on its network of ``THIN``, P6 from P5, with random numbers.

    Args:
        size: of the shorter side of its images, and of the longer one.
    """
    body = torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck,
        [2, 2, 2, 2],
        groups=THIN.cardinality,
        width_per_group=THIN.width,
        norm_layer=torchvision.ops.misc.FrozenBatchNorm2d,
    )
    backbone = torchvision.models.detection.backbone_utils.BackboneWithFPN(
        body,
        {"layer2": "0", "layer3": "1", "layer4": "2"},
        [512, 1024, 2048],
        out_channels=16,
        extra_blocks=torchvision.ops.feature_pyramid_network.LastLevelP6P7(16, 16),
    )
    return torchvision.models.detection.RetinaNet(
        backbone, num_classes, min_size=size, max_size=size, **options
    )


def save(content: object, folder: Path, name: str = "weights.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def make_path(format: str, folder: Path, name: str = "weights") -> Path:
    return folder / f"{name}{SUFFIXES[format][0]}"


def drop_counters(state: Any) -> dict[str, Tensor]:
    return {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}


def same_bits(one: Any, other: Any) -> bool:
    """Compare names, types, shapes and bytes: minus zero is not zero, and a NaN is itself."""
    return set(one) == set(other) and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].contiguous().numpy().tobytes() == other[name].contiguous().numpy().tobytes()
        for name in one
    )


# torchvision's name -> ours, part by part.
PARTS = (
    *((f"layer{number}.", f"res{number + 1}.") for number in range(1, 5)),
    *((".downsample.0.", ".shortcut."), (".downsample.1.", ".shortcut.norm.")),
    *((f".bn{number}.", f".conv{number}.norm.") for number in (1, 2, 3)),
    *(("^conv1.", "stem.conv1."), ("^bn1.", "stem.conv1.norm."), ("^fc.", "linear.")),
)


def rename_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        name = f"^{name}"
        for theirs, ours in PARTS:
            name = name.replace(theirs, ours)
        renamed[name.removeprefix("^")] = tensor
    return renamed
