"""Train RetinaNet in less memory: the losses of a batch, computed in parts.

It works on the model of either engine, of which it knows the names that both share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from resnext_det.detection.batch_parts import compute_padded_size, pad_images, split_batch
from resnext_det.training import distributed
from resnext_det.training.normalizer import exchange_average

_LOSSES = {"loss_cls", "loss_box_reg"}


class DenseBatchParts:
    """Compute the losses of RetinaNet in parts, whose gradients add up to the whole batch's.

    It is a ``LossParts`` of the training loop. The losses are sums over anchors, which are divided
    by one number: an average that follows the anchors on objects of each batch. These depend on
    sizes and boxes alone, and are counted before the first part is computed. Images are padded to
    the size of the whole batch.

    Args:
        model: bare, of either engine.
        parts: how many.
    """

    def __init__(self, model: Any, *, parts: int) -> None:
        self._model, self._parts = model, parts
        self._divides_by_image = getattr(model, "as_torchvision", False)

    def __call__(
        self, model: nn.Module, batch: Sequence[dict[str, Any]]
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the losses of each part.

        Args:
            model: the same model, bare or wrapped for several processes. It is called bare; the
                processes' gradients are averaged once those of the last part are computed.

        Raises:
            ValueError: the model has other losses.
        """
        handle = pad_images(self._model.backbone, batch)
        try:
            with self._divide_as(batch):
                for part in split_batch(batch, self._parts):
                    losses = self._model(part)
                    if losses.keys() != _LOSSES:
                        raise ValueError(
                            "--accumulate does not know how the parts of a batch add up in the "
                            f"losses {', '.join(losses)}; leave it out"
                        )
                    share = len(part) / len(batch) if self._divides_by_image else 1.0
                    losses = {name: loss * share for name, loss in losses.items()}
                    yield losses
                    del losses  # and with it what is left of its graph, before the next part
        finally:
            handle.remove()
        distributed.average_gradients(self._model)

    @contextmanager
    def _divide_as(self, batch: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        """Let every part divide its losses as the whole batch does."""
        if self._divides_by_image:
            yield
            return
        count = max(self._count_objects(batch), 1)
        normalizer = self._model._ema_update("loss_normalizer", count, 100)
        with exchange_average(self._model, lambda _: normalizer):
            yield

    def _count_objects(self, batch: Sequence[Mapping[str, Any]]) -> int:
        """Count the anchors on objects of a batch."""
        backbone, device = self._model.backbone, next(self._model.parameters()).device
        height, width = compute_padded_size(backbone, batch)
        strides = getattr(backbone, "out_strides", None)
        if strides is None:  # detectron2's
            strides = {name: shape.stride for name, shape in backbone.output_shape().items()}
        maps = [
            torch.empty(
                0, 0, -(-height // strides[name]), -(-width // strides[name]), device=device
            )
            for name in self._model.head_in_features
        ]
        targets = [sample["instances"].to(device) for sample in batch]
        labels, _ = self._model.label_anchors(self._model.anchor_generator(maps), targets)
        every = torch.stack(list(labels))
        return int(((every >= 0) & (every != self._model.num_classes)).sum())
