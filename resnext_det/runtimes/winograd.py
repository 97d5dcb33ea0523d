"""Convolve maps with 3x3 kernels by a quarter of the multiplications.

Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308) computes 4x4 outputs
from 6x6 inputs by 36 products of transformed inputs and weights, where the definition has 144: so
36 matrix products over channels. The points are 0, 1, -1, 1/2 and -2, of those tried the ones that
round least: an error of 3e-6 of the largest output, where a direct convolution in float32 has 2e-6.
On two cores with AVX-512, with 256 channels and a map of 200x272, it takes 185 ms, and oneDNN's
direct convolution 302.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnext_det.runtimes.parallel import run_in_parallel

# Transforms of the outputs (4, 6), the weights (6, 3) and the inputs (6, 6), along each axis.
_OUTPUTS = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 0.5, -2, 0),
    (0, 1, 1, 0.25, 4, 0),
    (0, 1, -1, 0.125, -8, 1),
)
_WEIGHTS = (
    (1, 0, 0),
    (1 / 3, 1 / 3, 1 / 3),
    (-1 / 3, 1 / 3, -1 / 3),
    (-16 / 15, -8 / 15, -4 / 15),
    (1 / 15, -2 / 15, 4 / 15),
    (0, 0, 1),
)
_INPUTS = (
    (1, -1.5, -2, 1.5, 1, 0),
    (0, -1, 0.5, 2.5, 1, 0),
    (0, 1, -2.5, 0.5, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 0.5, -1, -0.5, 1, 0),
    (0, 1, -1.5, -2, 1.5, 1),
)
_TILE = 4
_PATCH = 6  # inputs of a tile, along each axis
_LEAST_CHANNELS = 128  # with fewer, the transforms cost more than is saved
_MOST_CHANNELS = 1024  # the transformed weights take 144 MiB; of 2048 they would take 576
# Fewer make the matrix products slow; numbers of more do not stay in a processor's cache.
_TILES_AT_ONCE = 204


def suits_winograd(layer: nn.Module | None) -> bool:
    """Tell whether a layer is a 3x3 convolution that ``WinogradConv2d`` computes faster."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (3, 3)
        and layer.stride == layer.dilation == layer.padding == (1, 1)
        and layer.groups == 1
        and min(layer.in_channels, layer.out_channels) >= _LEAST_CHANNELS
        and max(layer.in_channels, layer.out_channels) <= _MOST_CHANNELS
        and getattr(layer, "norm", None) is None
    )


def is_pointwise(layer: nn.Module) -> bool:
    """Tell whether a layer is a plain 1x1 convolution with a bias."""
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == layer.stride == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
        and layer.bias is not None
    )


class WinogradConv2d(nn.Module):
    """Compute a convolution that ``suits_winograd`` with its activation, and what follows, if any.

    Bands of the map are computed in parallel, see ``run_in_parallel``.

    Args:
        layer: its weight is transformed here, once.
        following: convolutions 1x1 of the result, as ``is_pointwise`` tells, such as those that
            predict boxes. They are computed band by band, so that the result takes no memory.
    """

    weight: Tensor
    inputs: Tensor
    outputs: Tensor

    def __init__(self, layer: nn.Conv2d, following: Sequence[nn.Conv2d] = ()) -> None:
        super().__init__()
        inputs, weights, outputs = (
            torch.tensor(matrix, dtype=torch.float64) for matrix in (_INPUTS, _WEIGHTS, _OUTPUTS)
        )
        exact = layer.weight.detach().double().cpu()
        transformed = torch.einsum("ai,bj,kcij->abck", weights, weights, exact).flatten(0, 1)
        self.activation = getattr(layer, "activation", None)
        self.bias = layer.bias
        self.following: tuple[Tensor, Tensor] | None = None  # the weight and bias of all of them
        if following:
            weight, bias = (
                [getattr(one, name) for one in following] for name in ("weight", "bias")
            )
            self.following = torch.cat(weight).flatten(1), torch.cat(bias)
        self.channels = sum(one.out_channels for one in following or (layer,))
        self.register_buffer("weight", transformed.to(layer.weight).contiguous())  # (36, C, K)
        self.register_buffer("inputs", inputs.to(layer.weight))
        self.register_buffer("outputs", outputs.to(layer.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, H, W), in channels-last memory.

        With ``following``, K counts the channels of all of them, in their order.
        """
        count, _, height, width = x.shape
        down, across = -(-height // _TILE), -(-width // _TILE)
        out = x.new_empty(count, down * _TILE, across * _TILE, self.channels)
        threads = torch.get_num_threads()
        number = min(down, -(-down * across // (_TILES_AT_ONCE * threads)) * threads)
        limits = [down * index // number for index in range(number + 1)]
        bands = [(image, *pair) for image in range(count) for pair in pairwise(limits)]

        def compute(band: tuple[int, int, int]) -> None:
            image, first, last = band
            part = _cut_band(x[image].permute(1, 2, 0), first, last, across)
            target = out[image, first * _TILE : last * _TILE]
            target.view(-1, _TILE, across, _TILE, self.channels).copy_(self._convolve(part, across))

        run_in_parallel(compute, bands)
        return out[:, :height, :width].permute(0, 3, 1, 2)

    def _convolve(self, band: Tensor, columns: int) -> Tensor:
        """Convolve rows of tiles: (4 * rows + 2, W, C) to (rows, 4, columns, 4, K)."""
        channels, (down, across, _) = band.shape[2], band.stride()
        rows = band.shape[0] // _TILE
        patches = band.as_strided(
            (_PATCH, _PATCH, rows, columns, channels),
            (down, across, _TILE * down, _TILE * across, 1),
        ).reshape(_PATCH, _PATCH, -1)
        transformed = _transform(self.inputs, patches).view(_PATCH**2, rows * columns, channels)
        products = torch.bmm(transformed, self.weight).view(_PATCH, _PATCH, -1)
        tiles = _transform(self.outputs, products).view(_TILE, _TILE, rows, columns, -1)
        if self.bias is not None:
            tiles += self.bias
        if self.activation is not None:
            tiles = self.activation(tiles)
        if self.following is not None:
            tiles = F.linear(tiles, *self.following)
        return tiles.permute(2, 0, 3, 1, 4)


def _transform(matrix: Tensor, patches: Tensor) -> Tensor:
    """Multiply patches (6, 6, numbers) by a matrix (n, 6) along both axes: (n, n, numbers)."""
    rows = (matrix @ patches.view(_PATCH, -1)).view(len(matrix), _PATCH, -1)
    return torch.bmm(matrix.expand(len(matrix), -1, -1), rows)


def _cut_band(image: Tensor, first: int, last: int, columns: int) -> Tensor:
    """Cut rows of tiles out of an image (H, W, C), with what is around them, zeros at its edges.

    Returns:
        (4 * (last - first) + 2, 4 * columns + 2, C).
    """
    height, width, _ = image.shape
    top, bottom = first * _TILE - 1, last * _TILE + 1
    edges = (1, columns * _TILE + 1 - width, max(-top, 0), max(bottom - height, 0))
    return F.pad(image[max(top, 0) : bottom], (0, 0, *edges))


class Channels(nn.Module):
    """Take the channels of a map from ``start`` to ``stop``: those of one ``following``."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.start : self.stop]
