"""Find which optional packages are missing, for readers with and without torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
"""The extra of pip that brings a runtime."""


def describe_missing(packages: Iterable[str], extra: str) -> str:
    """Say which packages are not installed, and how to install them; "" where all are.

    Args:
        extra: of pip, which brings them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"packages that are not installed ({', '.join(missing)}); run pip install "
        f"'resnext-det[{extra}]'"
    )
