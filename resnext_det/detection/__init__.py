"""Train, evaluate and use detectors; ``jobs`` gives a job to one of the two engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnext_det.detection.jobs import Job, Metrics, evaluate, propose, train

__all__ = ["Job", "Metrics", "evaluate", "propose", "train"]


def __getattr__(name: str) -> Any:
    # Imported when first used: the plugin's registration lies in this package and must stay light.
    if name not in __all__:
        raise AttributeError(f"resnext_det.detection has no {name!r}; it has {', '.join(__all__)}")
    from resnext_det.detection import jobs

    return getattr(jobs, name)
