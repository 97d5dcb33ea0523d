"""Hold a likely cause of a low AP."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """Name a fault, what was measured of it, and what to do.

    Attributes:
        title: the fault, in a few words.
        evidence: a sentence with the numbers that tell it.
        advice: a sentence with an action: a key and its value, or a command.
        weight: points of AP that it costs by a measurement or an estimate, 0 to 100.
    """

    title: str
    evidence: str
    advice: str
    weight: float
