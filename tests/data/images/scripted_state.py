"""A random generator whose draws are written beforehand."""

from __future__ import annotations

from typing import Any


class ScriptedState:
    """Gives what is written, and writes down what was asked."""

    def __init__(self, *values: Any) -> None:
        self.values, self.asked = list(values), []

    def _next(self, *question: Any) -> Any:
        self.asked.append(question)
        return self.values.pop(0)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Any:
        return self._next("uniform", low, high)

    def randint(self, low: int, high: int) -> Any:
        return self._next("randint", low, high)

    def permutation(self, length: int) -> Any:
        return self._next("permutation", length)

    def normal(self, mean: float, std: float, size: int) -> Any:
        return self._next("normal", mean, std, size)
