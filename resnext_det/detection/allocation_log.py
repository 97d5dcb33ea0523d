"""Log the memory of a computation's tensors, with zeros in place of what takes long to compute.

Convolutions, matrix products and RoIAlign give zeros of the right shape, type and layout.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

# Of a convolution: where its weights stand, and how often a kernel copies them at most.
_COPIES_OF_WEIGHTS = {"aten::convolution": (1, 1), "aten::convolution_backward": (2, 3)}
_GIVE_ZEROS = (
    *_COPIES_OF_WEIGHTS,
    *("aten::mm", "aten::addmm", "aten::bmm"),
    *("torchvision::roi_align", "torchvision::_roi_align_backward"),
)


class AllocationLog(TorchDispatchMode):
    """Count the bytes of the tensors that are alive, and give zeros for heavy operations.

    It counts within ``with log:``, and the tensors that ``note`` was given before.

    Attributes:
        phase: a name of what is computed now, under which the next bytes are counted.
        peaks: the most bytes by phase.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase = "before"
        self.peaks: dict[str, int] = {}
        self._alive = 0
        self._known: Any = weakref.WeakSet()

    def note(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed, if it is a new one."""
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known.add(storage)
            size = storage.nbytes()
            self._alive += size
            weakref.finalize(storage, self._free, size)
        self.peaks[self.phase] = max(self._alive, self.peaks.get(self.phase, 0))

    def _free(self, size: int) -> None:
        self._alive -= size

    def enter(self, name: str) -> Callable[..., None]:
        """Make a hook before a module's ``forward``, which begins the phase of its call."""

        def enter(module: nn.Module, arguments: Any) -> None:
            self.phase = f"{name} is called"

        return enter

    def leave(self, name: str) -> Callable[..., None]:
        """Make a hook after a module's ``forward``, which ends the phase of its call.

        The arrival of the output's gradient begins another.
        """

        def arrive(gradient: Tensor) -> None:
            self.phase = f"{name} gets its gradient"

        def leave(module: nn.Module, arguments: Any, output: Any) -> None:
            self.phase = f"{name} was called"
            for tensor in tree_leaves(output):
                if isinstance(tensor, Tensor) and tensor.requires_grad:
                    tensor.register_hook(arrive)

        return leave

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in _GIVE_ZEROS and not func._schema.is_mutable:
            result = _give_zeros(func, args, kwargs or {})
        else:
            result = func(*args, **(kwargs or {}))
            if name == "aten::empty" and result.is_floating_point():
                result.zero_()  # so that regions that are not cut out hold numbers
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.note(tensor)
        if name in _COPIES_OF_WEIGHTS:
            place, copies = _COPIES_OF_WEIGHTS[name]
            passing = self._alive + copies * args[place].nbytes
            self.peaks[self.phase] = max(passing, self.peaks[self.phase])
        return result


def _give_zeros(func: Any, args: Any, kwargs: Any) -> Any:
    """Give zeros of the shape, type and layout of an operator's result."""

    def describe(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    def is_channels_last(tensor: Any) -> bool:
        return (
            isinstance(tensor, Tensor)
            and tensor.dim() == 4
            and tensor.is_contiguous(memory_format=torch.channels_last)
            and not tensor.is_contiguous()
        )

    # Kernels keep the layout of what they take; torch's descriptions of them do not tell.
    keeps = func._schema.name in _COPIES_OF_WEIGHTS and any(map(is_channels_last, args))

    def fill(shape: Tensor) -> Tensor:
        if keeps and shape.dim() == 4:
            shape = torch.empty_like(shape, memory_format=torch.channels_last)
        entries = shape.untyped_storage().nbytes() // shape.element_size()
        return torch.zeros(entries, dtype=shape.dtype).as_strided(shape.shape, shape.stride())

    described, options = tree_map_only(Tensor, describe, (args, kwargs))
    return tree_map_only(Tensor, fill, func(*described, **options))
