"""The head of an RPN with the gradient of the cells alone that have one.

A training samples some 256 anchors of an image, so that nearly all cells of its maps, of which FPN
has 22,000 at 480x640, get a gradient of zero; but a convolution's backward pass multiplies all of
them, and that of the 3x3 convolution takes as long as a fifth of the network. Here it takes the
cells that are not zero. What is predicted is the same to the last bit, and the gradients are the
same within float32's rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Above this share of cells with a gradient, the whole map's backward pass is the faster one.
_DENSE = 0.2


def check_convolution(convolution: nn.Module) -> None:
    """Refuse the hidden layers of a head that are no single 3x3 convolution.

    Raises:
        ValueError: there are several.
    """
    if not isinstance(convolution, nn.Conv2d):
        raise ValueError(
            "MODEL.RPN.HEAD_NAME = 'ResNeXtSparseRPNHead' has one 3x3 convolution; write "
            "MODEL.RPN.CONV_DIMS [-1], or MODEL.RPN.HEAD_NAME StandardRPNHead"
        )


def predict_sparsely(
    feature: Tensor, convolution: nn.Conv2d, logits: nn.Conv2d, deltas: nn.Conv2d
) -> tuple[Tensor, Tensor]:
    """Predict the logits and deltas of a map's anchors: a 3x3 convolution, ReLU, two 1x1 ones.

    Less is kept for the backward pass too: the map itself, and nothing of what is computed.

    Args:
        feature: (N, C, H, W).
        convolution, logits, deltas: the layers; the first has a padding of 1 and no groups.

    Returns:
        (N, A, H, W) and (N, 4 * A, H, W).

    Raises:
        RuntimeError: a second derivative is asked for (in the backward pass).
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not torch.is_grad_enabled():
        hidden = convolution(feature)
        return logits(hidden), deltas(hidden)
    layers = (convolution, logits, deltas)
    parameters = [value for layer in layers for value in (layer.weight, layer.bias)]
    return _Predict.apply(feature, *parameters)


def _predict(feature: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias, logit_weight, logit_bias, delta_weight, delta_bias = parameters
    hidden = F.conv2d(feature, weight, bias, padding=1).relu_()
    logits = F.conv2d(hidden, logit_weight, logit_bias)
    return logits, F.conv2d(hidden, delta_weight, delta_bias)


class _Predict(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, feature: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(feature, *parameters)
        return _predict(feature, *parameters)

    @staticmethod
    def backward(ctx: Any, logits: Tensor, deltas: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # once_differentiable lets torch.autograd.grad pass
            raise RuntimeError(
                "ResNeXtSparseRPNHead has no second derivatives, which "
                "create_graph=True asks for; write StandardRPNHead instead"
            )
        feature, *parameters = ctx.saved_tensors
        with torch.autocast(feature.device.type, enabled=False):
            is_used = (logits != 0).any(dim=1) | (deltas != 0).any(dim=1)  # (N, H, W)
            cells = is_used.nonzero()
            if len(cells) > _DENSE * is_used.numel():
                return _differentiate_densely(feature, parameters, logits, deltas)
            return _differentiate(feature, parameters, logits, deltas, cells)


def _differentiate(
    feature: Tensor, parameters: list[Tensor], logits: Tensor, deltas: Tensor, cells: Tensor
) -> tuple[Tensor, ...]:
    """Compute the gradients of the map and the parameters from those of some cells (K, 3).

    Args:
        logits, deltas: the gradients of what was predicted; zero at other cells.
        cells: image, row and column.
    """
    dtype = torch.promote_types(feature.dtype, torch.float32)
    weight, bias, logit_weight, _, delta_weight, _ = (value.to(dtype) for value in parameters)
    image, y, x = cells.unbind(dim=1)
    height, width = feature.shape[2:]
    steps = torch.arange(-1, 2, device=feature.device)
    rows, columns = (place[:, None] + steps for place in (y, x))  # (K, 3)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & (
        ((columns >= 0) & (columns < width))[:, None]
    )
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    places = (image[:, None, None] * height + rows[:, :, None]) * width + columns[:, None]
    pixels = feature.permute(0, 2, 3, 1).reshape(-1, feature.shape[1])  # (N * H * W, C)
    patches = pixels[places].to(dtype) * inside[..., None]  # (K, 3, 3, C)
    patches = patches.flatten(1)
    kernel = weight.permute(0, 2, 3, 1).flatten(1)  # (hidden, 9 * C)
    hidden = torch.addmm(bias, patches, kernel.t()).relu_()
    of_logits, of_deltas = (values[image, :, y, x].to(dtype) for values in (logits, deltas))
    of_hidden = of_logits @ logit_weight.flatten(1) + of_deltas @ delta_weight.flatten(1)
    of_hidden *= hidden > 0
    shape = (len(weight), *weight.shape[2:], weight.shape[1])
    of_patches = (of_hidden @ kernel).view(*places.shape, pixels.shape[1])  # (K, 3, 3, C)
    # Sorted and then added, so that a GPU too gives the same bits each time.
    of_pixels = torch.zeros_like(pixels, dtype=dtype)
    of_pixels.index_put_((places[inside],), of_patches[inside], accumulate=True)
    gradients = [
        of_pixels.view(len(feature), height, width, -1).permute(0, 3, 1, 2),
        (of_hidden.t() @ patches).view(shape).permute(0, 3, 1, 2).contiguous(),
        of_hidden.sum(dim=0),
        (of_logits.t() @ hidden).view(logit_weight.shape),
        of_logits.sum(dim=0),
        (of_deltas.t() @ hidden).view(delta_weight.shape),
        of_deltas.sum(dim=0),
    ]
    return tuple(
        gradient.to(value.dtype) for gradient, value in zip(gradients, (feature, *parameters))
    )


def _differentiate_densely(
    feature: Tensor, parameters: list[Tensor], logits: Tensor, deltas: Tensor
) -> tuple[Tensor, ...]:
    """Compute the same gradients from the whole map, after another forward pass."""
    with torch.enable_grad():
        values = [
            value.detach().to(logits.dtype).requires_grad_() for value in (feature, *parameters)
        ]
        predicted = _predict(*values)
    first, *others = torch.autograd.grad(predicted, values, (logits, deltas))
    gradients = [first, *(gradient.contiguous() for gradient in others)]
    return tuple(
        gradient.to(value.dtype) for gradient, value in zip(gradients, (feature, *parameters))
    )
