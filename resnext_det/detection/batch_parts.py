"""Train Faster R-CNN, its cascade and Mask R-CNN in less memory: losses of a batch in parts.

It works on the model of either engine, of which it knows the names that both share: backbone,
proposal_generator, roi_heads and their box_predictor and mask_head.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from resnext_det.training import distributed

AnchorDraw = Callable[[Any, Mapping[str, Tensor], Sequence[Mapping[str, Any]]], object]
"""Draws the anchors of samples as a training step does, from an RPN and any maps of their size."""

_MEANS_OVER_IMAGES = ("loss_rpn_cls", "loss_rpn_loc")
_MEANS_OVER_REGIONS = ("loss_cls", "loss_box_reg")
_MEANS_OVER_OBJECTS = ("loss_mask",)


class BatchParts:
    """Compute the losses of a batch in parts, whose gradients add up to the whole batch's.

    It is a ``LossParts`` of the training loop. The parts draw the random numbers that the whole
    batch draws, so that the same anchors and regions are sampled; images are padded to the size of
    the whole batch; and each loss is weighted by what it is a mean over: those of the RPN by
    images, those of the regions by sampled regions, in a cascade by those of their stage, and that
    of masks by the regions that are objects. How many regions there are is known once all parts
    were computed: where an image has less than the configured number, the batch is computed again.
    The objects among them are counted before, by a pass without gradients.

    Args:
        model: bare, of either engine: a detector whose losses are those of Faster R-CNN, of a
            cascade or of Mask R-CNN.
        parts: how many.
        regions_per_image: MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE.
        draw_anchors: draws what the engine's RPN draws.
    """

    def __init__(
        self, model: Any, *, parts: int, regions_per_image: int, draw_anchors: AnchorDraw
    ) -> None:
        self._model, self._parts = model, parts
        self._regions_per_image, self._draw_anchors = regions_per_image, draw_anchors
        self._counts: list[int] = []  # of the part that was computed last, as _list_counted

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
        if getattr(getattr(self._model, "roi_heads", None), "mask_head", None) is None:
            expected = [self._regions_per_image * len(batch)] * len(self._list_counted())
        else:
            expected = self._count(parts)
            _set_random_state(state, device)
        found = yield from self._compute(parts, expected)
        while found != expected:
            yield None
            _set_random_state(state, device)
            expected = found
            found = yield from self._compute(parts, expected)
        # Only here: whether a part is the last one depends on the regions of each process.
        distributed.average_gradients(self._model)

    def _count(self, parts: Sequence[Sequence[dict[str, Any]]]) -> list[int]:
        """Count what the losses of the whole batch are means over."""
        total = [0] * len(self._list_counted())
        with torch.no_grad():
            for _ in self._run(parts):
                total = [sum(counts) for counts in zip(total, self._counts, strict=True)]
        # Or older versions of torch give the first part the weights cast here, without gradients.
        torch.clear_autocast_cache()
        return total

    def _compute(
        self, parts: Sequence[Sequence[dict[str, Any]]], expected: Sequence[int]
    ) -> Generator[dict[str, Tensor] | None, None, list[int]]:
        """Yield the losses of each part, weighted for so many regions in all; return how many.

        Both are counted as ``_list_counted`` says. Where there are others, the last part is not
        yielded.
        """
        images = sum(map(len, parts))
        found, named = [0] * len(expected), [names for _, names in self._list_counted()]
        sizes = [len(part) for part in parts]
        for losses in self._run(parts):  # not enumerate, which would keep those of the last part
            found = [sum(counts) for counts in zip(found, self._counts, strict=True)]
            weights = dict.fromkeys(_MEANS_OVER_IMAGES, sizes.pop(0) / images)
            if not sizes and found != expected:
                return found
            for names, own, total in zip(named, self._counts, expected, strict=True):
                weights |= dict.fromkeys(names, own / max(total, 1))
            losses = _weight(losses, weights)
            yield losses
            del losses  # and with it what is left of its graph, before the next part
        return found

    def _run(self, parts: Sequence[Sequence[dict[str, Any]]]) -> Iterator[dict[str, Tensor]]:
        """Yield the losses that the model gives of each part, which are means over that alone."""
        batch = [sample for part in parts for sample in part]
        with ExitStack() as stack:
            for handle in (pad_images(self._model.backbone, batch), *self._count_regions()):
                stack.callback(handle.remove)
            draws = self._share_draws(batch[len(parts[0]) :], stack)
            for part in parts:
                self._counts = []
                losses = self._model(part)
                if draws is not None:
                    draws.leave_part()
                yield losses
                del losses

    def _list_counted(self) -> list[tuple[nn.Module, tuple[str, ...]]]:
        """List the modules that get a row a region, with the losses that are means over these.

        They are the box predictor or those of a cascade's stages, and the mask head.
        """
        heads = getattr(self._model, "roi_heads", None)
        if heads is None:
            return []
        counted: list[tuple[nn.Module, tuple[str, ...]]]
        counted = [(heads.box_predictor, _MEANS_OVER_REGIONS)]
        if isinstance(heads.box_predictor, nn.ModuleList):
            counted = [
                (predictor, tuple(f"{name}_stage{stage}" for name in _MEANS_OVER_REGIONS))
                for stage, predictor in enumerate(heads.box_predictor)
            ]
        if getattr(heads, "mask_head", None) is not None:
            counted.append((heads.mask_head, _MEANS_OVER_OBJECTS))
        return counted

    def _count_regions(self) -> list[RemovableHandle]:
        def count(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            self._counts.append(len(arguments[0]))

        return [module.register_forward_pre_hook(count) for module, _ in self._list_counted()]

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
    unit = get_padding_unit(backbone)
    sides = zip(*(sample["image"].shape[-2:] for sample in batch))
    height, width = (-(-max(side) // unit) * unit for side in sides)
    return height, width


def get_padding_unit(backbone: Any) -> int:
    """Get the pixels to multiples of which a detector pads both sides of its images; 1 for none."""
    return max(int(getattr(backbone, "size_divisibility", 0)), 1)


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
