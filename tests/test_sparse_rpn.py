"""The sparse head of an RPN predicts what its layers do, and gives their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from resnext_det.config import get_cfg
from resnext_det.detection.portable.build import build_detector
from resnext_det.sparse_rpn import predict_sparsely

CHANNELS, ANCHORS, HEIGHT, WIDTH = 5, 3, 7, 9


def make_layers() -> list[nn.Conv2d]:
    torch.manual_seed(0)
    convolution = nn.Conv2d(CHANNELS, 6, 3, padding=1)
    layers = [convolution, nn.Conv2d(6, ANCHORS, 1), nn.Conv2d(6, 4 * ANCHORS, 1)]
    return [layer.double() for layer in layers]


def predict_plainly(feature: Tensor, *layers: nn.Conv2d) -> tuple[Tensor, Tensor]:
    hidden = torch.relu(layers[0](feature))
    return layers[1](hidden), layers[2](hidden)


def choose(predicted: tuple[Tensor, Tensor], cells: list[tuple[int, int, int]]) -> Tensor:
    """Add up some of the predictions at cells (image, row, column), as a sampled loss does."""
    logits, deltas = predicted
    total = (logits.sum() + deltas.sum()) * 0
    for number, (image, y, x) in enumerate(cells):
        total = total + logits[image, number % ANCHORS, y, x] ** 2
        if number % 2:
            total = total + (deltas[image, number % 4, y, x] - 1).abs()
    return total


FEW = [(0, 0, 0), (0, 6, 8), (1, 3, 4), (1, 3, 5), (1, 6, 0), (0, 2, 8)]
MANY = [(image, y, x) for image in range(2) for y in range(HEIGHT) for x in range(0, WIDTH, 2)]


@pytest.mark.parametrize("cells", [[], FEW, MANY], ids=["none", "few", "many"])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_predictions_and_gradients_are_those_of_the_layers(
    cells: list[tuple[int, int, int]], memory_format: torch.memory_format
) -> None:
    layers = make_layers()
    images = torch.randn(2, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64)
    results = []
    for predict in (predict_sparsely, predict_plainly):
        feature = images.contiguous(memory_format=memory_format).requires_grad_()
        values = [feature, *(value for layer in layers for value in layer.parameters())]
        predicted = predict(feature, *layers)
        gradients = torch.autograd.grad(choose(predicted, cells), values)
        results.append((predicted, gradients))
        assert all(gradient.dtype == torch.float64 for gradient in gradients)
    (ours, our_gradients), (theirs, their_gradients) = results
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs))
    assert all(gradient.is_contiguous() for gradient in our_gradients[1:])
    for one, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_mixed_precision_gives_gradients_of_the_parameters_types() -> None:
    layers = [layer.float() for layer in make_layers()]
    images = torch.randn(2, CHANNELS, HEIGHT, WIDTH)
    results = []
    for predict in (predict_sparsely, predict_plainly):
        feature = images.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = predict(feature, *layers)
        assert predicted[0].dtype == torch.bfloat16
        values = [feature, *(value for layer in layers for value in layer.parameters())]
        results.append(torch.autograd.grad(choose(predicted, FEW).float(), values))
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.linalg.vector_norm(one - other) <= 0.03 * torch.linalg.vector_norm(other)


def test_several_convolutions_are_refused() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.RPN.HEAD_NAME", "ResNeXtSparseRPNHead"])
    cfg.merge_from_list(["MODEL.RPN.CONV_DIMS", [8, 8]])
    with pytest.raises(ValueError, match=r"has one 3x3 convolution; write MODEL.RPN.CONV_DIMS"):
        build_detector(cfg)


def test_second_derivatives_are_refused() -> None:
    layers = make_layers()
    feature = torch.randn(1, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64).requires_grad_()
    loss = predict_sparsely(feature, *layers)[0].sum()  # its own derivative is a constant
    with pytest.raises(RuntimeError, match=r"no second derivatives.*write StandardRPNHead"):
        torch.autograd.grad(loss, feature, create_graph=True)
