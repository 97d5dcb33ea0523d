"""Our mapped samples as detectron2's models take them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from detectron2 import structures

from resnext_det.instances import Boxes, Instances
from resnext_det.training.loop import timed


def converted(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample whose ``Instances`` are detectron2's; tensors are shared."""
    return {
        key: _instances(value) if isinstance(value, Instances) else value for key, value in sample.items()
    }


def _instances(ours: Instances) -> structures.Instances:
    fields = ours.get_fields()
    return structures.Instances(
        ours.image_size,
        **{
            name: structures.Boxes(value.tensor) if isinstance(value, Boxes) else value
            for name, value in fields.items()
        },
    )


class TrainingBatches:
    """The batches of a training from iteration ``start`` on, which may be set until they are first asked for.

    Args:
        make: iteration -> batches of our samples from it on.

    Attributes:
        make: as given.
    """

    def __init__(self, make: Callable[[int], Iterable[list[dict[str, Any]]]]) -> None:
        self.make = make
        self.start = 0

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch, _ in timed(self.make(self.start), self.start):
            yield [converted(sample) for sample in batch]
