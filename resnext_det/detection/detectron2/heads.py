"""Register heads that compute detectron2's numbers faster, under its names of parameters."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from torch import Tensor

from resnext_det.sparse_rpn import check_convolution, predict_sparsely


@RPN_HEAD_REGISTRY.register()
class ResNeXtSparseRPNHead(StandardRPNHead):
    """Predict what StandardRPNHead does, and compute the gradients of the sampled cells alone.

    ``resnext_det.sparse_rpn`` tells how. In ``torch.jit.script`` it is detectron2's head.

    Raises:
        ValueError: MODEL.RPN.CONV_DIMS asks for several convolutions.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        check_convolution(self.conv)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits: list[Tensor] = []
        deltas: list[Tensor] = []
        for feature in features:
            if not torch.jit.is_scripting():
                layers = (self.conv, self.objectness_logits, self.anchor_deltas)
                predicted = predict_sparsely(feature, *layers)
            else:
                hidden = self.conv(feature)
                predicted = (self.objectness_logits(hidden), self.anchor_deltas(hidden))
            logits.append(predicted[0])
            deltas.append(predicted[1])
        return logits, deltas
