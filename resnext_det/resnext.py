"""The whole network, read from top to bottom: stem, block, stage, backbone, classifier.

It is the ResNeXt of arXiv 1611.05431, and a ResNet where the cardinality is 1, under detectron2's
names. How many blocks and channels there are, an ``Architecture`` says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnext_det.architecture import Architecture, Deformable
from resnext_det.layers import ConvNorm, Norm, freeze_norms

logger = logging.getLogger(__name__)

FEATURES = ("stem", "res2", "res3", "res4", "res5")
Part = TypeVar("Part", bound="CNNBlock")


def initialize(convolution: nn.Conv2d) -> None:
    """Draw normal weights of std sqrt(2 / (k * k * out_channels)), whatever the groups; bias 0."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


class CNNBlock(nn.Module):
    """A part of the network that is frozen as one: the stem, or a block of a stage.

    Args:
        in_channels, out_channels: of its input and output.
        stride: the size of its input, divided by that of its output.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self: Part) -> Part:
        """Give the parameters no gradient, and make the batch norms frozen ones; return self."""
        freeze_norms(self).requires_grad_(False)
        return self


class Stem(CNNBlock):
    """Apply a 7x7 convolution, norm, ReLU and max pool: images to maps of a quarter of their size.

    For small images (appendix A) a 3x3 convolution, norm and ReLU, which keep the size.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, norm: Norm, for_small_images: bool = False
    ) -> None:
        kernel, stride, total_stride = (3, 1, 1) if for_small_images else (7, 2, 4)
        super().__init__(in_channels, out_channels, total_stride)
        convolution = partial(ConvNorm, stride=stride, padding=kernel // 2, bias=False, norm=norm)
        self.conv1 = convolution(in_channels, out_channels, kernel)
        initialize(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.conv1(x))  # (N, 64, H/2, W/2), rounded up
        if self.stride == 1:
            return x
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)  # (N, 64, H/4, W/4)


class Bottleneck(CNNBlock):
    """Compute relu(shortcut(x) + conv3(relu(conv2(relu(conv1(x)))))) (figure 3c of the paper).

    The convolutions are 1x1, 3x3 in groups and 1x1, each with its norm.

    Args:
        in_channels, out_channels: where they differ, the shortcut is a 1x1 projection.
        bottleneck_channels: channels of the 3x3 convolution, all groups together.
        cardinality: groups of the 3x3 convolution.
        stride: of the 3x3 convolution and the projection.
        dilation: of the 3x3 convolution.
        stride_in_1x1: put the stride into the first 1x1 convolution instead, as Caffe's ResNets do.
        norm: a name in ``resnext_det.layers.NORMS``, or a callable that makes a norm from its
            channels.
        residual: False leaves out shortcut and sum (the plain networks of section 5.1).
        deformable: makes the 3x3 convolution deformable; its stages do not matter here.

    Attributes:
        is_recomputed: keep only the input for the backward pass, and compute the maps within again
            there: less memory for another forward pass. False at first.
    """

    is_recomputed = False

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
        norm: Norm = "FrozenBN",
        residual: bool = True,
        deformable: Deformable | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.residual = residual
        middle = bottleneck_channels
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        convolution = partial(ConvNorm, bias=False, norm=norm)
        grouped = partial(convolution, padding=dilation, dilation=dilation, groups=cardinality)
        # The shortcut comes first, as in detectron2: optimizers then number the parameters alike.
        self.shortcut = None
        if residual and in_channels != out_channels:
            self.shortcut = convolution(in_channels, out_channels, 1, stride=stride)
        self.conv1 = convolution(in_channels, middle, 1, stride=stride_1x1)
        self.conv2_offset = None
        if deformable is None:
            self.conv2 = grouped(middle, middle, 3, stride=stride_3x3)
        else:
            from resnext_det.deformable import DeformableConvNorm, make_sampling

            self.conv2_offset = make_sampling(
                deformable, middle, stride=stride_3x3, dilation=dilation
            )
            self.conv2 = DeformableConvNorm(
                deformable, middle, middle, stride=stride_3x3, **grouped.keywords
            )
        self.conv3 = convolution(middle, out_channels, 1)
        for layer in (self.conv1, self.conv2, self.conv3, self.shortcut):
            if layer is not None:
                initialize(layer)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)  # and so is what it becomes
        if not torch.jit.is_scripting():
            return self.compute_or_checkpoint(self._compute, x)
        return self._compute(x)

    def compute_or_checkpoint(self, compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Call what computes this block, and keep only its inputs where it ``is_recomputed``."""
        if not (self.is_recomputed and self.training and torch.is_grad_enabled()):
            return compute(*inputs)
        options: Any = {"use_reentrant": False}
        # Nothing within draws random numbers.
        return checkpoint(compute, *inputs, preserve_rng_state=False, **options)

    def _compute(self, x: Tensor) -> Tensor:
        out = torch.relu_(self.conv1(x))  # (N, bottleneck_channels, H, W)
        # (N, bottleneck_channels, H/stride, W/stride)
        if self.conv2_offset is None:
            out = self.conv2(out)
        else:
            out = self.conv2(out, self.conv2_offset(out))
        out = torch.relu_(out)
        out = self.conv3(out)  # (N, out_channels, H/stride, W/stride)
        if self.residual:
            if self.shortcut is not None:
                x = self.shortcut(x)
            out += x
        return torch.relu_(out)


def make_stage(
    architecture: Architecture | str,
    name: str,
    *,
    norm: Norm = "FrozenBN",
    stride_in_1x1: bool = False,
    dilate: bool = False,
    deformable: Deformable | None = None,
    out_channels: int | None = None,
    block_class: type[Bottleneck] = Bottleneck,
) -> nn.Sequential:
    """Make the blocks of one stage, "res2" to "res5".

    ``make_stage("X-50-32x4d", "res5")`` is the head of a C4 detector (detectron2's Res5ROIHeads).
    The result has the attributes ``in_channels``, ``out_channels`` and ``stride``.

    Args:
        architecture: an ``Architecture``, or its name, which ``Architecture.parse`` reads.
        norm, stride_in_1x1: see ``Bottleneck``.
        dilate: keep the map's size, and dilate every 3x3 convolution by 2.
        deformable: which stages have deformable convolutions; None: no stage.
        out_channels: what the architecture has, which is checked; for configurations whose other
            entries refer to it, as those of detectron2's LazyConfig do.
        block_class: what the blocks are; a subclass adds methods.

    Raises:
        ValueError: no network or stage has this name; the norm is unknown or does not fit the
            channels; ``out_channels`` is not the stage's; ``deformable`` does not fit the
            architecture.
    """
    if isinstance(architecture, str):
        architecture = Architecture.parse(architecture)
    stages = {stage.name: stage for stage in architecture.stages()}
    if name not in stages:
        raise ValueError(f"{architecture} has no stage {name!r}; choose one of {', '.join(stages)}")
    stage = stages[name]
    if deformable is not None:
        deformable.check(architecture)
    block = partial(
        block_class,
        bottleneck_channels=stage.bottleneck_channels,
        cardinality=stage.cardinality,
        dilation=2 if dilate else 1,
        stride_in_1x1=stride_in_1x1,
        norm=norm,
        residual=architecture.shortcuts,
        deformable=deformable if deformable is not None and name in deformable.stages else None,
    )
    channels, stride = stage.out_channels, 1 if dilate else stage.stride
    if out_channels not in (None, channels):
        raise ValueError(
            f"out_channels is {out_channels!r}, but {name} of {architecture} has {channels}; write "
            f"{channels}"
        )
    first = block(stage.in_channels, channels, stride=stride)
    others = [block(channels, channels) for _ in range(1, stage.blocks)]
    blocks = nn.Sequential(first, *others)
    shape = {"in_channels": stage.in_channels, "out_channels": channels, "stride": stride}
    for attribute, value in shape.items():
        setattr(blocks, attribute, value)
    return blocks


class ResNeXt(nn.Module):
    """A backbone: images (N, C, H, W) to {name: map of out_channels[name] channels}.

    A map's size is the image's, divided by out_strides[name] and rounded up. Stages beyond the last
    requested feature are thrown away once their weights are drawn, as in detectron2: from one seed
    whatever is built next has the same weights.

    Maps are channels-last in memory, which is faster; parameters are contiguous.

    Args:
        norm, stride_in_1x1: see ``Bottleneck``.
        out_features: which of ``FEATURES`` to return.
        dilate_res5: see ``make_stage``; detectron2's RES5_DILATION 2.
        deformable: see ``make_stage``.
        in_channels: of the images.

    Attributes:
        contiguous_features: copy the returned maps into contiguous memory, on which any ``view``
            works; what computes from them is then slower. False at first.

    Raises:
        ValueError: a feature or norm is unknown, or the norm or ``deformable`` does not fit;
            in forward: the images have another shape.
    """

    # What the parts are; a subclass may add methods to them.
    stem_class: type[Stem] = Stem
    block_class: type[Bottleneck] = Bottleneck
    __jit_unused_properties__ = ("stages",)

    _start_is_known = False  # weights were loaded, or were looked for in the first forward pass

    def __init__(
        self,
        architecture: Architecture,
        *,
        norm: Norm = "FrozenBN",
        out_features: Sequence[str] = ("res4",),
        stride_in_1x1: bool = False,
        dilate_res5: bool = False,
        deformable: Deformable | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        stages = architecture.stages()
        known = FEATURES[: len(stages) + 1]
        if not out_features or not set(out_features) <= set(known):
            raise ValueError(
                f"out_features is {out_features!r}; give a list of some of {', '.join(known)}"
            )
        self.architecture = architecture
        self.in_channels = in_channels
        self.out_features = tuple(out_features)
        self.contiguous_features = False
        self.stage_names = known[1 : max(map(known.index, out_features)) + 1]
        channels, small = architecture.stem_channels, architecture.for_small_images
        self.stem = self.stem_class(in_channels, channels, norm=norm, for_small_images=small)
        stride = self.stem.stride
        shapes = {"stem": (channels, stride)}
        make = partial(
            make_stage,
            architecture,
            norm=norm,
            stride_in_1x1=stride_in_1x1,
            deformable=deformable,
            block_class=self.block_class,
        )
        for stage in stages:
            made: Any = make(stage.name, dilate=dilate_res5 and stage.name == "res5")
            if stage.name not in self.stage_names:
                continue
            self.add_module(stage.name, made)
            stride *= made.stride
            shapes[stage.name] = made.out_channels, stride
        self.out_channels = {name: shapes[name][0] for name in out_features}
        self.out_strides = {name: shapes[name][1] for name in out_features}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.compute_features(images)

    def compute_features(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the maps of images (N, C, H, W), see the class."""
        if not torch.jit.is_scripting():
            self._check_shape(images)
            if self.training:
                self._warn_if_frozen_at_random()
        x = self.stem(images.contiguous(memory_format=torch.channels_last))  # (N, 64, H/4, W/4)
        features: dict[str, Tensor] = {}
        if "stem" in self.out_features:
            features["stem"] = x
        for name, stage in self.named_children():  # which torch.jit.script can follow
            if name in self.stage_names:
                # (N, 256, H/4, W/4) in res2; each next one doubles the channels, halves the size.
                x = stage(x)
                if name in self.out_features:
                    features[name] = x
        if self.contiguous_features:
            return {name: x.contiguous() for name, x in features.items()}
        return features

    def freeze(self, at: int) -> ResNeXt:
        """Freeze the first ``at`` of ``FEATURES``, as MODEL.BACKBONE.FREEZE_AT does; return self.

        Their parameters get no gradient, and their batch norms become frozen ones.

        Args:
            at: 0 (nothing), 1 (stem), ... 5 (everything up to res5). As in detectron2, less than 0
                is 0, and more than 5 is 5.

        Raises:
            ValueError: ``at`` is no integer.
        """
        if not isinstance(at, int):
            raise ValueError(
                f"cannot freeze at {at!r}; give FREEZE_AT 0 (nothing), 1 (stem), ... 5 (res5)"
            )
        parts: list[Any] = [[self.stem], *self.stages]
        for blocks in parts[: max(at, 0)]:
            for block in blocks:
                block.freeze()
        return self

    @property
    def stages(self) -> list[nn.Sequential]:
        """The stages that are built, each a Sequential of its blocks."""
        return [getattr(self, name) for name in self.stage_names]

    def _check_shape(self, images: Tensor) -> None:
        # Read from the weight, which, like the whole stem, may have been exchanged for another.
        first = getattr(self.stem, "conv1", None)
        channels = first.weight.shape[1] if isinstance(first, ConvNorm) else None
        # While torch.jit traces, sizes are tensors, and comparing them would be a warning.
        is_checked = channels is not None and not torch.jit.is_tracing()
        if images.dim() != 4 or (is_checked and images.shape[1] != channels):
            raise ValueError(
                f"the images have the shape {tuple(images.shape)}; "
                f"give four dimensions (N, {channels or 'C'}, H, W)"
            )

    def _warn_if_frozen_at_random(self) -> None:
        """Warn of frozen layers with random weights; once, at the first pass that takes gradients.

        A network whose weights were all loaded by ``load_state_dict``, whatever they are, is not
        looked at; a trace or an export leaves it to the next pass.
        """
        if self._start_is_known or not torch.is_grad_enabled() or torch.jit.is_tracing():
            return
        weight = next(self.parameters(), None)
        if type(weight) is not nn.Parameter or weight.is_meta:  # as while torch.export runs
            return
        self._start_is_known = True
        layers = [layer for layer in self.modules() if isinstance(layer, ConvNorm)]
        random = sum(layer.is_frozen_at_random() for layer in layers)
        grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
        if random and not (grouped and torch.distributed.get_rank()):
            logger.warning(
                "%d of %d convolutions of the backbone are frozen, or their norms are, at the "
                "values they were made with, so the network learns badly, if at all; load the "
                "weights of a trained one (MODEL.WEIGHTS, train.init_checkpoint), or start from "
                "random ones with the norm GN or SyncBN and FREEZE_AT 0",
                *(random, len(layers)),
            )

    # torch.compile runs it while it compiles, and puts nothing into the graph: this is what
    # torch.compiler.assume_constant_result does after an import that takes seconds.
    _warn_if_frozen_at_random._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        names = (name for name in self.state_dict() if not name.endswith("num_batches_tracked"))
        if all(f"{prefix}{name}" in state_dict for name in names):
            self._start_is_known = True
        super()._load_from_state_dict(state_dict, prefix, *rest)


class ResNeXtClassifier(ResNeXt):
    """A classifier: images (N, C, H, W) to logits (N, num_classes).

    The last map is averaged over its places and goes through a linear layer. The backbone's keys
    stand beside ``linear``, so that one file of weights serves classifiers and backbones. Arguments
    and errors are those of ``ResNeXt``.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int = 1000,
        norm: Norm = "BN",
        *,
        stride_in_1x1: bool = False,
        in_channels: int = 3,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; give 1 or more, or build a ResNeXt")
        super().__init__(
            architecture,
            norm=norm,
            out_features=(architecture.stages()[-1].name,),
            stride_in_1x1=stride_in_1x1,
            in_channels=in_channels,
        )
        self.num_classes = num_classes
        self.linear = nn.Linear(architecture.feature_channels, num_classes)
        # As fb.resnet.torch: Torch 7 draws from +-1/sqrt(in_features), and the bias is set to 0.
        bound = architecture.feature_channels**-0.5
        nn.init.uniform_(self.linear.weight, -bound, bound)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        x = self.forward_features(images)  # (N, 2048, H/32, W/32)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)  # (N, 2048)
        return self.linear(x)  # (N, num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Compute the last map, before it is averaged: (N, 2048, H/32, W/32), rounded up."""
        return self.compute_features(images)[self.out_features[0]]
