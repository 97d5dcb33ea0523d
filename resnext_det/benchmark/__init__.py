"""Time this package in turns with other implementations whose outputs agree with its own.

``TrunkCase`` and ``DetectorCase`` say what is compared, in inference or training; ``LoadingCase``,
``EvaluationCase`` and ``StartupCase`` compare what happens around them. ``run_case`` gives a
``Comparison``, which is shown as text, JSON or bars. ``GpuTable`` is a table of many trunks on a
GPU within a budget of time.

Read timing, cases, comparison, trunks, engines, detectors; the other files stand beside these.
"""

from __future__ import annotations

import torch

from resnext_det.architecture import Architecture
from resnext_det.benchmark.cases import MODES
from resnext_det.benchmark.comparison import Comparison, run_case
from resnext_det.benchmark.detectors import DetectorCase
from resnext_det.benchmark.engines import DETECTORS, build_detectors
from resnext_det.benchmark.evaluation import EvaluationCase
from resnext_det.benchmark.loading import LoadingCase
from resnext_det.benchmark.presentation import format_timings
from resnext_det.benchmark.startup import PARTS as STARTUP_PARTS
from resnext_det.benchmark.startup import StartupCase
from resnext_det.benchmark.timing import Timing, take_turns
from resnext_det.benchmark.trunks import (
    FEATURES,
    TrunkCase,
    build_trunks,
    group_networks,
    list_peers,
)

__all__ = [
    "DETECTORS",
    "FEATURES",
    "MODES",
    "STARTUP_PARTS",
    "Comparison",
    "DetectorCase",
    "EvaluationCase",
    "LoadingCase",
    "StartupCase",
    "Timing",
    "TrunkCase",
    "build_detectors",
    "build_trunks",
    "format_timings",
    "group_networks",
    "list_peers",
    "run_case",
    "take_turns",
    "time_detectors",
    "time_loading",
    "time_trunks",
]


def time_trunks(
    architecture: Architecture,
    *,
    mode: str,
    batch: int,
    height: int,
    width: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    repeats: int = 7,
) -> list[Timing]:
    """Time the stem to res5 of every library that is installed, in float32 or ``dtype``.

    Args and errors: see ``TrunkCase`` and ``run_case``.
    """
    name = str(dtype).removeprefix("torch.")
    case = TrunkCase(
        [str(architecture)],
        mode,
        batch,
        height,
        width,
        device,
        dtypes=[name],
        peers=list_peers(mode, device),
    )
    return [timing for timing in run_case(case, repeats=repeats).timings if timing.dtype == name]


def time_detectors(
    architecture: Architecture,
    kind: str,
    *,
    mode: str,
    batch: int,
    height: int,
    width: int,
    device: torch.device,
    repeats: int = 7,
) -> list[Timing]:
    """Time a whole Faster R-CNN of every engine that is installed, in float32.

    Args and errors: see ``DetectorCase`` and ``run_case``.
    """
    case = DetectorCase([str(architecture)], mode, batch, height, width, device, kind=kind)
    return list(run_case(case, repeats=repeats).timings)


def time_loading(
    *, height: int = 375, width: int = 500, images: int = 100, repeats: int = 7
) -> list[Timing]:
    """Time making training images of a classifier; see ``LoadingCase``."""
    case = LoadingCase("classifier", height, width, images)
    return list(run_case(case, repeats=repeats).timings)
