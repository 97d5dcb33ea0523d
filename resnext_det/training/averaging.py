"""Average the weights of a training, which often evaluates better than the last weights."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resnext_det.training.checkpoint import load_model_state
from resnext_det.training.loop import Step


class MovingAverage:
    """Keep an exponential moving average of a model's weights; call it after each ``Step``.

    Call it before anything that saves or tests the average: average = decay * average + (1 - decay)
    * weights, and likewise for the batch norms' statistics. At iteration t the decay is at most
    (1 + t) / (10 + t), so that a short training does not average the random start (as in TensorFlow
    and timm).

    Args:
        model: bare, without ``distribute``'s wrapping.
        decay: above 0 and below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._averaged = AveragedModel(model, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The model with the averaged weights."""
        return self._averaged.module

    def __call__(self, step: Step) -> None:
        decay = min(self._decay, (1 + step.iteration) / (10 + step.iteration))
        self._averaged.multi_avg_fn = get_ema_multi_avg_fn(decay)
        self._averaged.update_parameters(self._model)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, in a form that ``read_weights`` reads too."""
        return self._averaged.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        load_model_state(self._averaged, state_dict)
