"""Figure 4: paths of two layers equal one wider dense block, in its outputs and in training."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from resnext_det.layers import ConvNorm
from resnext_det.paper.figure_4 import TwoLayerBlock, format_figure_4

equal = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


def make_block(cardinality: int) -> TwoLayerBlock:
    """Build a block of 64 channels in float64, with numbers as after some training."""
    torch.manual_seed(0)
    block = TwoLayerBlock(64, cardinality=cardinality, width=4).double()
    for name, value in block.state_dict().items():
        if value.dim() == 1:
            value.uniform_(0.5, 1.5) if name.endswith(("weight", "var")) else value.normal_(std=0.3)
    return block


def run_step(block: TwoLayerBlock, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run a block forward and backward; return its output and the gradient of its input."""
    x = x.clone().requires_grad_()
    out = block(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


def run_with_torch(block: TwoLayerBlock, x: Tensor) -> Tensor:
    """Compute the output of a merged block in training by torch's functions alone."""
    conv1, conv2 = block.paths[0]
    out = x
    for layer, norm in ((conv1, conv1.norm), (conv2, block.norm)):
        out = F.conv2d(out.relu() if layer is conv2 else out, layer.weight, padding=1)
        out = F.batch_norm(out, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    return F.relu(x + out)


@pytest.mark.parametrize("cardinality", [1, 4, 32])
def test_paths_of_two_layers_are_one_wider_dense_block(cardinality: int) -> None:
    """By figure 4, 32 paths of 3x3, 4 and 3x3, 64 equal 3x3, 128 and 3x3, 64."""
    block = make_block(cardinality)
    merged = block.merge()
    (path,) = merged.paths
    layers: list[ConvNorm] = list(path)
    assert [layer.weight.shape[:2] for layer in layers] == [
        (4 * cardinality, 64),
        (64, 4 * cardinality),
    ]
    x = torch.randn(2, 64, 5, 4, dtype=torch.float64)
    equal(copy.deepcopy(merged)(x), run_with_torch(merged, x))
    for ours, theirs in zip(run_step(merged, x), run_step(block, x)):
        equal(ours, theirs)
    for index, layer in enumerate(layers):
        gradients = torch.cat([paths[index].weight.grad for paths in block.paths], dim=index)
        equal(layer.weight.grad, gradients)
    statistics = torch.cat([paths[0].norm.running_var for paths in block.paths])
    equal(layers[0].norm.running_var, statistics)
    equal(merged.norm.running_mean, block.norm.running_mean)


def test_both_forms_are_shown_with_equal_parameters() -> None:
    """By hand: 32 * (9 * 64 * 4 + 9 * 4 * 64) weights, and two numbers for 32 * 4 + 64 norms."""
    cells = [line.strip("|").split("|") for line in format_figure_4().splitlines()]
    rows = [[cell.strip() for cell in row] for row in cells if len(row) == 3]
    assert rows[1:] == [
        ["a path", "64, 3x3, 4", "64, 3x3, 128"],
        ["", "4, 3x3, 64", "128, 3x3, 64"],
        ["paths", "32", "1"],
        ["# params.", *2 * [f"{32 * 2 * 9 * 64 * 4 + 2 * (32 * 4 + 64):,}"]],
    ]
