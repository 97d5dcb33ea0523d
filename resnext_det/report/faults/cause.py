"""Hold a likely cause of a low AP."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SETTING = re.compile(r",? (?:and|or) write ([A-Z]+(?:\.[A-Z_]+)+) (\w+)")


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


def leave_out_set(advice: str, get: Callable[[str], Any]) -> str:
    """Leave out of an advice the settings, "and write KEY VALUE", that have this value already.

    Args:
        get: gives the value of a key.

    >>> leave_out_set("Add some and write TEST.PATIENCE 3.", {"TEST.PATIENCE": 3}.get)
    'Add some.'
    """
    return _SETTING.sub(lambda found: "" if str(get(found[1])) == found[2] else found[0], advice)
