"""Make a detector fast for tests, by a backend and a type that the user names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.config.detection import get_own
from resnext_det.data.coco import load_coco, register_files
from resnext_det.detection.datasets import build_test_resize, test_mapper
from resnext_det.runtimes.backends import read_dtype
from resnext_det.runtimes.optimize import optimize
from resnext_det.runtimes.quantization import IMAGES

CalibrationData = tuple[str | Path, str | Path] | None
"""A COCO file and its image folder, of which int8 takes images."""

_WIDE = (480, 640)  # the shape of most photographs


def check_optimization(
    cfg: CfgNode, backend: str | None, dtype: str | None, calibration_data: CalibrationData = None
) -> None:
    """Refuse, before any work, what ``optimize_detector`` cannot do with a detector.

    Raises:
        ValueError: the model takes proposals from files, or several images; "int8" stands without
            ``calibration_data``, or this without "int8".
    """
    if (dtype == "int8") != (calibration_data is not None):
        raise ValueError(
            "dtype int8 is calibrated on images like those to come; give --dtype int8 and "
            "--calibration-data ANNOTATIONS IMAGES together, or neither"
        )
    if backend is None and dtype is None:
        return
    given = f"backend {backend!r}" if backend is not None else f"dtype {dtype!r}"
    if (images := get_own(cfg, "TEST.IMS_PER_BATCH")) > 1:
        raise ValueError(
            f"{given} runs on one image at a time, and TEST.IMS_PER_BATCH = {images}; write 1, or "
            "leave the backend and the dtype out"
        )
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError(
            f"{given} is for whole detectors, and MODEL.LOAD_PROPOSALS = True takes proposals from "
            "files; leave the backend and the dtype out"
        )


def optimize_detector(
    cfg: CfgNode,
    model: nn.Module,
    backend: str | None,
    dtype: str | None,
    calibration_data: CalibrationData = None,
) -> nn.Module:
    """Optimize a detector of either engine, on an image of the size that it is tested with.

    Args:
        backend: see ``optimize``; None: "auto" with a ``dtype``, and else the model as it is.
        dtype: "float32", "bfloat16" or "int8"; None is float32.
        calibration_data: a COCO file and its image folder, on which "int8" is calibrated.

    Raises:
        ValueError, FileNotFoundError: see ``check_optimization``, ``optimize`` and ``load_coco``.
    """
    check_optimization(cfg, backend, dtype, calibration_data)
    if backend is None and dtype is None:
        return model
    size = _WIDE
    for step in build_test_resize(cfg).list_steps(*_WIDE):
        size = step.new_height, step.new_width
    generator = torch.Generator().manual_seed(0)
    shape = (len(cfg.MODEL.PIXEL_MEAN), *size)
    image = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    chosen = None if dtype is None else read_dtype(dtype)
    training = model.training
    samples = None
    if calibration_data is not None:
        samples = read_samples(cfg, *calibration_data)
    fast = optimize(
        model.eval(), backend or "auto", chosen, example=[{"image": image}], calibration=samples
    )
    model.train(training)
    return fast


def read_samples(
    cfg: CfgNode, annotations: str | Path, images: str | Path
) -> Iterator[dict[str, Any]]:
    """Read images of a set, evenly spaced in it, as a detector takes them in a test.

    Raises:
        ValueError, FileNotFoundError: see ``load_coco``.
    """
    records = load_coco(register_files(annotations, images)).records
    return map(test_mapper(cfg), records[:: -(-len(records) // IMAGES) or 1])
