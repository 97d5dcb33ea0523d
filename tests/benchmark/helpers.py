"""A clock that steps move, and a case whose outputs and times are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from resnext_det.benchmark.cases import Candidate, Case, Key


@dataclass
class FakeClock:
    """Tell the seconds that steps have taken."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def make_step(self, *seconds: float) -> Any:
        """Make a step that takes these seconds in turn, the last from then on."""
        left = list(seconds)

        def step() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return step


@dataclass(frozen=True)
class FakeCase(Case):
    """Compare what takes some seconds and gives some outputs; an error is raised in building."""

    clock: FakeClock
    seconds: Mapping[tuple[str, str, str], float]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    multiply_adds: int | None = None
    device = torch.device("cpu")
    reference = "theirs"
    title = "a fake"

    def list_keys(self) -> list[Key]:
        return [Key(*names) for names in self.seconds]

    def build(self, key: Key) -> Candidate:
        output = self.outputs.get(key.name, 1.0)
        if isinstance(output, Exception):
            raise output
        step = self.clock.make_step(self.seconds[key])
        return Candidate(step, lambda: {"map": output}, self.multiply_adds)
