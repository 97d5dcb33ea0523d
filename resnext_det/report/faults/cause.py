"""Hold a likely cause of a low AP."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SETTING = re.compile(r",? (?:and|or) write ([A-Z]+(?:\.[A-Z_]+)+) (\w+)")
_SIZES = "INPUT.MIN_SIZE_TRAIN, INPUT.MIN_SIZE_TEST"


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


def fit_advice(advice: str, get: Callable[[str], Any]) -> str:
    """Fit an advice to a configuration: the keys of image sizes are those that hold there.

    Settings, "and write KEY VALUE", that have this value already are left out.

    Args:
        get: gives the value of a key; None where the configuration lacks it.

    >>> fit_advice("Add some and write TEST.PATIENCE 3.", {"TEST.PATIENCE": 3}.get)
    'Add some.'
    """
    if get("INPUT.STRETCH"):
        advice = advice.replace(_SIZES, "INPUT.STRETCH")
    elif get("INPUT.SCALE_JITTER"):
        advice = advice.replace(_SIZES, "INPUT.SCALE_JITTER_SIZE, INPUT.MIN_SIZE_TEST")
    return _SETTING.sub(lambda found: "" if str(get(found[1])) == found[2] else found[0], advice)
