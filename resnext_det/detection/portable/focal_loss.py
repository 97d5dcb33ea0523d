"""The focal loss of RetinaNet, with the gradients that detectron2's compiled one has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def sum_focal_loss(logits: Tensor, classes: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Sum the focal loss over anchors and classes (arXiv 1708.02002, equation 5).

    Value and gradient are, to the last bit, those of ``fvcore.nn.sigmoid_focal_loss_jit``, once
    torch has compiled that in its second call: eager operations round its gradient otherwise. Of a
    class at an anchor this one keeps the logit alone for the backward pass, and takes half the
    time.

    Args:
        logits: (V, K), float32.
        classes: (V,), int64; K is the background, where every class is wrong.
        alpha: the weight of the right class; the others have 1 - alpha. Negative: all have 1.
        gamma: the power of a prediction's error by which its loss is multiplied.
    """
    rows = (classes < logits.shape[1]).nonzero().flatten()
    return _FocalLoss.apply(logits, rows, classes[rows], alpha, gamma)


class _FocalLoss(torch.autograd.Function):
    """Sum the focal loss; the entries (rows, classes) are the right ones."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rows: Tensor, classes: Tensor, alpha: float, gamma: float
    ) -> Tensor:
        ctx.save_for_backward(logits, rows, classes)
        ctx.alpha, ctx.gamma = alpha, gamma
        loss = _compute_entropy(logits, rows, classes)
        loss.mul_(_compute_errors(logits.sigmoid(), rows, classes).pow_(gamma))
        _weight(loss, rows, classes, alpha)
        return loss.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, rows, classes = ctx.saved_tensors
        probabilities = logits.sigmoid()
        errors = _compute_errors(probabilities, rows, classes)
        of_loss = grad.expand_as(logits).clone()
        _weight(of_loss, rows, classes, ctx.alpha)
        result = torch.zeros_like(logits)
        if ctx.gamma:
            # The slope of the power: errors of the right classes fall where probabilities rise.
            slope = _compute_entropy(logits, rows, classes).mul_(of_loss).mul_(ctx.gamma)
            slope.mul_(errors ** (ctx.gamma - 1))
            slope[rows, classes] *= -1
            result = (1 - probabilities).mul_(probabilities).mul_(slope)
        probabilities[rows, classes] -= 1  # the slope of the entropy
        result.add_(of_loss.mul_(errors.pow_(ctx.gamma)).mul_(probabilities))
        return result, None, None, None, None


def _compute_entropy(logits: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
    wrong, right = logits.new_zeros(()), logits.new_ones(())
    entropy = F.binary_cross_entropy_with_logits(logits, wrong.expand_as(logits), reduction="none")
    chosen = logits[rows, classes]
    entropy[rows, classes] = F.binary_cross_entropy_with_logits(
        chosen, right.expand_as(chosen), reduction="none"
    )
    return entropy


def _compute_errors(probabilities: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
    """Compute how far probabilities are from 0, and those of the right classes from 1."""
    errors = 1 - (1 - probabilities)  # which rounds as 1 minus the probability of being wrong
    errors[rows, classes] = 1 - probabilities[rows, classes]
    return errors


def _weight(values: Tensor, rows: Tensor, classes: Tensor, alpha: float) -> None:
    if alpha >= 0:
        right = values[rows, classes] * alpha
        values.mul_(1 - alpha)
        values[rows, classes] = right
