"""Write whole detectors into files that run elsewhere, and run such files."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "optimize":  # imported on use, as exported detectors run without torch
        from resnext_det.runtimes.optimize import optimize

        return optimize
    raise AttributeError(f"module {__name__!r} has no {name!r}")
