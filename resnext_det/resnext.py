"""The whole network: stem, bottleneck blocks, backbone and classifier, under detectron2's names.

The stages' sizes come from an ``Architecture``; the paper is arXiv 1611.05431.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnext_det.architecture import Architecture
from resnext_det.layers import ConvNorm, freeze_norms

FEATURES = ("stem", "res2", "res3", "res4", "res5")


def initialize(convolution: nn.Conv2d) -> None:
    """The paper's: normal weights, std sqrt(2 / (k * k * out_channels)), whatever the groups; bias 0."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


class Stem(nn.Module):
    """max_pool(relu(norm(conv 7x7))): (N, in_channels, H, W) -> (N, out_channels, H/4, W/4), rounded up.

    For small images relu(norm(conv 3x3)), which leaves their size as it is (appendix A).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, norm: str, for_small_images: bool = False
    ) -> None:
        super().__init__()
        kernel, self.stride = (3, 1) if for_small_images else (7, 4)
        convolution = partial(ConvNorm, in_channels, out_channels, kernel, padding=kernel // 2)
        self.conv1 = convolution(stride=1 if for_small_images else 2, bias=False, norm=norm)
        initialize(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.conv1(x))  # (N, out_channels, H/2, W/2)
        return x if self.stride == 1 else F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class Bottleneck(nn.Module):
    """relu(shortcut(x) + conv3(relu(conv2(relu(conv1(x)))))): 1x1, 3x3 in groups, 1x1 (figure 3c).

    Args:
        in_channels, out_channels: of the block; where they differ, the shortcut is a 1x1 projection.
        bottleneck_channels: of the 3x3 convolution, all groups together.
        cardinality: groups of the 3x3 convolution.
        stride: of the 3x3 convolution and the projection.
        dilation: of the 3x3 convolution.
        stride_in_1x1: puts the stride into the first 1x1 convolution instead, as in the ResNets of Caffe.
        norm: a name that ``make_norm`` knows.
        residual: False leaves the shortcut out, and with it the sum (the plain networks of section 5.1).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        cardinality: int = 1,
        stride: int = 1,
        dilation: int = 1,
        stride_in_1x1: bool = False,
        norm: str = "FrozenBN",
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        convolution = partial(ConvNorm, bias=False, norm=norm)
        middle, padding = bottleneck_channels, dilation
        # The shortcut comes first, as in detectron2, so that optimizers number the parameters alike.
        self.shortcut = None
        if residual and in_channels != out_channels:
            self.shortcut = convolution(in_channels, out_channels, 1, stride=stride)
        self.conv1 = convolution(in_channels, middle, 1, stride=stride_1x1)
        self.conv2 = convolution(
            middle,
            middle,
            3,
            stride=stride_3x3,
            padding=padding,
            dilation=dilation,
            groups=cardinality,
        )
        self.conv3 = convolution(middle, out_channels, 1)
        for layer in (self.conv1, self.conv2, self.conv3, self.shortcut):
            if layer is not None:
                initialize(layer)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu_(self.conv1(x))  # (N, bottleneck_channels, H, W)
        out = torch.relu_(self.conv2(out))  # (N, bottleneck_channels, H/stride, W/stride)
        out = self.conv3(out)  # (N, out_channels, H/stride, W/stride)
        if self.residual:
            out += x if self.shortcut is None else self.shortcut(x)
        return torch.relu_(out)


def make_stage(
    architecture: Architecture,
    name: str,
    *,
    norm: str = "FrozenBN",
    stride_in_1x1: bool = False,
    stride: int | None = None,
    dilation: int = 1,
) -> nn.Sequential:
    """One stage of the net on its own, in channels-last memory: "0", "1", ... are its blocks.

    The C4 detector's head is ``make_stage(architecture, "res5")`` (detectron2's Res5ROIHeads).

    Args:
        architecture: the net.
        name: "res2" to "res5".
        norm: a name that ``make_norm`` knows.
        stride_in_1x1: see ``Bottleneck``.
        stride: of the first block; None for the architecture's: 1 in res2, else 2.
        dilation: of the 3x3 convolution of every block.

    Raises:
        ValueError: there is no stage of this name; the norm is unknown or does not fit the channels.
    """
    stages = {stage.name: stage for stage in architecture.stages()}
    if name not in stages:
        raise ValueError(f"{architecture} has no stage {name!r}; choose one of {', '.join(stages)}")
    stage = stages[name]
    first_stride = stage.stride if stride is None else stride
    blocks = [
        Bottleneck(
            stage.in_channels if index == 0 else stage.out_channels,
            stage.out_channels,
            bottleneck_channels=stage.bottleneck_channels,
            cardinality=stage.cardinality,
            stride=first_stride if index == 0 else 1,
            dilation=dilation,
            stride_in_1x1=stride_in_1x1,
            norm=norm,
            residual=architecture.shortcuts,
        )
        for index in range(stage.blocks)
    ]
    return nn.Sequential(*blocks).to(memory_format=torch.channels_last)


class ResNeXt(nn.Module):
    """A backbone: images (N, C, H, W) -> {name: map (N, out_channels[name], H/stride, W/stride)}, rounded up.

    Stages beyond the last requested feature are not built, as in detectron2. Memory is channels-last.

    Args:
        architecture: the net.
        norm: a name that ``make_norm`` knows.
        out_features: which of stem, res2, res3, res4, res5 to return.
        stride_in_1x1: see ``Bottleneck``.
        dilate_res5: res5 keeps res4's map size, every 3x3 of it dilated by 2 (detectron2's RES5_DILATION 2).
        in_channels: channels of the images.

    Attributes:
        out_features: the names, as given; ``out_channels`` and ``out_strides``: {name: int} for each of them.

    Raises:
        ValueError: an unknown feature or norm, a norm that does not fit; in forward, images of another shape.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        norm: str = "FrozenBN",
        out_features: Sequence[str] = ("res4",),
        stride_in_1x1: bool = False,
        dilate_res5: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        known = FEATURES[: len(architecture.stages()) + 1]
        if not out_features or any(name not in known for name in out_features):
            raise ValueError(
                f"out_features is {out_features!r}; give a list of some of {', '.join(known)}"
            )
        self.architecture = architecture
        self.in_channels = in_channels
        self.out_features = tuple(out_features)
        self.stem = Stem(
            in_channels,
            architecture.stem_channels,
            norm=norm,
            for_small_images=architecture.for_small_images,
        )
        channels, strides = {"stem": architecture.stem_channels}, {"stem": self.stem.stride}
        num_stages = max(FEATURES.index(name) for name in out_features)
        self.stage_names = FEATURES[1 : num_stages + 1]
        for stage in architecture.stages()[:num_stages]:
            stride, dilation = (1, 2) if dilate_res5 and stage.name == "res5" else (stage.stride, 1)
            blocks = make_stage(
                architecture,
                stage.name,
                norm=norm,
                stride_in_1x1=stride_in_1x1,
                stride=stride,
                dilation=dilation,
            )
            self.add_module(stage.name, blocks)
            channels[stage.name] = stage.out_channels
            strides[stage.name] = stride * list(strides.values())[-1]
        self.to(memory_format=torch.channels_last)
        self.out_channels = {name: channels[name] for name in out_features}
        self.out_strides = {name: strides[name] for name in out_features}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self._check(images)
        x = self.stem(images.contiguous(memory_format=torch.channels_last))  # (N, 64, H/4, W/4)
        features = {"stem": x} if "stem" in self.out_features else {}
        for name in self.stage_names:
            # (N, 256, H/4, W/4) in res2; every later stage doubles the channels and halves the size.
            x = self.get_submodule(name)(x)
            if name in self.out_features:
                features[name] = x
        return features

    def freeze(self, at: int) -> ResNeXt:
        """Freeze the first stages, as detectron2's MODEL.BACKBONE.FREEZE_AT does.

        Their parameters get no gradient, and their batch norms become frozen ones.

        Args:
            at: 0 nothing, 1 the stem, 2 stem and res2, ... 5 everything up to res5.

        Returns:
            The network itself.

        Raises:
            ValueError: ``at`` is not 0 to 5.
        """
        if at not in range(len(FEATURES) + 1):
            raise ValueError(
                f"cannot freeze at {at!r}; give FREEZE_AT 0 (nothing), 1 (stem), ... 5 (res5)"
            )
        for name in ("stem", *self.stage_names)[:at]:
            freeze_norms(self.get_submodule(name)).requires_grad_(False)
        return self

    def _check(self, images: Tensor) -> None:
        # While torch.jit traces, sizes are tensors, and comparing them would be a warning.
        if images.dim() != 4 or (
            not torch.jit.is_tracing() and images.shape[1] != self.in_channels
        ):
            shape, channels = tuple(images.shape), self.in_channels
            raise ValueError(
                f"the images have the shape {shape}; give four dimensions (N, {channels}, H, W)"
            )


class ResNeXtClassifier(ResNeXt):
    """A classifier: images (N, C, H, W) -> logits (N, num_classes), by global average pool and linear layer.

    The backbone's keys stand at the top level next to ``linear``: one file of weights serves both.

    Args:
        architecture: the net.
        num_classes: outputs.
        norm, stride_in_1x1, in_channels: see ``ResNeXt``.

    Raises:
        ValueError: as ``ResNeXt``; num_classes is below 1.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int = 1000,
        norm: str = "BN",
        *,
        stride_in_1x1: bool = False,
        in_channels: int = 3,
    ) -> None:
        if num_classes < 1:
            raise ValueError(
                f"num_classes is {num_classes}, not 1 or more; for no classifier build a ResNeXt"
            )
        super().__init__(
            architecture,
            norm=norm,
            out_features=(architecture.stages()[-1].name,),
            stride_in_1x1=stride_in_1x1,
            in_channels=in_channels,
        )
        self.num_classes = num_classes
        self.linear = nn.Linear(architecture.feature_channels, num_classes)
        # fb.resnet.torch's: Torch 7 draws from +-1/sqrt(in_features), and the bias is set to 0.
        bound = architecture.feature_channels**-0.5
        nn.init.uniform_(self.linear.weight, -bound, bound)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        x = self.feature_map(images)
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))  # (N, 2048) -> (N, num_classes)

    def feature_map(self, images: Tensor) -> Tensor:
        """The map that is pooled: (N, C, H, W) -> (N, feature_channels, H/32, W/32), rounded up (H/4 for small images)."""
        return super().forward(images)[self.out_features[0]]


def check_frozen_layers_are_loaded(model: nn.Module) -> None:
    """Refuse to train a model with layers frozen at random: it trains to nothing. (detectron2 allows it.)

    An engine calls this before training; what counts is told in ``ConvNorm.is_frozen_unloaded``.

    Args:
        model: a backbone, or a detector that has one.

    Raises:
        ValueError: there are such layers: no weights were loaded into them.
    """
    convolutions = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, ConvNorm)
    }
    random = [name for name, layer in convolutions.items() if layer.is_frozen_unloaded()]
    if random:
        raise ValueError(
            f"{len(random)} of {len(convolutions)} convolutions (first {random[0]!r}) are frozen, or their "
            "norms are, at the values they were made with, and would train to nothing; set MODEL.WEIGHTS to "
            'a file of a trained network, or start from scratch: MODEL.RESNETS.NORM "BN" or "GN", '
            "MODEL.BACKBONE.FREEZE_AT 0"
        )
