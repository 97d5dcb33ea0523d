"""Keep OpenVINO and NNCF from reporting over the network that they are used."""

from __future__ import annotations

import sys
from typing import Any, cast


def switch_off_telemetry() -> None:
    """Hide the package ``openvino_telemetry``, which OpenVINO and NNCF report by.

    Both report to Google Analytics when imported, unless the package is missing or somebody has
    declined. Call this before importing them; where it was imported already, it stays.
    """
    cast(dict[str, Any], sys.modules).setdefault("openvino_telemetry", None)
