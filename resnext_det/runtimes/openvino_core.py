"""Start OpenVINO once in a process, and keep it and NNCF from reporting over the network."""

from __future__ import annotations

import functools
import sys
from typing import Any, cast


def switch_off_telemetry() -> None:
    """Hide the package ``openvino_telemetry``, which OpenVINO and NNCF report by.

    Both report to Google Analytics when imported, unless the package is missing or somebody has
    declined. Call this before importing them; where it was imported already, it stays.
    """
    cast(dict[str, Any], sys.modules).setdefault("openvino_telemetry", None)


@functools.cache
def get_core() -> Any:
    """Return the one ``openvino.Core`` of this process, which lives as long as the process.

    A core gives the thread a stack for signal handlers, and takes it away when it is freed. Of two
    cores the second to be freed puts back the stack of the first, whose memory is gone: the next
    signal that Python handles (Ctrl-C, or the end of a child) then kills the process. Seen with
    OpenVINO 2026.4.1.
    """
    switch_off_telemetry()
    import openvino

    return openvino.Core()
