"""Train a detector in less memory: a batch in parts, and maps that are computed again.

Both work on the model of either engine, of which they know the names that both share: backbone,
proposal_generator, roi_heads and its box_predictor.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from resnext_det.resnext import Bottleneck
from resnext_det.training import distributed

AnchorDraw = Callable[[Any, Mapping[str, Tensor], Sequence[Mapping[str, Any]]], object]
"""Draws the anchors of samples as a training step does, from an RPN and any maps of their size."""

STAGES = ("res2", "res3", "res4", "res5")
_MEANS_OVER_IMAGES = ("loss_rpn_cls", "loss_rpn_loc")
_MEANS_OVER_REGIONS = ("loss_cls", "loss_box_reg")


@dataclass(frozen=True)
class MemorySaving:
    """Choose what a training does to need less memory.

    Attributes:
        accumulate: the parts in which each batch is computed, one after another. Their gradients
            add up to those of the whole batch, within float32's rounding.
        recompute: stages of the network, "res2" to "res5", of whose blocks only the inputs are
            kept; the rest is computed again in the backward pass. It changes no bit.

    Raises:
        ValueError: less than one part, or a name that is no stage.
    """

    accumulate: int = 1
    recompute: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(
                f"a batch cannot be accumulated from {self.accumulate} parts; write --accumulate 1 "
                "for the batch at once, or the number of its parts"
            )
        unknown = [name for name in self.recompute if name not in STAGES]
        if unknown:
            raise ValueError(
                f"there is no stage {unknown[0]!r} to recompute; choose of {', '.join(STAGES)}"
            )

    def check_batch(self, images: int) -> None:
        """Refuse more parts than a process has images of a batch.

        Raises:
            ValueError: see above.
        """
        if self.accumulate > images:
            raise ValueError(
                f"a batch of {images} images in each process has no {self.accumulate} parts; write "
                f"--accumulate {images} or less, or a larger SOLVER.IMS_PER_BATCH"
            )

    def check(self, model: nn.Module, images: int) -> None:
        """Refuse what cannot give the numbers of the whole batch.

        Args:
            model: bare, in training mode.
            images: of a batch, in this process.

        Raises:
            ValueError: more parts than images; batch norms that are trained; a mask head in parts.
        """
        self.check_batch(images)
        heads = getattr(model, "roi_heads", None)
        if self.accumulate > 1 and getattr(heads, "mask_head", None) is not None:
            raise ValueError(
                "--accumulate does not go with the mask head: its loss is a mean over the objects "
                "among the regions, whose number no part of a batch knows; leave it out, or write "
                "MODEL.MASK_ON False"
            )
        for name, module in model.named_modules():
            recomputed = set(name.split(".")) & set(self.recompute)
            if isinstance(module, _BatchNorm) and (self.accumulate > 1 or recomputed):
                flag, why = "--recompute", "it would count the statistics of each batch twice"
                if self.accumulate > 1:
                    flag, why = "--accumulate", "its statistics would be those of the parts"
                raise ValueError(
                    f"{flag} does not go with the batch norm {name}, which is trained: {why}; "
                    'choose NORM "FrozenBN" or "GN", or leave the flag out'
                )


NO_SAVING = MemorySaving()


def recompute_stages(model: nn.Module, stages: Sequence[str]) -> None:
    """Let the blocks of the named stages keep only their inputs for the backward pass.

    Args:
        model: a detector of either engine, or a backbone.
        stages: names among ``STAGES``; in a C4 detector res5 is the head of the regions.

    Raises:
        ValueError: the model has no such stage, or its blocks are not this package's.
    """
    for stage in stages:
        found = [
            module
            for name, module in model.named_modules()
            if isinstance(module, Bottleneck) and stage in name.split(".")
        ]
        if not found:
            raise ValueError(
                f"the model has no {stage} of this package's blocks to recompute; leave it out of "
                "--recompute"
            )
        for block in found:
            block.is_recomputed = True


class BatchParts:
    """Compute the losses of a batch in parts, whose gradients add up to the whole batch's.

    It is a ``LossParts`` of the training loop. The parts draw the random numbers that the whole
    batch draws, so that the same anchors and regions are sampled; images are padded to the size of
    the whole batch; and each loss is weighted by what it is a mean over: those of the RPN by
    images, those of the regions by sampled regions, in a cascade by those of their stage. How many
    those are is known once all parts were computed: where an image has less than the configured
    number, the batch is computed again.

    Args:
        model: bare, of either engine: a detector whose losses are those of Faster R-CNN or of a
            cascade.
        parts: how many.
        regions_per_image: MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE.
        draw_anchors: draws what the engine's RPN draws.
    """

    def __init__(
        self, model: Any, *, parts: int, regions_per_image: int, draw_anchors: AnchorDraw
    ) -> None:
        self._model, self._parts = model, parts
        self._regions_per_image, self._draw_anchors = regions_per_image, draw_anchors
        self._regions: list[int] = []  # of the part that was computed last, by stage

    def __call__(
        self, model: nn.Module, batch: Sequence[dict[str, Any]]
    ) -> Iterator[dict[str, Tensor] | None]:
        """Yield the losses of each part.

        Args:
            model: the same model, bare or wrapped for several processes. It is called bare; the
                processes' gradients are averaged once those of the last part are computed.

        Raises:
            ValueError: the model has other losses.
        """
        parts = split_batch(batch, self._parts)
        device = self._get_device()
        state = _get_random_state(device)
        expected = [self._regions_per_image * len(batch)] * len(self._list_predictors())
        found = yield from self._compute(parts, expected)
        if found != expected:
            yield None
            _set_random_state(state, device)
            yield from self._compute(parts, found)
        # Only here: whether a part is the last one depends on the regions of each process.
        distributed.average_gradients(self._model)

    def _compute(
        self, parts: Sequence[Sequence[dict[str, Any]]], regions: Sequence[int]
    ) -> Generator[dict[str, Tensor] | None, None, list[int]]:
        """Yield the losses of each part, for so many regions in all; return how many there are.

        Both are counted for each stage. Where there are others, the last part is not yielded.
        """
        batch = [sample for part in parts for sample in part]
        found = [0] * len(regions)
        with ExitStack() as stack:
            for handle in (pad_images(self._model.backbone, batch), *self._count_regions()):
                stack.callback(handle.remove)
            draws = self._share_draws(batch[len(parts[0]) :], stack)
            for index, part in enumerate(parts):
                self._regions = []
                losses = self._model(part)
                found = [sum(counts) for counts in zip(found, self._regions, strict=True)]
                if draws is not None:
                    draws.leave_part()
                if index == len(parts) - 1 and found != regions:
                    return found
                weights = dict.fromkeys(_MEANS_OVER_IMAGES, len(part) / len(batch))
                for stage, (own, all_regions) in enumerate(zip(self._regions, regions)):
                    share = own / max(all_regions, 1)
                    weights |= dict.fromkeys(self._name_losses(stage), share)
                losses = _weight(losses, weights)
                yield losses
                del losses  # and with it what is left of its graph, before the next part
        return found

    def _list_predictors(self) -> list[nn.Module]:
        """List the box predictors: one, one for each stage of a cascade, or none."""
        heads = getattr(self._model, "roi_heads", None)
        if heads is None:
            return []
        predictor = heads.box_predictor
        return list(predictor) if isinstance(predictor, nn.ModuleList) else [predictor]

    def _name_losses(self, stage: int) -> list[str]:
        """Name the losses that are means over the regions of a stage."""
        if isinstance(self._model.roi_heads.box_predictor, nn.ModuleList):
            return [f"{name}_stage{stage}" for name in _MEANS_OVER_REGIONS]
        return list(_MEANS_OVER_REGIONS)

    def _count_regions(self) -> list[RemovableHandle]:
        def count(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            self._regions.append(len(arguments[0]))

        return [one.register_forward_pre_hook(count) for one in self._list_predictors()]

    def _share_draws(self, rest: Sequence[dict[str, Any]], stack: ExitStack) -> _Draws | None:
        """Give the parts the random numbers of the whole batch, where they would have others.

        Args:
            rest: the samples that follow the first part.
        """
        rpn = getattr(self._model, "proposal_generator", None)
        if rpn is None or getattr(self._model, "roi_heads", None) is None:
            return None  # what draws goes from image to image
        draws = _Draws(lambda maps: self._draw_anchors(rpn, maps, rest), self._get_device())
        stack.callback(rpn.register_forward_pre_hook(draws.enter_rpn).remove)
        stack.callback(rpn.register_forward_hook(draws.leave_rpn).remove)
        return draws

    def _get_device(self) -> torch.device:
        return next(self._model.parameters()).device


def split_batch(batch: Sequence[dict[str, Any]], parts: int) -> list[Sequence[dict[str, Any]]]:
    """Split a batch into so many parts or fewer, all of one size but the last."""
    size = -(-len(batch) // parts)
    return [batch[first : first + size] for first in range(0, len(batch), size)]


def pad_images(backbone: nn.Module, batch: Sequence[Mapping[str, Any]]) -> RemovableHandle:
    """Let a backbone pad the images of each part of a batch to the size of the whole batch."""
    height, width = compute_padded_size(backbone, batch)

    def pad(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        images, *others = arguments
        missing = (0, width - images.shape[-1], 0, height - images.shape[-2])
        return (F.pad(images, missing) if any(missing) else images, *others)

    return backbone.register_forward_pre_hook(pad)


def compute_padded_size(backbone: nn.Module, batch: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Compute the height and width to which a detector pads the images of a batch."""
    unit = max(int(getattr(backbone, "size_divisibility", 0)), 1)
    sides = zip(*(sample["image"].shape[-2:] for sample in batch))
    height, width = (-(-max(side) // unit) * unit for side in sides)
    return height, width


class _Draws:
    """Let torch's generators give the RPN of each part, and then its heads, what the batch's draw.

    The whole batch draws the anchors of all images, and then the regions of all images.
    """

    def __init__(
        self, draw_other_anchors: Callable[[Mapping[str, Tensor]], object], device: torch.device
    ) -> None:
        self._draw_other_anchors, self._device = draw_other_anchors, device
        self._of_rpn: _RandomState | None = None
        self._of_heads: _RandomState | None = None

    def enter_rpn(self, rpn: nn.Module, arguments: tuple[Any, ...]) -> None:
        if self._of_rpn is not None:
            _set_random_state(self._of_rpn, self._device)

    def leave_rpn(self, rpn: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self._of_rpn = _get_random_state(self._device)
        if self._of_heads is None:
            self._draw_other_anchors(arguments[1])
        else:
            _set_random_state(self._of_heads, self._device)

    def leave_part(self) -> None:
        self._of_heads = _get_random_state(self._device)


_RandomState = tuple[Tensor, Tensor | None]


def _get_random_state(device: torch.device) -> _RandomState:
    on_gpu = device.type == "cuda"
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None


def _set_random_state(state: _RandomState, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def _weight(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    other = sorted(losses.keys() - weights.keys())
    if other:
        raise ValueError(
            f"--accumulate knows the losses {', '.join(weights)}, and the model has {other[0]} "
            "too, of which it cannot tell how the parts of a batch add up; leave it out"
        )
    return {name: loss * weights[name] for name, loss in losses.items()}
