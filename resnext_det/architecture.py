"""A ResNeXt as frozen data: its name, its stages, and counts of parameters and multiply-adds.

The paper (arXiv 1611.05431, section 3.1) builds every network by two rules: blocks whose maps have
one size share width and filter sizes, and each time the map halves, the width doubles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

BLOCKS_PER_STAGE: dict[int, tuple[int, ...]] = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    # Three stages, for images of 32x32 (appendix A): depth = 9 * blocks + 2.
    29: (3, 3, 3),
    38: (4, 4, 4),
    47: (5, 5, 5),
    56: (6, 6, 6),
}
DETECTION_DEPTHS = tuple(depth for depth, blocks in BLOCKS_PER_STAGE.items() if len(blocks) == 4)
"""Depths of the networks with four stages, on which detectors are built."""

_NAME = re.compile(
    r"\s*(?P<family>x|resnext|r|resnet)[-_ ]*(?P<depth>\d+)"
    r"(?:[-_ ,]*\(?\s*(?P<cardinality>\d+)\s*[x\u00d7]\s*(?P<width>\d+)d\s*\)?)?"
    r"(?P<plain>[-_ ]+plain)?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Stage:
    """One stage of a network: bottleneck blocks whose maps have one size.

    Attributes:
        name: "res2" to "res5" (the paper's conv2 to conv5).
        blocks: number of bottleneck blocks.
        in_channels: channels of the stage's input.
        bottleneck_channels: channels of the 3x3 convolution, all groups together.
        out_channels: channels of every block's output.
        stride: stride of the first block; the others have stride 1.
        cardinality: groups of the 3x3 convolution.
    """

    name: str
    blocks: int
    in_channels: int
    bottleneck_channels: int
    out_channels: int
    stride: int
    cardinality: int


class Convolution(NamedTuple):
    """A convolution followed by a norm, and the size of the map that it gives.

    Attributes:
        name: as in the network: "stem.conv1", "res2.0.conv3", "res2.0.shortcut".
    """

    name: str
    in_channels: int
    out_channels: int
    kernel_size: int
    groups: int
    out_height: int
    out_width: int

    @property
    def weights(self) -> int:
        return self.in_channels // self.groups * self.out_channels * self.kernel_size**2

    @property
    def multiply_adds(self) -> int:
        return self.weights * self.out_height * self.out_width


@dataclass(frozen=True)
class Architecture:
    """A ResNeXt (cardinality above 1) or ResNet (1x64d) for images of three channels.

    Args:
        depth: number of layers with weights: 26, 50, 101, 152 or 200; 29, 38, 47 or 56 for images
            of 32x32 pixels.
        cardinality: number of groups (C of the paper; detectron2's NUM_GROUPS).
        width: channels of one group in res2 (d of the paper; detectron2's WIDTH_PER_GROUP).
        stem_channels: channels of the stem's convolution (detectron2's STEM_OUT_CHANNELS).
        res2_channels: output channels of res2, doubled in every later stage (detectron2's
            RES2_OUT_CHANNELS).
        shortcuts: False for a plain network, whose blocks have no shortcuts (section 5.1).

    Raises:
        ValueError: the depth is unknown, or a number is not a positive integer.
    """

    depth: int
    cardinality: int = 1
    width: int = 64
    stem_channels: int = 64
    res2_channels: int = 256
    shortcuts: bool = True

    def __post_init__(self) -> None:
        if self.depth not in BLOCKS_PER_STAGE:
            known = ", ".join(map(str, BLOCKS_PER_STAGE))
            raise ValueError(f"no ResNeXt of depth {self.depth!r} is known; choose one of {known}")
        for name in ("cardinality", "width", "stem_channels", "res2_channels"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; give an integer of 1 or more")

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read a name: "X-101-32x4d", "R-50", "ResNeXt-50 (32x4d)", "X-50-32x4d-plain", ...

        Raises:
            ValueError: the text is no such name, a ResNeXt lacks its cardinality and width, or a
                ResNet has groups.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} does not name a network; write it as 'X-101-32x4d' or 'R-50'"
            )
        depth, template = int(match["depth"]), match["cardinality"] is not None
        if match["family"].lower() in ("x", "resnext") and not template:
            raise ValueError(
                f"{text!r} does not say its cardinality and width; write it as 'X-{depth}-32x4d'"
            )
        shortcuts = match["plain"] is None
        if not template:
            return cls(depth, shortcuts=shortcuts)
        cardinality, width = int(match["cardinality"]), int(match["width"])
        if match["family"].lower() in ("r", "resnet") and cardinality != 1:
            raise ValueError(
                f"{text!r} is called a ResNet, whose cardinality is 1, not {cardinality}; "
                f"write 'X-{depth}-{cardinality}x{width}d'"
            )
        return cls(depth, cardinality, width, shortcuts=shortcuts)

    def __str__(self) -> str:
        """Write the name that ``parse`` reads, which leaves out stem_channels and res2_channels."""
        plain = "" if self.shortcuts else "-plain"
        if (self.cardinality, self.width) == (1, 64):
            return f"R-{self.depth}{plain}"
        return f"X-{self.depth}-{self.cardinality}x{self.width}d{plain}"

    @property
    def for_small_images(self) -> bool:
        """Tell whether the stem is a 3x3 convolution without stride and pool (appendix A)."""
        return self.depth not in DETECTION_DEPTHS

    def stages(self) -> tuple[Stage, ...]:
        """List the stages res2 to res5, or to res4 in a network for small images."""
        stages = []
        in_channels = self.stem_channels
        for index, blocks in enumerate(BLOCKS_PER_STAGE[self.depth]):
            stage = Stage(
                name=f"res{index + 2}",
                blocks=blocks,
                in_channels=in_channels,
                bottleneck_channels=self.cardinality * self.width * 2**index,
                out_channels=self.res2_channels * 2**index,
                stride=1 if index == 0 else 2,
                cardinality=self.cardinality,
            )
            stages.append(stage)
            in_channels = stage.out_channels
        return tuple(stages)

    def num_parameters(self, num_classes: int | None = 1000) -> int:
        """Count the parameters of convolutions, batch norms (two per channel) and classifier.

        Args:
            num_classes: outputs of the classifier; None or 0 for no classifier.
        """
        convolutions = sum(layer.weights + 2 * layer.out_channels for layer in self.convolutions())
        return convolutions + (self.feature_channels + 1) * (num_classes or 0)

    def multiply_adds(
        self, height: int = 224, width: int = 224, num_classes: int | None = 1000
    ) -> int:
        """Count the multiply-adds of convolutions and classifier, which the paper calls FLOPs.

        Args:
            height, width: of the image, in pixels.
            num_classes: outputs of the classifier; None or 0 for no classifier.
        """
        convolutions = sum(layer.multiply_adds for layer in self.convolutions(height, width))
        return convolutions + self.feature_channels * (num_classes or 0)

    @property
    def feature_channels(self) -> int:
        """Channels of the last stage's map, from which the classifier computes."""
        return self.stages()[-1].out_channels

    def convolutions(self, height: int = 224, width: int = 224) -> Iterator[Convolution]:
        """List every convolution in the order of the network; a projection is last in its block.

        Args:
            height, width: of the image, in pixels.
        """
        size, small = (height, width), self.for_small_images
        size = size if small else _halve(size)
        yield Convolution("stem.conv1", 3, self.stem_channels, 3 if small else 7, 1, *size)
        size = size if small else _halve(size)  # by the pool
        for stage in self.stages():
            channels, middle, out = stage.in_channels, stage.bottleneck_channels, stage.out_channels
            for index in range(stage.blocks):
                block = f"{stage.name}.{index}"
                # The first 1x1 convolution sees the larger map: the 3x3 carries the stride.
                yield Convolution(f"{block}.conv1", channels, middle, 1, 1, *size)
                if index == 0 and stage.stride == 2:
                    size = _halve(size)
                yield Convolution(f"{block}.conv2", middle, middle, 3, stage.cardinality, *size)
                yield Convolution(f"{block}.conv3", middle, out, 1, 1, *size)
                if channels != out and self.shortcuts:
                    yield Convolution(f"{block}.shortcut", channels, out, 1, 1, *size)
                channels = out


@dataclass(frozen=True)
class Deformable:
    """Which stages of a network have deformable 3x3 convolutions, and of which kind.

    Args:
        stages: their names, among "res2" to "res5" (detectron2's DEFORM_ON_PER_STAGE).
        modulated: each point that is sampled also has a weight, from 0 to 1 (DEFORM_MODULATED).
        groups: groups of channels, each with its own points (DEFORM_NUM_GROUPS).

    Raises:
        ValueError: ``groups`` is not 1 or more.
    """

    stages: Sequence[str]
    modulated: bool = False
    groups: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.groups, int) or self.groups < 1:
            raise ValueError(f"groups is {self.groups!r}; give an integer of 1 or more")

    def check(self, architecture: Architecture) -> None:
        """Refuse an architecture that lacks one of the stages, or whose channels do not divide.

        Raises:
            ValueError: saying which stage, and what to give.
        """
        channels = {stage.name: stage.bottleneck_channels for stage in architecture.stages()}
        for name in self.stages:
            if name not in channels:
                raise ValueError(
                    f"{architecture} has no stage {name!r} to be deformable; give some of "
                    f"{', '.join(channels)}"
                )
            if channels[name] % self.groups:
                raise ValueError(
                    f"the {channels[name]} channels of {name}'s deformable convolutions do not "
                    f"divide into {self.groups} groups; give a number that divides them, such as 1 "
                    "(DEFORM_NUM_GROUPS)"
                )


def _halve(size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] + 1) // 2, (size[1] + 1) // 2
