"""A classifier and a set of images so small that a training takes seconds."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from resnext_det.classification.jobs import ClassificationJob, Pretrained, pretrain

CLASSES = ("dark", "middle", "light")
IMAGES = {"train": 8, "val": 3}  # of a class
BATCH = 6
EPOCH = 4  # 24 images in batches of 6

RESNETS = {
    **{
        "DEPTH": 26,
        "NUM_GROUPS": 2,
        "WIDTH_PER_GROUP": 4,
        "STEM_OUT_CHANNELS": 32,
        "RES2_OUT_CHANNELS": 32,
    },
    "NORM": "BN",
}
CONFIG: dict[str, Any] = {
    "MODEL": {"DEVICE": "cpu", "RESNETS": RESNETS},
    "INPUT": {
        "SIZE_TRAIN": 32,
        "SIZE_TEST": 32,
        "RESIZE_TEST": 36,
        "COLOR_JITTER": 0.4,
        "LIGHTING": 0.1,
    },
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {
        "EPOCHS": 3,
        "IMS_PER_BATCH": BATCH,
        "BASE_LR": 0.02,
        "STEPS": [2],
        "CHECKPOINTS_KEPT": 9,
    },
    "SEED": 5,
}


def write_images(root: Path, classes: Sequence[str] = CLASSES) -> Path:
    """``root/train`` and ``root/val``: noise around a brightness for each class, 40 x 48 pixels."""
    random = np.random.RandomState(7)
    for split, number in IMAGES.items():
        for k, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                image = (
                    (60 + 60 * k + random.normal(0, 30, (40, 48, 3))).clip(0, 255).astype(np.uint8)
                )
                cv2.imwrite(str(folder / f"{i}.png"), image)
    return root


def write_config(folder: Path, images: Path, **changes: dict[str, Any]) -> Path:
    """``tiny.yaml``; ``changes`` are nodes at the top whose keys replace or join those of ``CONFIG``."""
    nodes = {
        name: dict(value) if isinstance(value, dict) else value for name, value in CONFIG.items()
    }
    nodes["DATASETS"] = {"TRAIN": str(images / "train"), "TEST": str(images / "val")}
    for name, change in changes.items():
        nodes[name].update(change)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(nodes))
    return path


def run(config: Path, output_dir: Path, *overrides: object, **options: Any) -> Pretrained:
    """Train, within this process where there is one."""
    return pretrain(ClassificationJob(config, output_dir, tuple(map(str, overrides)), **options))


def run_killed(config: str, output_dir: str, overrides: tuple[str, ...], iteration: int) -> None:
    """Train, and die by SIGKILL right after an iteration and what follows it."""
    from resnext_det.training import metrics

    write = metrics.MetricsWriter.__call__

    def write_and_die(self: Any, step: Any) -> None:
        write(self, step)
        if step.iteration == iteration:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    metrics.MetricsWriter.__call__ = write_and_die  # type: ignore[method-assign]
    run(Path(config), Path(output_dir), *overrides)


def run_killed_in_test(
    config: str, output_dir: str, overrides: tuple[str, ...], count: int
) -> None:
    """Train, and die by SIGKILL at the beginning of a test, after so many others."""
    from resnext_det.classification import training

    evaluate, tests = training.evaluate_on, iter(range(count))

    def evaluate_or_die(*args: Any, **options: Any) -> Any:
        if next(tests, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluate(*args, **options)

    torch.set_num_threads(1)
    training.evaluate_on = evaluate_or_die
    run(Path(config), Path(output_dir), *overrides)
