"""Forms A and B of a block (figure 3 of the paper), and the conversion of a network between forms.

Form C is ``Bottleneck``, with a convolution in groups; forms A and B have a path for each group.
A batch norm works on each channel by itself, so a path's norm is a slice of form C's. Outputs,
gradients, statistics and whole trainings are the same numbers, but for the order of sums.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

from resnext_det.layers import FROZEN_NORMS, ConvNorm
from resnext_det.resnext import Bottleneck, CNNBlock


def split_convolution(convolution: ConvNorm, count: int, *, dim: int) -> list[ConvNorm]:
    """Split a convolution without bias into convolutions of one group.

    Args:
        convolution: of one group, or of ``count`` groups where ``dim`` is 0.
        count: number of parts; it divides the channels.
        dim: 0 to share out the output channels, with their norms; 1 to share out the input
            channels, without a norm, which would follow the sum of the parts.

    Raises:
        ValueError: the norm mixes the channels of two parts.
    """
    weights = convolution.weight.detach().chunk(count, dim)
    norms = _split_norm(convolution.norm if dim == 0 else None, count)
    return [_copy(convolution, weight, norm) for weight, norm in zip(weights, norms)]


def join_convolutions(convolutions: Sequence[ConvNorm], *, dim: int, groups: int = 1) -> ConvNorm:
    """Join what ``split_convolution`` split.

    Args:
        convolutions: they differ in their numbers alone.
        dim: 0 to put their outputs side by side, with their norms; 1 to sum them, without a norm.
        groups: of the result, 1 or as many as there are convolutions.
    """
    weight = torch.cat([layer.weight.detach() for layer in convolutions], dim=dim)
    norm = _join_norms([layer.norm for layer in convolutions]) if dim == 0 else None
    return _copy(convolutions[0], weight, norm, groups)


def _copy(like: ConvNorm, weight: Tensor, norm: nn.Module | None, groups: int = 1) -> ConvNorm:
    """Copy a convolution, with another weight and norm, and without its activation."""
    convolution = copy.deepcopy(like)
    convolution.weight.data = weight.clone(memory_format=torch.contiguous_format)
    convolution.out_channels, convolution.in_channels = len(weight), weight.shape[1] * groups
    convolution.groups, convolution.norm, convolution.activation = groups, norm, None
    return convolution


def _split_norm(norm: nn.Module | None, count: int) -> Sequence[nn.Module | None]:
    if norm is None:
        return [None] * count
    if isinstance(norm, nn.GroupNorm):
        if norm.num_groups % count != 0:
            raise ValueError(
                f'norm "GN" has {norm.num_groups} groups, which do not split into {count} paths; '
                f'choose a cardinality that divides {norm.num_groups}, or the norm "BN"'
            )
    elif not isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm, *FROZEN_NORMS)):
        raise ValueError(f'a {type(norm).__name__} cannot be split; choose the norm "BN"')
    states = [
        {
            name: value.chunk(count)[index]
            for name, value in norm.state_dict().items()
            if value.dim()
        }
        for index in range(count)
    ]
    return [_copy_norm(norm, state, 1 / count) for state in states]


def _join_norms(norms: Sequence[nn.Module | None]) -> nn.Module | None:
    if norms[0] is None:
        return None
    states = [cast(nn.Module, norm).state_dict() for norm in norms]
    names = [name for name, value in states[0].items() if value.dim()]
    state = {name: torch.cat([state[name] for state in states]) for name in names}
    return _copy_norm(norms[0], state, len(norms))


def _copy_norm(norm: nn.Module, state: dict[str, Tensor], factor: float) -> nn.Module:
    """Copy a norm, with other numbers, for ``factor`` times as many channels."""
    resized = copy.deepcopy(norm)
    for name, value in state.items():
        getattr(resized, name).data = value.clone()
    for name in ("num_features", "num_channels", "num_groups"):
        if hasattr(norm, name):
            setattr(resized, name, round(getattr(norm, name) * factor))
    return resized


class _Paths(CNNBlock):
    """A block of parallel paths: the base of forms A and B."""

    def __init__(self, block: Bottleneck, *names: str) -> None:
        """Make the paths from copies of the convolutions ``names`` of a block in form C."""
        super().__init__(block.in_channels, block.out_channels, block.stride)
        if block.conv2_offset is not None:
            raise ValueError(
                "a block with a deformable convolution is not converted to another form; give a "
                "network without deformable stages"
            )
        if any(layer.bias is not None for layer in (block.conv1, block.conv2, block.conv3)):
            raise ValueError(
                "a block whose convolutions have biases has no other form; "
                "convert it before its norms are folded"
            )
        self.residual, self.shortcut = block.residual, copy.deepcopy(block.shortcut)
        self.paths = nn.ModuleList(nn.Sequential() for _ in range(block.conv2.groups))
        for name in names:
            is_last = name == "conv3"
            layers = split_convolution(getattr(block, name), len(self.paths), dim=int(is_last))
            for path, layer in zip(self.paths, layers):
                layer.activation = None if is_last else torch.relu_
                path.add_module(name, layer)
        for module in (self, self.paths, *self.paths):
            module.training = block.training

    def forward(self, x: Tensor) -> Tensor:
        # One path after the other, so that form A need not hold all of their maps.
        out = self.aggregate(path(x) for path in self.paths)  # (N, out_channels, H/s, W/s)
        if self.residual:
            out = out + (x if self.shortcut is None else self.shortcut(x))
        return torch.relu_(out)

    def aggregate(self, maps: Iterable[Tensor]) -> Tensor:
        """Make one map from those of the paths."""
        raise NotImplementedError


class FormA(_Paths):
    """Compute relu(shortcut(x) + norm(sum of path(x))), each path 1x1, 3x3, 1x1 (figure 3a).

    A norm and a ReLU follow the first two convolutions of a path; the norm of the third follows the
    sum (footnote 6).

    Args:
        block: a block in form C, whose numbers are copied.

    Raises:
        ValueError: the block has biases or a deformable convolution, or a norm that mixes the
            channels of two paths.
    """

    def __init__(self, block: Bottleneck) -> None:
        super().__init__(block, "conv1", "conv2", "conv3")
        self.norm = copy.deepcopy(block.conv3.norm)

    def aggregate(self, maps: Iterable[Tensor]) -> Tensor:
        out = reduce(torch.add, maps)
        return out if self.norm is None else self.norm(out)


class FormB(_Paths):
    """Compute relu(shortcut(x) + conv3(concatenation of path(x))), each path 1x1, 3x3 (figure 3b).

    Args:
        block: a block in form C, whose numbers are copied.

    Raises:
        ValueError: the block has biases or a deformable convolution, or a norm that mixes the
            channels of two paths.
    """

    def __init__(self, block: Bottleneck) -> None:
        super().__init__(block, "conv1", "conv2")
        self.conv3 = copy.deepcopy(block.conv3)

    def aggregate(self, maps: Iterable[Tensor]) -> Tensor:
        return self.conv3(torch.cat(list(maps), dim=1))


Block = Bottleneck | FormA | FormB
FORMS = ("A", "B", "C")


def convert(model: nn.Module, form: str) -> nn.Module:
    """Convert every block of a model to a form, in place: ``convert(ResNeXtClassifier(...), "A")``.

    The parameters are new ones: make the optimizer afterwards. Files of weights hold form C alone:
    convert back before writing them, and convert after loading them.

    Args:
        model: a ResNeXt, a classifier, a stage, a detector, or a block.
        form: "A", "B" or "C".

    Returns:
        The model; where it is itself a block, a new one.

    Raises:
        ValueError: the form is unknown, the model has no blocks, or a block has no such form.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is not known; choose one of {', '.join(map(repr, FORMS))}")
    if isinstance(model, Block):
        return _convert_block(model, form)
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, Block)}
    if not blocks:
        raise ValueError(
            f"a {type(model).__name__} has no bottleneck blocks to convert; give a ResNeXt"
        )
    # All blocks are made before the first is replaced, so that an error leaves the model as it was.
    converted = {name: _convert_block(block, form) for name, block in blocks.items()}
    for name, block in converted.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, block)
    return model


def _convert_block(block: Block, form: str) -> Block:
    bottleneck = copy.deepcopy(block) if isinstance(block, Bottleneck) else _join_paths(block)
    if form == "A":
        return FormA(bottleneck)
    return FormB(bottleneck) if form == "B" else bottleneck


def _join_paths(block: FormA | FormB) -> Bottleneck:
    """Make the equal block in form C."""
    paths = [[cast(ConvNorm, layer) for layer in cast(nn.Sequential, path)] for path in block.paths]
    conv1 = join_convolutions([path[0] for path in paths], dim=0)
    conv2 = join_convolutions([path[1] for path in paths], dim=0, groups=len(paths))
    if isinstance(block, FormB):
        conv3 = copy.deepcopy(block.conv3)
    else:
        conv3 = join_convolutions([path[2] for path in paths], dim=1)
        conv3.norm = copy.deepcopy(block.norm)
    with torch.device("meta"):  # neither memory nor random numbers: every layer is replaced
        joined = Bottleneck(
            block.in_channels,
            block.out_channels,
            bottleneck_channels=conv2.out_channels,
            stride=block.stride,
        )
    joined.residual, joined.shortcut = block.residual, copy.deepcopy(block.shortcut)
    joined.conv1, joined.conv2, joined.conv3 = conv1, conv2, conv3
    joined.training = block.training
    return joined
