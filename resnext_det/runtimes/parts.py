"""The parts of a model that a backend computes, and what stands in their place.

The dense part is the backbone, together with the head of the region proposal network, or that of
RetinaNet: a runtime then computes both as one graph. The other part is the head of the regions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[Tensor], tuple[Tensor, ...]]

# What detectors read of their backbone beside its maps; detectron2 calls ``output_shape``.
_ATTRIBUTES = ("size_divisibility", "padding_constraints", "out_channels", "out_strides")
_REGION_HEADS = ("box_head", "res5")


@dataclass(frozen=True)
class Part:
    """Describe a part of a model that computes several tensors from one.

    Attributes:
        name: "dense" or "regions".
        network: its forward maps a tensor to a tuple of tensors.
        example: an input.
        outputs: the exact ones of the example.
        multiples: the axes of the input whose size may change, and what that is a multiple of.
    """

    name: str
    network: nn.Module
    example: Tensor
    outputs: tuple[Tensor, ...]
    multiples: Mapping[int, int]

    def crop_example(self) -> Tensor:
        """Crop the example to about half along every axis whose size may change."""
        cropped = self.example
        for axis, multiple in self.multiples.items():
            size = max(cropped.shape[axis] // 2 // multiple, 1) * multiple
            cropped = cropped.narrow(axis, 0, min(size, cropped.shape[axis]))
        return cropped.contiguous()

    def check(self, x: Tensor) -> None:
        """Refuse an input of another shape than the part computes.

        Raises:
            ValueError: another number of axes, a fixed size, or no multiple of what it has to be.
        """
        given, known = tuple(x.shape), tuple(self.example.shape)
        fits = len(given) == len(known) and all(
            size > 0 and size % self.multiples[axis] == 0 if axis in self.multiples else size == own
            for axis, (size, own) in enumerate(zip(given, known))
        )
        if not fits:
            wanted = [
                _format_size(self.multiples[axis]) if axis in self.multiples else str(own)
                for axis, own in enumerate(known)
            ]
            raise ValueError(
                f"the input has the shape {given}; this network was optimized for "
                f"({', '.join(wanted)}): pad the images to such a size"
            )


def _format_size(multiple: int) -> str:
    return "any" if multiple == 1 else f"a multiple of {multiple}"


def measure_difference(found: Tensor, exact: Tensor) -> float:
    """Measure the largest difference from the exact values, in units of the largest of those."""
    largest = exact.abs().max().clamp(min=torch.finfo(exact.dtype).tiny)
    return float((found - exact).abs().max() / largest)


def list_outputs(maps: Any, lists: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """List the maps of a backbone, or its only output, and then what a proposal head returned."""
    outputs = [maps] if isinstance(maps, Tensor) else list(maps.values())
    return (*outputs, *(output for several in lists for output in several))


class DenseNetwork(nn.Module):
    """Compute a backbone's maps, and the outputs of the proposal head on some of them.

    Args:
        backbone: gives {name: map}, or a tensor.
        head: maps a list of maps to lists of tensors; None without one.
        names: of the maps that ``head`` takes.
        every: the names of all maps; none for a backbone that gives a tensor.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module | None = None,
        names: Sequence[str] = (),
        every: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.names, self.every = tuple(names), tuple(every)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images to the maps, then the head's outputs: all of its first list, then the next."""
        maps = self.backbone(images)
        if self.head is None:
            return list_outputs(maps, ())
        return list_outputs(maps, self.head([maps[name] for name in self.names]))


class RegionNetwork(nn.Module):
    """Compute the head of the regions, whose output becomes a tuple of one tensor."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, regions: Tensor) -> tuple[Tensor, ...]:
        return (self.head(regions),)


class StandIn(nn.Module):
    """Stand in for a part of a model, for inference alone; it has no weights to save or load."""

    def refuse_training(self) -> None:
        """Raise a ValueError in training mode."""
        if self.training:
            raise ValueError(
                "an optimized model is for inference alone, and this one is in training mode; "
                "call its eval(), and train the model that optimize() was given"
            )

    def _save_to_state_dict(self, *_: Any) -> None:
        raise ValueError(
            "an optimized model has no weights to save: its backend has them; save those of the "
            "model that optimize() was given"
        )

    def _load_from_state_dict(self, *_: Any) -> None:
        raise ValueError(
            "an optimized model takes no weights: its backend has them; load these into the model "
            "that optimize() was given, and optimize it again"
        )


class FastBackbone(StandIn):
    """Stand in for a backbone: images in, maps out, as ``run`` computes them.

    What ``run`` gave of the proposal head travels with the first map that this head takes, as an
    attribute of that tensor; so it is kept as long as the map, and no longer.

    Args:
        backbone: what it stands for.
        run: computes the outputs of ``DenseNetwork``.
        maps: names of the maps that ``run`` gives first; none where the output is a tensor.
        first: the map that the head's outputs travel with.
    """

    def __init__(self, backbone: nn.Module, run: Run, maps: Sequence[str], first: str = "") -> None:
        super().__init__()
        self.run, self.maps, self.first = run, tuple(maps), first
        for name in _ATTRIBUTES:
            if hasattr(backbone, name):
                setattr(self, name, getattr(backbone, name))
        if hasattr(backbone, "output_shape"):
            self.shape: Any = backbone.output_shape()  # type: ignore[operator]

    def output_shape(self) -> Any:
        """Return detectron2's description of the maps."""
        return self.shape

    def forward(self, images: Tensor) -> Any:
        self.refuse_training()
        outputs = self.run(images)
        if not self.maps:
            return outputs[0]
        maps = dict(zip(self.maps, outputs))
        if self.first:
            maps[self.first].proposal_outputs = outputs[len(maps) :]  # type: ignore[attr-defined]
        return maps


class FastProposalHead(StandIn):
    """Stand in for the head of the proposal network: return what ``FastBackbone`` computed.

    Args:
        lists: how many lists of tensors the head returns, one tensor for every map.
    """

    def __init__(self, lists: int) -> None:
        super().__init__()
        self.lists = lists

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        self.refuse_training()
        outputs = getattr(maps[0], "proposal_outputs", None)
        if outputs is None or len(outputs) != self.lists * len(maps):
            raise ValueError(
                "the proposal head of an optimized detector takes the maps of its own backbone, "
                "unchanged; to compute on others, use the detector that optimize() was given"
            )
        count = len(maps)
        return tuple(list(outputs[i * count : (i + 1) * count]) for i in range(self.lists))


class FastRegionHead(StandIn):
    """Stand in for the head of the regions.

    Args:
        run: maps regions (R, C, H, W) to a tuple of one tensor; it is not called with no region.
        empty: the output without a region, of the shape (0, ...).
    """

    def __init__(self, run: Run, empty: Tensor) -> None:
        super().__init__()
        self.run, self.empty = run, empty

    def forward(self, regions: Tensor) -> Tensor:
        self.refuse_training()
        return self.run(regions)[0] if len(regions) else self.empty.clone()


def find_region_head(model: nn.Module) -> nn.Module | None:
    """Find the head that computes the features of cut regions; None without one."""
    heads = getattr(model, "roi_heads", None)
    found = (getattr(heads, name, None) for name in _REGION_HEADS)
    return next((head for head in found if isinstance(head, nn.Module)), None)


def find_proposal_head(model: nn.Module) -> tuple[nn.Module | None, tuple[str, ...]]:
    """Find the head of the region proposal network and the names of its maps; None without one.

    RetinaNet's only head, which predicts at every anchor too, is found as well.
    """
    dense = getattr(model, "head", None)
    if isinstance(dense, nn.Module) and hasattr(model, "head_in_features"):
        return dense, tuple(model.head_in_features)  # type: ignore[arg-type]
    generator = getattr(model, "proposal_generator", None)
    head = getattr(generator, "rpn_head", None)
    if not isinstance(head, nn.Module):
        return None, ()
    return head, tuple(getattr(generator, "in_features", ()))


def _copy(output: Any) -> Any:
    """Copy the tensors of an output, which detectron2's RetinaNet changes in place."""
    if isinstance(output, Tensor):
        return output.clone()
    if isinstance(output, Mapping):
        return {name: _copy(value) for name, value in output.items()}
    return type(output)(map(_copy, output))


def record_calls(
    model: nn.Module, parts: Sequence[nn.Module], call: Callable[[], Any]
) -> dict[nn.Module, tuple[Tensor, Any]]:
    """Call a model, and return the first input and the output of each of its parts that is called.

    A part that takes a list of maps, as the proposal head does, has its first map as input.
    """
    found: dict[nn.Module, tuple[Tensor, Any]] = {}

    def record(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        first = inputs[0] if isinstance(inputs[0], Tensor) else inputs[0][0]
        found.setdefault(part, (first, _copy(output)))

    handles = [part.register_forward_hook(record) for part in parts]
    try:
        with torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()
    return found
