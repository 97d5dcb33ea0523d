"""Boxes and the instances of an image: what a detector takes and gives.

Both behave as the classes of these names in ``detectron2.structures``, so that a portable detector
takes detectron2's dicts and detectron2's evaluators take a portable detector's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that detectors without torch take the class names from here
    import torch


class Boxes:
    """Axis-aligned boxes; ``tensor`` is float, of shape (N, 4): x0, y0, x1, y1 in pixels."""

    def __init__(self, tensor: torch.Tensor) -> None:
        # The shape goes first: in a graph of torch.compile only it is known of boxes not yet found.
        fits = tensor.dim() == 2 and tensor.shape[1] == 4
        if not fits and tensor.numel() == 0:
            tensor, fits = tensor.reshape(-1, 4), True
        if not fits:
            raise ValueError(
                f"boxes have shape {tuple(tensor.shape)}; "
                "give a tensor of shape (N, 4): x0, y0, x1, y1"
            )
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: Any) -> Boxes:
        """Select by slice, mask or tensor of indices, or by a number: Boxes of length 1."""
        return Boxes(self.tensor[index].reshape(-1, 4))

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    def to(self, device: torch.device | str) -> Boxes:
        return Boxes(self.tensor.to(device))


class Instances:
    """The objects of one image: fields of one length N, which are attributes too.

    Args:
        image_size: (height, width) in pixels of the image that the fields refer to.
        **fields: tensors or Boxes of length N: ``gt_boxes``, ``pred_boxes``, ``scores`` ...
    """

    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        self.image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in fields.items():
            self.set(name, value)

    def set(self, name: str, value: Any) -> None:
        """Set a field.

        Raises:
            ValueError: its length differs from the other fields'.
        """
        if self._fields and len(value) != len(self):
            raise ValueError(
                f"field {name!r} has {len(value)} entries where the others have {len(self)}; "
                f"give {len(self)}"
            )
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def get(self, name: str) -> Any:
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        return self._fields

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("image_size", "_fields"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("_fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"no field {name!r}; there are {', '.join(fields) or 'none'}")

    def __getitem__(self, index: Any) -> Instances:
        """Select by slice, mask or tensor of indices, or by a number: Instances of length 1."""
        if isinstance(index, int):
            position = range(len(self))[index]  # raises IndexError, and counts from the end
            index = slice(position, position + 1)
        fields = {name: value[index] for name, value in self._fields.items()}
        return Instances(self.image_size, **fields)

    def __len__(self) -> int:
        return next((len(value) for value in self._fields.values()), 0)

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError("Instances are not iterable: index them, or iterate over a field")

    def __repr__(self) -> str:
        return f"Instances({len(self)}, image_size={self.image_size}, fields={list(self._fields)})"

    def to(self, device: torch.device | str) -> Instances:
        fields = {name: value.to(device) for name, value in self._fields.items()}
        return Instances(self.image_size, **fields)


def name_classes(count: int, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Name the classes of a detector or classifier: as given, or "class 0", "class 1" ...

    Raises:
        ValueError: another number of names than of classes.
    """
    if names and len(names) != count:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ValueError(
            f"there are {len(names)} class names ({shown}) for the model's {count} classes; give "
            f"{count}"
        )
    return tuple(names) or tuple(f"class {index}" for index in range(count))
