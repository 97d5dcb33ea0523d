"""Compute the focal loss of RetinaNet, with the gradients that detectron2's compiled one has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_AT_ONCE = 2**16  # numbers a thread of a CPU, whose intermediate results stay in its cache


def sum_focal_loss(
    logits: Sequence[Tensor], labels: Tensor, *, alpha: float, gamma: float
) -> Tensor:
    """Sum the focal loss over images, anchors and classes (arXiv 1708.02002, equation 5).

    Value and gradient are, to the last bit, those of ``fvcore.nn.sigmoid_focal_loss_jit``, once
    torch has compiled that in its second call: eager operations round its gradient otherwise. This
    one keeps only the logits for the backward pass, and takes a third of the time.

    Args:
        logits: (N, Ri, K) of every level of a pyramid; the loss is computed in float32.
        labels: the classes (N, R) of all anchors, level by level; K is the background, where every
            class is wrong, and anchors with -1 are left out.
        alpha: the weight of the right class; the others have 1 - alpha. Negative: all have 1.
        gamma: the power of a prediction's error by which its loss is multiplied.
    """
    if torch.compiler.is_compiling():
        return _sum_in_graph(torch.cat(list(logits), dim=1).float(), labels, alpha, gamma)
    return _FocalLoss.apply(labels, alpha, gamma, *logits)


def _sum_in_graph(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sum the loss of logits (N, R, K) by plain operations, which a compiler fuses."""
    right = labels[..., None] == torch.arange(logits.shape[2], device=labels.device)
    truth = right.to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    loss = entropy * (logits.sigmoid() - truth).abs() ** gamma
    if alpha >= 0:
        loss = loss * torch.where(right, alpha, 1 - alpha)
    return torch.where((labels >= 0)[..., None], loss, 0.0).sum()


class _FocalLoss(torch.autograd.Function):
    """Sum the focal loss as ``sum_focal_loss`` says, part by part, with its own gradient."""

    @staticmethod
    def forward(ctx: Any, labels: Tensor, alpha: float, gamma: float, *levels: Tensor) -> Tensor:
        logits = _gather(levels, labels)
        ctx.save_for_backward(logits, labels)
        ctx.alpha, ctx.gamma = alpha, gamma
        ctx.like = [(level.shape, level.dtype) for level in levels]
        # Of all logits at once: torch computes the end of each tensor by other instructions, which
        # round otherwise, so that sigmoids of parts would differ.
        values = logits.sigmoid()
        for part in _split(logits, labels, gamma):
            loss = _compute_entropy(part.take(logits), part.rows, part.classes)
            errors = _compute_errors(part.take(values), part.rows, part.classes)
            loss.mul_(errors.pow_(gamma))
            _weight(loss, part.rows, part.classes, alpha)
            part.take(values).copy_(loss)
        return values.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels = ctx.saved_tensors
        values = logits.sigmoid()
        for part in _split(logits, labels, ctx.gamma):
            found = _compute_gradient(
                *(part.take(logits), part.take(values), part.rows, part.classes),
                *(grad, ctx.alpha, ctx.gamma),
            )
            part.take(values).copy_(found)
        return None, None, None, *_scatter(values, labels, ctx.like)


def _gather(levels: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Join the logits of all anchors that are not ignored, image by image: (V, K), float32."""
    counts = [level.shape[1] for level in levels]
    parts = [
        level[image][chosen]
        for image, every in enumerate(labels >= 0)
        for level, chosen in zip(levels, every.split(counts))
    ]
    return torch.cat(parts).float()


def _scatter(gradient: Tensor, labels: Tensor, like: Any) -> list[Tensor]:
    """Undo ``_gather``: distribute a gradient (V, K) to tensors of the levels, 0 where ignored.

    Args:
        like: shape and type of every level.
    """
    levels = [gradient.new_zeros(shape, dtype=dtype) for shape, dtype in like]
    counts, start = [level.shape[1] for level in levels], 0
    for image, every in enumerate(labels >= 0):
        for level, chosen in zip(levels, every.split(counts)):
            stop = start + int(chosen.sum())
            level[image][chosen] = gradient[start:stop].to(level.dtype)
            start = stop
    return levels


@dataclass(frozen=True)
class _Part:
    """Select neighboring anchors, which are computed at once.

    Attributes:
        anchors: which of the V anchors of ``_gather``.
        rows, classes: places of the right classes, in their logits alone.
    """

    anchors: slice
    rows: Tensor
    classes: Tensor

    def take(self, values: Tensor) -> Tensor:
        """Take the values of these anchors out of those (V, K) of all, as a view."""
        return values[self.anchors]


def _split(logits: Tensor, labels: Tensor, gamma: float) -> Iterator[_Part]:
    """Split the anchors into parts whose intermediate results stay in the cache of a CPU."""
    found = labels[labels >= 0]
    rows = (found < logits.shape[1]).nonzero().flatten()
    count = max(len(logits), 1)
    if logits.device.type == "cpu" and gamma == 2:  # other powers round as sigmoid does
        count = max(_AT_ONCE * torch.get_num_threads() // logits.shape[1], 1)
    starts = torch.arange(0, len(logits) + count, count, device=rows.device)
    bounds = torch.searchsorted(rows, starts).tolist()
    for start, first, last in zip(range(0, len(logits), count), bounds, bounds[1:]):
        here = rows[first:last]
        yield _Part(slice(start, start + count), here - start, found[here])


def _compute_gradient(
    logits: Tensor,
    probabilities: Tensor,
    rows: Tensor,
    classes: Tensor,
    grad: Tensor,
    alpha: float,
    gamma: float,
) -> Tensor:
    """Compute the gradient of logits (V, K) from that of the sum of their losses."""
    errors = _compute_errors(probabilities, rows, classes)
    of_loss = grad.expand_as(logits).clone()
    _weight(of_loss, rows, classes, alpha)
    result = torch.zeros_like(logits)
    if gamma:
        # The slope of the power: errors of the right classes fall where probabilities rise.
        slope = _compute_entropy(logits, rows, classes).mul_(of_loss).mul_(gamma)
        slope.mul_(errors ** (gamma - 1))
        slope[rows, classes] *= -1
        result = (1 - probabilities).mul_(probabilities).mul_(slope)
    of_entropy = probabilities.clone()
    of_entropy[rows, classes] -= 1
    return result.add_(of_loss.mul_(errors.pow_(gamma)).mul_(of_entropy))


def _compute_entropy(logits: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
    """Compute the cross entropy of logits (V, K), whose right entries are ``rows, classes``."""
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
    """Multiply the right entries by alpha and the others by 1 - alpha, in place."""
    if alpha >= 0:
        right = values[rows, classes] * alpha
        values.mul_(1 - alpha)
        values[rows, classes] = right
