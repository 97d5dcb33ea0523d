"""Notice whether other programs use the machine while something is timed on it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_BUSY = 0.1  # a part of a processor that a quiet machine's other programs stay under


class OthersWatch:
    """Measure how many processors other programs use, from now on.

    Args:
        stat: the system's count of the time of all processors (Linux).
    """

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._began, self._busy, self._own = time.monotonic(), self._read_busy(), _read_own()

    def measure(self) -> float | None:
        """Measure the processors that others used; None where the system does not tell."""
        busy, passed = self._read_busy(), time.monotonic() - self._began
        if busy is None or self._busy is None or passed <= 0:
            return None
        return max(0.0, (busy - self._busy - (_read_own() - self._own)) / passed)

    def describe(self) -> str:
        """Say whether the times may be trusted."""
        others = self.measure()
        if others is None:
            return "Whether other programs used the processors meanwhile is not known here."
        used = f"Other programs used {others:.2f} of {os.cpu_count()} processors meanwhile"
        if others <= _BUSY:
            return f"{used}: the machine was quiet."
        return f"{used}: these are no times for the record; ratios, turn by turn, suffer less."

    def _read_busy(self) -> float | None:
        """Read the seconds that all processors were busy; another guest's are busy too."""
        if sys.platform == "win32":
            return None
        try:
            words = self._stat.read_text().split("\n", 1)[0].split()
            user, nice, system, _, _, interrupts, soft, steal = map(int, words[1:9])
            return (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            return None


def _read_own() -> float:
    """Read the seconds that this process and the ended ones it started were busy."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
